package daemon

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/control"
	"mef/internal/lists"
)

// A listModel is what should become of packets, by the plainest means: it tries every entry.
type listModel struct {
	files map[string][]netip.Prefix // of allow/a.conf, allow/b.conf, deny/a.conf, deny/b.conf, and own.netset, the feed
	added map[netip.Prefix]bool     // by mefctl allow add
	bans  map[netip.Prefix]bool
}

func (m *listModel) in(addr netip.Addr, names ...string) bool {
	for _, name := range names {
		for _, p := range m.files[name] {
			if p.Contains(addr) {
				return true
			}
		}
	}
	return false
}

func (m *listModel) allows(addr netip.Addr) bool {
	for p := range m.added {
		if p.Contains(addr) {
			return true
		}
	}
	return m.in(addr, "allow/a.conf", "allow/b.conf")
}

// verdict returns what becomes of packets of an address.
func (m *listModel) verdict(addr netip.Addr) string {
	if m.allows(addr) {
		return "allowed"
	}
	if m.in(addr, "deny/a.conf", "deny/b.conf", "own.netset") {
		return "dropped"
	}
	for p := range m.bans {
		if p.Contains(addr) {
			return "dropped"
		}
	}
	return "passes"
}

// settle ends the bans all of whose addresses are allowed: they do not come back. Every network of the test is in the universe, of which
// a network has no address that is not in all.
func (m *listModel) settle(all []netip.Addr) {
	for p := range m.bans {
		allowed := true
		for _, a := range all {
			allowed = allowed && (!p.Contains(a) || m.allows(a))
		}
		if allowed {
			delete(m.bans, p)
		}
	}
}

// inKernel returns what the packet filter does with packets of an address.
func (h *house) inKernel(addr netip.Addr) string {
	state, err := h.filter.Held(h.Context())
	if err != nil {
		return err.Error()
	}
	if state.Allow.Contains(addr) {
		return "allowed"
	}
	if h.filter.List(lists.BlockList).Contains(addr) || h.filter.List("own").Contains(addr) {
		return "dropped"
	}
	for _, b := range state.Bans {
		if b.Prefix.Contains(addr) && (b.Until.IsZero() || b.Until.After(time.Now())) {
			return "dropped"
		}
	}
	return "passes"
}

// TestListsAgreeWithAModel edits files, updates a feed, bans, allows, and lets entries and bans end, over nested networks of both families. After
// each step the packet filter agrees with the model about every address.
func TestListsAgreeWithAModel(t *testing.T) {
	h := settle(t, "[feed own]\nurl=file://HERE/own.netset\n", map[string]string{"own.netset": "45.255.0.1\n"})
	var all []netip.Addr
	for i := range 32 { // all of 45.7.0.0/27 and of 2a00:7::/123
		all = append(all, netip.AddrFrom4([4]byte{45, 7, 0, byte(i)}), netip.AddrFrom16([16]byte{0: 0x2a, 3: 7, 15: byte(i)}))
	}
	r := rand.New(rand.NewPCG(7, 8))
	entry := func() netip.Prefix {
		a := all[r.IntN(len(all))]
		return netip.PrefixFrom(a, a.BitLen()-r.IntN(6)).Masked()
	}
	m := &listModel{files: map[string][]netip.Prefix{"own.netset": {netip.MustParsePrefix("45.255.0.1/32")}}, added: map[netip.Prefix]bool{}, bans: map[netip.Prefix]bool{}}
	agree := func(step string) {
		t.Helper()
		m.settle(all)
		var differ string
		for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
			differ = ""
			for _, a := range all {
				if got, want := h.inKernel(a), m.verdict(a); got != want {
					differ = fmt.Sprintf("%s %s, want %s", a, got, want)
					break
				}
			}
			if differ == "" {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%s: %s; model %+v", step, differ, m)
			}
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	did := map[string]int{}
	for step := range 120 {
		what := []string{"allow/a.conf", "allow/b.conf", "deny/a.conf", "deny/b.conf", "own.netset", "own.netset", "ban", "ban", "ban", "clear", "allow", "disallow", "end"}[r.IntN(13)]
		p := entry()
		switch what {
		case "ban":
			if _, err := h.Ban(t.Context(), control.BanRequest{Prefix: p.String()}); err == nil {
				m.bans[p] = true
			} else if !strings.Contains(err.Error(), "allow") {
				t.Fatal(err)
			}
		case "clear":
			_, err := h.ClearBans(t.Context(), "alice")
			must(err)
			clear(m.bans)
		case "allow":
			_, err := h.Allow(t.Context(), control.AllowRequest{Entry: p.String()})
			must(err)
			m.added[p] = true
		case "disallow":
			for p := range m.added {
				_, err := h.Disallow(t.Context(), control.AllowRequest{Entry: p.String()})
				must(err)
				delete(m.added, p)
			}
		case "end":
			if did[what] == 6 {
				continue // each takes a second
			}
			until := time.Second
			_, err := h.Allow(t.Context(), control.AllowRequest{Entry: p.String(), For: until})
			must(err)
			there := m.added[p]
			m.added[p] = true
			m.settle(all)
			if delete(m.added, p); there {
				_, _ = h.Disallow(t.Context(), control.AllowRequest{Entry: p.String()}) // it had no end before
			}
			if q := entry(); !m.bans[q] {
				_, _ = h.Ban(t.Context(), control.BanRequest{Prefix: q.String(), For: until}) // refused if it is allowed
			}
		default:
			m.files[what] = nil
			var text strings.Builder
			for range 1 + r.IntN(4) {
				p := entry()
				m.files[what] = append(m.files[what], p)
				fmt.Fprintln(&text, ban.Key{Prefix: p})
			}
			h.write(what, text.String())
			if what == "own.netset" {
				_, err := h.ChangeFeed(t.Context(), control.FeedRequest{Name: "own", Do: control.UpdateFeed})
				must(err)
			}
		}
		did[what]++
		agree(fmt.Sprintf("step %d, %s %s", step, what, p))
	}
	t.Logf("steps: %v", did)
}
