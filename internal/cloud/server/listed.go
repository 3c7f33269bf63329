package server

import (
	"encoding/json"
	"iter"
	"net/http"
	"net/netip"
	"time"

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
