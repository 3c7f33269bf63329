//go:build linux

package bantest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mef/internal/ban"
	"mef/internal/enforce"
	"mef/internal/enforce/enforcetest"
	"mef/internal/netnstest"
	"mef/internal/prefixset"
)

// A prober sends a datagram from one address to one port of the server and reports whether it is answered.
type prober struct {
	from netip.Addr
	port uint16
	conn net.Conn
}

// RandomBansAgreeWithAModel makes random bans, extensions, widenings, unbans, allow lists and edits of long lists over nested prefixes of
// both families, classes and ports, lets bans end meanwhile, and after each step tests with real packets which addresses can connect.
func (f Filter) RandomBansAgreeWithAModel(t *testing.T) {
	if f.Slow {
		t.Skip("it would take too long")
	}
	server, peer := netnstest.New(t), netnstest.New(t)
	b := f.open(t, server)
	netnstest.Join(t, server, peer, "192.0.2.1/16 2001:db8::1/32",
		"192.0.2.7/16 192.0.2.8/16 192.0.2.201/16 192.0.3.7/16 192.0.9.9/16 2001:db8:a::7/32 2001:db8:a::8/32 2001:db8:a:1::7/32 2001:db8:b::7/32")
	allowed := prefixset.New(netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::1/128"))
	e := enforcetest.Start(t, b, enforce.Options{Allow: allowed})
	ports := []uint16{53, 123, 40_000}
	for _, port := range ports {
		server.Echo(t, "udp4", fmt.Sprintf("192.0.2.1:%d", port))
		server.Echo(t, "udp6", fmt.Sprintf("[2001:db8::1]:%d", port))
	}
	var probers []prober
	for _, from := range []string{"192.0.2.7", "192.0.2.8", "192.0.2.201", "192.0.3.7", "2001:db8:a::7", "2001:db8:a::8", "2001:db8:a:1::7", "2001:db8:b::7"} {
		for _, port := range ports {
			probers = append(probers, newProber(t, peer, from, port))
		}
	}
	control := newProber(t, peer, "192.0.9.9", 53) // never banned
	r := rand.New(rand.NewPCG(3, 4))
	m := model{bans: map[ban.Key]end{}, allowed: allowed, late: f.Late}
	did := map[string]int{}
	for step := range 250 {
		what, k := m.step(t, e, r, probers)
		did[what]++
		before := time.Now()
		got := heard(t, fmt.Sprintf("step %d", step), probers, control, func(p prober) bool {
			sure, passes := m.passes(p, before, before)
			return sure && passes
		})
		after := time.Now()
		want := map[string]bool{}
		for _, p := range probers {
			sure, passes := m.passes(p, before, after)
			if !sure {
				passes = got[p.String()]
			}
			want[p.String()] = passes
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("step %d, %s %s: who is answered (-model +kernel):\n%s", step, what, k, diff)
		}
		did["end"] += m.prune()
	}
	t.Logf("steps: %v", did)
	for _, what := range []string{"ban", "extend", "widen", "unban", "allow", "list", "end"} {
		if did[what] < 5 {
			t.Errorf("%d steps of the kind %q, too few to show anything", did[what], what)
		}
	}
}

// A model is the expected state: the end of each ban, and the allowed addresses.
type model struct {
	bans    map[ban.Key]end
	allowed prefixset.Set
	lists   []enforce.List
	late    time.Duration // see Filter
}

// An end is the end of a ban: the requested time, or later by the time it took to write the ban, because the time left is rounded up
// to a second and counts from the write.
type end struct{ asked, late time.Time }

// step makes a random change in the kernel and in the model, and returns its description.
func (m *model) step(t *testing.T, e *enforce.Enforcer, r *rand.Rand, probers []prober) (what string, k ban.Key) {
	t.Helper()
	k = randomKey(r, probers)
	held := slices.SortedFunc(maps.Keys(m.bans), ban.Key.Compare)
	what = []string{"ban", "ban", "ban", "ban", "extend", "widen", "unban", "allow", "list", "list"}[r.IntN(10)]
	if len(held) == 0 {
		what = "ban"
	} else if what != "ban" && what != "allow" && what != "list" {
		k = held[r.IntN(len(held))]
	}
	switch what {
	case "allow":
		m.allowed = prefixset.New(k.Prefix)
		if err := e.Allow(t.Context(), m.allowed); err != nil {
			t.Fatal(err)
		}
	case "list":
		m.editList(r, probers)
		if err := e.SetLists(t.Context(), m.lists); err != nil {
			t.Fatal(err)
		}
	case "unban":
		// Another that is banned, and one that may not be.
		keys := []ban.Key{k, held[r.IntN(len(held))], randomKey(r, probers)}
		if err := e.Unban(t.Context(), 0, keys...); err != nil {
			t.Fatal(err)
		}
		maps.DeleteFunc(m.bans, func(k ban.Key, _ end) bool { return slices.Contains(keys, k) })
	case "widen":
		k.Prefix = wider(k.Prefix)
		fallthrough
	default:
		began := time.Now()
		b := ban.Ban{Key: k, Rule: "test", Until: began.Add(time.Second + time.Duration(r.IntN(1_000))*time.Millisecond)}
		enforcetest.Bans(t, e, b)
		if b.Until.After(m.bans[k].asked) { // otherwise it already ends later
			m.bans[k] = end{b.Until, b.Until.Add(time.Since(began) + m.late)}
		}
	}
	return what, k
}

// editList makes a new list, changes one or removes one. They overlap, and several have the same addresses.
func (m *model) editList(r *rand.Rand, probers []prober) {
	name := []string{"one", "two", "three"}[r.IntN(3)]
	l := enforce.List{Name: name, Both: r.IntN(3) == 0, Ports: []ban.Ports{"", "", "53", "100-200", "40000"}[r.IntN(5)]}
	m.lists = slices.DeleteFunc(slices.Clone(m.lists), func(old enforce.List) bool { return old.Name == name })
	var entries prefixset.Packer
	for range r.IntN(4) {
		entries.Add(randomKey(r, probers).Prefix)
	}
	if l.Addrs = entries.Pack(); l.Addrs.Len() > 0 {
		m.lists = append(m.lists, l)
	}
}

// listDrops reports whether a list drops datagrams of a prober.
func listDrops(l enforce.List, p prober) bool {
	return l.Addrs.Contains(p.from) && l.Ports.Covers(ban.Ports(fmt.Sprint(p.port))) && (l.Both || p.port < 32768)
}

// wider returns the network that a ban is widened to.
func wider(p netip.Prefix) netip.Prefix {
	for _, bits := range []int{64, 56, 48, 24} {
		if bits < p.Bits() && (bits > 32) == p.Addr().Is6() {
			return netip.PrefixFrom(p.Addr(), bits).Masked()
		}
	}
	return p
}

// slack is the time before and after the end of a ban in which it is not tested.
const slack = 100 * time.Millisecond

// passes reports whether a prober should be answered: an allowed address is, a banned one is not. sure is false while a ban ends.
func (m *model) passes(p prober, before, after time.Time) (sure, passes bool) {
	if m.allowed.Contains(p.from) {
		return true, true
	}
	if slices.ContainsFunc(m.lists, func(l enforce.List) bool { return listDrops(l, p) }) {
		return true, false
	}
	sure, passes = true, true
	for k, until := range m.bans {
		switch {
		case !k.Prefix.Contains(p.from) || !dropsAt(k, p.port) || until.late.Before(before.Add(-slack)):
		case until.asked.Before(after.Add(slack)):
			sure = false
		default:
			return true, false
		}
	}
	return sure, passes
}

// dropsAt reports whether a ban drops datagrams to the port. Only verified bans drop those that may be answers to this host.
func dropsAt(k ban.Key, port uint16) bool {
	if k.Class == ban.Verified || port < 32768 {
		return k.Ports.Covers(ban.Ports(fmt.Sprint(port)))
	}
	return slices.Contains(strings.Split(string(k.Ports), ","), fmt.Sprint(port))
}

// prune forgets bans that are over, and returns how many.
func (m *model) prune() (n int) {
	before := len(m.bans)
	maps.DeleteFunc(m.bans, func(_ ban.Key, until end) bool { return time.Since(until.late) > slack })
	return before - len(m.bans)
}

func newProber(t *testing.T, ns *netnstest.NS, from string, port uint16) prober {
	t.Helper()
	p := prober{from: netip.MustParseAddr(from), port: port}
	to := netip.MustParseAddr("192.0.2.1")
	if p.from.Is6() {
		to = netip.MustParseAddr("2001:db8::1")
	}
	var err error
	if p.conn, err = ns.Dial("udp", from, netip.AddrPortFrom(to, port).String(), netnstest.Patience); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.conn.Close() })
	if err := netnstest.Poll(func() error { return netnstest.Say(p.conn, netnstest.Silence) }); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p prober) String() string { return netip.AddrPortFrom(p.from, p.port).String() }

// heard sends a word from all probers and then, once, from the control. Packets overtake each other by microseconds at most:
// a prober that should not be answered, and has not been a few milliseconds after the control, will not be.
func heard(t *testing.T, word string, probers []prober, control prober, expected func(prober) bool) map[string]bool {
	t.Helper()
	for _, p := range probers {
		p.conn.SetDeadline(time.Time{})
		if _, err := p.conn.Write([]byte(word)); err != nil {
			t.Fatal(err)
		}
	}
	if err := netnstest.Say(control.conn, netnstest.Patience); err != nil {
		t.Fatalf("the control: %v", err)
	}
	out := map[string]bool{}
	soon, late := time.Now().Add(20*time.Millisecond), time.Now().Add(netnstest.Patience)
	for _, p := range probers {
		end := soon
		if expected(p) {
			end = late
		}
		out[p.String()] = p.hears(word, end)
	}
	return out
}

// hears reports whether the word comes back until then, or is there already. Others may be late answers to earlier ones.
func (p prober) hears(word string, until time.Time) bool {
	buf := make([]byte, 100)
	for {
		deadline := until
		if least := time.Now().Add(time.Millisecond); least.After(until) {
			deadline = least // one that is over would hide what has arrived
		}
		p.conn.SetReadDeadline(deadline)
		n, err := p.conn.Read(buf)
		if err != nil || string(buf[:n]) == word {
			return err == nil
		}
	}
}

func randomKey(r *rand.Rand, probers []prober) ban.Key {
	from := probers[r.IntN(len(probers))].from
	bits := []int{32, 32, 31, 25, 24, 23}[r.IntN(6)]
	if from.Is6() {
		bits = []int{128, 64, 64, 63, 56, 48, 47}[r.IntN(7)]
	}
	return ban.Key{
		Prefix: netip.PrefixFrom(from, bits).Masked(),
		Ports:  []ban.Ports{"", "", "", "", "53", "100-200", "22,53,123", "1-21,23-65535", "40000"}[r.IntN(9)],
		Class:  []ban.Class{ban.Verified, ban.Unverified}[r.IntN(2)],
	}
}
