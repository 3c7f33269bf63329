package server

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"

	"mef/internal/cloud/reputation"
	"mef/internal/cloud/wire"
	"mef/internal/prefixset"
)

// A Never is a network that the operator never lists.
type Never struct {
	Prefix netip.Prefix `json:"prefix"`
	Note   string       `json:"note,omitempty"`
	Since  time.Time    `json:"since,omitzero"`
}

// A neverChange adds such a network or removes it.
type neverChange struct {
	Never
	Remove bool `json:"remove,omitempty"`
}

const (
	maxNote     = 200 // bytes
	shortest4   = 8   // bits of a network: a shorter one is a mistake
	shortest6   = 16
	listedBits6 = 64 // IPv6 is listed by such networks
)

var errNeverFull = fmt.Errorf("there are %d networks already; remove some, or add wider ones", wire.MaxNever)

// parseNever returns the network that a text names, as it is kept: of IPv6 at least the /64 of which an address would be listed.
func parseNever(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		addr, err := netip.ParseAddr(text)
		if err != nil || addr.Zone() != "" {
			return p, errors.New("this is neither an address nor a network; write it like 192.0.2.7 or 2001:db8::/48")
		}
		p = netip.PrefixFrom(addr, addr.BitLen())
	}
	if p = prefixset.Normalize(p); p.Addr().Is4() && p.Bits() < shortest4 || p.Addr().Is6() && p.Bits() < shortest6 {
		return p, fmt.Errorf("%s is too wide; a network has at least %d bits, of IPv6 %d", p, shortest4, shortest6)
	}
	return widened(p), nil
}

func widened(p netip.Prefix) netip.Prefix {
	if p.Addr().Is6() && p.Bits() > listedBits6 {
		p, _ = p.Addr().Prefix(listedBits6)
	}
	return p
}

// changeNever makes a decision of the operator part of the state.
func (s *state) changeNever(in *neverChange, now time.Time) error {
	at := slices.IndexFunc(s.nevers, func(n Never) bool { return n.Prefix == in.Prefix })
	switch {
	case in.Remove && at < 0:
		return fmt.Errorf("%s is not in the list; see mefcloud never list", in.Prefix)
	case in.Remove:
		s.nevers = slices.Delete(s.nevers, at, at+1)
	case at >= 0:
		s.nevers[at].Note = in.Note
	case len(s.nevers) >= wire.MaxNever:
		return errNeverFull
	default:
		in.Since = now
		s.nevers = append(s.nevers, in.Never)
		slices.SortFunc(s.nevers, func(a, b Never) int { return a.Prefix.Compare(b.Prefix) })
	}
	s.setNevers()
	s.book.Recheck(in.Prefix)
	for _, l := range s.lists { // hosts get it with each list
		l.seq = s.seq
	}
	return nil
}

// setNevers makes the set of the networks in s.nevers.
func (s *state) setNevers() {
	var all []netip.Prefix
	for _, n := range s.nevers {
		all = append(all, n.Prefix)
	}
	s.neverSet = prefixset.New(all...)
}

// neverListed reports whether an address is never listed, by decision of the operator or in general.
func (s *state) neverListed(a netip.Addr) bool { return s.neverSet.Contains(a) || s.general(a) }

// neverShared reports whether own hosts must not share the ban of a network.
func (s *state) neverShared(e *wire.FleetEvent) error {
	if e.Kind == wire.FleetBan && s.neverSet.Overlaps(e.Prefix) {
		return reputation.ErrNever
	}
	return nil
}

// neverRoutes answers mefcloud never.
func (s *Server) neverRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET /never", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		all := append([]Never{}, s.state.nevers...)
		s.mu.Unlock()
		answer(w, http.StatusOK, all)
	})
	change := func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		p, err := parseNever(q.Get("prefix"))
		note := q.Get("note")
		if err == nil && (len(note) > maxNote || strings.ContainsFunc(note, func(r rune) bool { return !unicode.IsPrint(r) })) {
			err = fmt.Errorf("a note is one line of at most %d bytes", maxNote)
		}
		if err != nil {
			wire.WriteProblem(w, http.StatusBadRequest, err.Error())
			return
		}
		out, err := s.do(r.Context(), entry{Never: &neverChange{Never{Prefix: p, Note: note}, r.Method == http.MethodDelete}})
		if !s.failed(w, out, err) {
			answer(w, http.StatusOK, Never{Prefix: p, Note: note})
		}
	}
	mux.HandleFunc("POST /never", change)
	mux.HandleFunc("DELETE /never", change)
}
