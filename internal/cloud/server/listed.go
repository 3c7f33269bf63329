package server

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"mef/internal/cloud/page"
	"mef/internal/cloud/reputation"
	"mef/internal/cloud/wire"
	"mef/internal/cloud/zone"
)

// refreshEvery is how often the scores of all listings are computed again: they fall with time.
const refreshEvery = 6 * time.Hour

// loadIndex fills the index, from which strangers are answered, with what is listed.
func (s *Server) loadIndex() {
	s.index.Load(func(yield func(netip.Addr, zone.Info) bool) {
		s.state.book.Each(reputation.Public, func(p netip.Prefix, _ uint16) {
			yield(p.Addr(), zone.Of(s.state.book.Verdict(p.Addr())))
		})
	})
	s.index.SetSerial(uint32(s.state.seq))
}

// updateIndex has the index follow a change of the state. s.mu is held.
func (s *Server) updateIndex(changed []netip.Addr) {
	for _, addr := range changed {
		s.index.Set(reputation.Key(addr).Addr(), zone.Of(s.state.book.Verdict(addr)))
	}
	if len(changed) > 0 {
		s.index.SetSerial(uint32(s.state.seq))
	}
}

// refreshIndex computes all scores again. Requests are answered in between.
func (s *Server) refreshIndex() {
	next, stop := iter.Pull2(s.index.All())
	defer stop()
	for more := true; more; {
		s.mu.Lock()
		for range 1000 {
			addr, _, ok := next()
			if more = ok; !ok {
				break
			}
			s.index.Set(addr, zone.Of(s.state.book.Verdict(addr)))
		}
		s.mu.Unlock()
	}
}

// categories returns the names of categories.
func categories(bits uint16) (names []string) {
	for i, c := range wire.Categories {
		if bits&(1<<i) != 0 {
			names = append(names, c)
		}
	}
	return names
}

// getPrefix answers with all listed addresses of a /16 of IPv4, or a /32 of IPv6: whoever asks does not show which one is of interest.
func (s *Server) getPrefix(w http.ResponseWriter, r *http.Request) {
	of, ok := wire.ParsePrefix(r.PathValue("prefix"))
	if !ok {
		wire.WriteProblem(w, http.StatusBadRequest, "this is not a prefix; write a /16 of IPv4 like 192.0, or a /32 of IPv6 like 2001:db8")
		return
	}
	out := wire.PrefixList{Prefix: of, Addresses: []netip.Addr{}}
	for addr := range s.index.Prefix(of.Addr()) {
		if len(out.Addresses) >= wire.MaxPrefix {
			break
		}
		out.Addresses = append(out.Addresses, addr)
	}
	text, err := json.Marshal(out)
	if err != nil {
		wire.WriteProblem(w, http.StatusInternalServerError, "")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "max-age=60")
	_, _ = w.Write(text)
}

// reporters returns a number of reporters as a range.
func reporters(n int) string {
	switch {
	case n > 20:
		return "more than 20"
	case n > 5:
		return "6 to 20"
	case n > 2:
		return "3 to 5"
	}
	return "fewer than 3"
}

// forPrograms reports whether a request is one of programs, which are answered by JSON and problem documents.
func forPrograms(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/v1/") }

func (s *Server) message(w http.ResponseWriter, status int, title, text string) {
	page.WriteMessage(w, status, page.Message{Server: s.opt.Name, Title: title, Text: text})
}

// An overview is that of the first page, for a minute: to count a long list takes a while.
type overview struct {
	mu    sync.Mutex
	until time.Time
	page  page.Overview
}

const (
	overviewTime = time.Minute
	mostNetworks = 10 // that are shown
	shownDays    = 14
)

// getOverview answers with the first page, or leads from its form to the page about an address.
func (s *Server) getOverview(w http.ResponseWriter, r *http.Request) {
	if asked := strings.TrimSpace(r.URL.Query().Get("addr")); asked != "" {
		if addr, err := netip.ParseAddr(asked); err == nil && addr.Zone() == "" {
			http.Redirect(w, r, "/ip/"+addr.Unmap().String(), http.StatusSeeOther)
			return
		}
		s.message(w, http.StatusBadRequest, "This is not an address", fmt.Sprintf("%q is not an address; write it like 192.0.2.7 or 2001:db8::7.", asked[:min(len(asked), 60)]))
		return
	}
	o := &s.overview
	o.mu.Lock()
	if now := s.opt.Now(); !now.Before(o.until) {
		o.page, o.until = s.count(now), now.Add(overviewTime)
	}
	p := o.page
	o.mu.Unlock()
	p.You = peer(r)
	p.Listed = s.index.Get(p.You) != 0
	page.WriteOverview(w, p)
}

// count returns what the first page shows of the list.
func (s *Server) count(now time.Time) page.Overview {
	p := page.Overview{Server: s.opt.Name, Size: s.index.Len()}
	networks, kinds := make(map[netip.Prefix]int), make([]int, len(wire.Categories))
	for addr, info := range s.index.All() {
		networks[wire.Wide(addr)]++
		for i := range kinds {
			if info.Categories()&(1<<i) != 0 {
				kinds[i]++
			}
		}
	}
	for network, n := range networks {
		p.Networks = append(p.Networks, page.Count{Name: network.String(), N: n})
	}
	for i, n := range kinds {
		if n > 0 {
			p.Categories = append(p.Categories, page.Count{Name: wire.Categories[i], N: n})
		}
	}
	for _, counts := range [][]page.Count{p.Networks, p.Categories} {
		slices.SortFunc(counts, func(a, b page.Count) int { return cmp.Or(cmp.Compare(b.N, a.N), strings.Compare(a.Name, b.Name)) })
	}
	p.Networks = p.Networks[:min(len(p.Networks), mostNetworks)]
	today := now.Unix() / (24 * 3600)
	s.mu.Lock()
	defer s.mu.Unlock()
	for day := today - shownDays + 1; day <= today; day++ {
		p.Days = append(p.Days, page.Day{Day: time.Unix(day*24*3600, 0).UTC(), Reports: s.state.days[day]})
	}
	return p
}

// getAddress answers with the page about an address.
func (s *Server) getAddress(w http.ResponseWriter, r *http.Request) {
	addr, err := netip.ParseAddr(r.PathValue("ip"))
	if err != nil || addr.Zone() != "" {
		s.message(w, http.StatusBadRequest, "This is not an address", "Write it like 192.0.2.7 or 2001:db8::7.")
		return
	}
	addr = addr.Unmap()
	s.mu.Lock()
	v := s.state.book.Verdict(addr)
	s.mu.Unlock()
	p := page.Address{Server: s.opt.Name, Addr: addr, Yours: reputation.Key(peer(r)) == reputation.Key(addr), Listed: v.Listed, Contested: v.Contested}
	if v.Listed { // of others, the rest could show who has reported
		p.Categories, p.Score, p.Since, p.Until, p.Reporters = categories(v.Categories), v.Score, v.Since.Time(), v.Until.Time(), reporters(v.Reporters)
	}
	page.WriteAddress(w, p)
}

// postAppealForm removes the address of the client.
func (s *Server) postAppealForm(w http.ResponseWriter, r *http.Request) {
	addr := peer(r)
	out, err := s.appeal(r.Context(), addr)
	switch {
	case err != nil:
		s.opt.Log.Error("an appeal was not stored", "err", err)
		s.message(w, http.StatusServiceUnavailable, "The server cannot store anything now", "Try again later.")
	case out.err != nil:
		s.message(w, http.StatusConflict, addr.String()+" was not removed", out.err.Error()+".")
	default:
		s.message(w, http.StatusOK, addr.String()+" was removed", "Hosts that use the list no longer have it within a minute, those that ask by DNS within five.")
	}
}

// appeal removes an address for whoever uses it. Nothing is written to the log for an address that is not listed.
func (s *Server) appeal(ctx context.Context, addr netip.Addr) (outcome, error) {
	s.mu.Lock()
	listed := s.state.book.Verdict(addr).Listed
	s.mu.Unlock()
	if !listed {
		return outcome{err: fmt.Errorf("%s: %w", addr, reputation.ErrUnlisted)}, nil
	}
	return s.do(ctx, entry{Appeal: &addr})
}
