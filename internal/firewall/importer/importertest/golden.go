package importertest

import (
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mef/internal/firewall/importer"
	"mef/internal/firewall/policy"
	"mef/internal/firewall/policytest"
)

// Golden translates a ruleset, compares what comes out with the files mef.rules and left of a directory, and follows packets through
// the ruleset and the policy. With update it writes the files instead.
func Golden(t *testing.T, dir string, rs *importer.Ruleset, update bool) {
	t.Helper()
	res := importer.Translate(rs, "a test")
	var left strings.Builder
	for _, l := range res.Left {
		left.WriteString(l.String() + "\n")
	}
	for _, n := range res.Notes {
		left.WriteString("note: " + n + "\n")
	}
	Same(t, filepath.Join(dir, "mef.rules"), res.Text, update)
	Same(t, filepath.Join(dir, "left"), left.String(), update)
	const packets = 20_000
	if sure := Check(t, rs, packets); sure < packets/10 {
		t.Errorf("only %d of %d packets tell anything", sure, packets)
	}
}

// Check translates a ruleset, sees that a policy in its canonical form comes out, and follows packets through both. It returns how many
// of them met nothing that is left out.
func Check(t *testing.T, rs *importer.Ruleset, packets int) (sure int) {
	t.Helper()
	text := importer.Translate(rs, "a test").Text
	pol := parse(t, text)
	if canonical, err := policy.Format("mef.rules", []byte(text)); err != nil || string(canonical) != text {
		t.Errorf("not in canonical form: %v, want\n%s", err, canonical)
	}
	r := rand.New(rand.NewPCG(5, 6))
	m := material(rs)
	for range packets {
		p := m.packet(r)
		want := Follow(rs, p)
		if !want.Sure {
			continue
		}
		sure++
		if got := pol.Decide(p); got.Action != want.Action {
			t.Fatalf("%s %s: %s, want %s\n%s", p.Dir, p, got, want.Action, text)
		}
	}
	return sure
}

func parse(t *testing.T, text string) *policy.Policy {
	t.Helper()
	src, err := policy.Parse("mef.rules", []byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return src.Policy(policy.Facts{})
}

// Same compares a text with what a file holds, or writes it there.
func Same(t *testing.T, path, text string, update bool) {
	t.Helper()
	if update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) {
		t.Errorf("%s:\n%s\nwant\n%s", path, text, want)
	}
}

// stuff is what packets are made of.
type stuff struct {
	v4, v6 []netip.Addr
	ports  []uint16
	links  []string
}

// material returns what the rules of a ruleset name, and what is next to it.
func material(rs *importer.Ruleset) *stuff {
	s := &stuff{v4: []netip.Addr{netip.MustParseAddr("192.0.2.77")}, v6: []netip.Addr{netip.MustParseAddr("2001:db8::77")}, ports: []uint16{40000}, links: []string{"eth5", policy.Loopback}}
	seen := map[*importer.Chain]bool{}
	for _, c := range rs.Bases {
		s.gather(c, seen)
	}
	return s
}

func (s *stuff) gather(c *importer.Chain, seen map[*importer.Chain]bool) {
	if c == nil || seen[c] {
		return
	}
	seen[c] = true
	for _, r := range c.Rules {
		for _, m := range slices.Concat(r.Any, r.Not) {
			s.addrs(m.Src)
			s.addrs(m.Dst)
			for _, p := range slices.Concat(m.Sport.In, m.Dport.In) {
				s.ports = append(s.ports, p.First, p.Last, p.First-1, p.Last+1)
			}
			for _, l := range []policy.Links{m.In, m.Out} {
				names, _, _ := l.Names()
				for _, name := range names {
					s.link(name)
				}
			}
		}
		s.gather(r.Target, seen)
	}
	s.ports = slices.DeleteFunc(s.ports, func(n uint16) bool { return n == 0 })
}

// link adds an interface, or two that fit a pattern, if a policy can name it.
func (s *stuff) link(name string) {
	if !nameable(name) {
		return
	}
	s.links = append(s.links, strings.TrimSuffix(name, "*"))
	if policy.IsPattern(name) {
		s.links = append(s.links, strings.Replace(name, "*", "0", 1))
	}
}

// nameable reports whether a policy can name an interface.
func nameable(link string) bool {
	_, err := policy.Parse("mef.rules", []byte("policy dir=in action=drop\nrule dir=in action=accept proto=all iif="+link+"\n"))
	return err == nil
}

func (s *stuff) addrs(a policy.Addrs) {
	for _, r := range a.In.Ranges() {
		for _, addr := range []netip.Addr{r.First, r.Last, r.First.Prev(), r.Last.Next()} {
			switch {
			case addr.Is4():
				s.v4 = append(s.v4, addr)
			case addr.Is6():
				s.v6 = append(s.v6, addr)
			}
		}
	}
}

// packet returns a packet. Those that a policy cannot speak of are not among them: other protocols, and ports of number 0.
func (s *stuff) packet(r *rand.Rand) policy.Packet {
	p := policy.Packet{Dir: pick(r, policy.Dirs[:]), Proto: pick(r, policy.Protos{6, 6, 17, 17, 1, 58, 2}), State: 1 << r.IntN(5), Src: pick(r, s.v4), Dst: pick(r, s.v4)}
	if p.Proto == 58 || p.Proto != 1 && r.IntN(3) == 0 {
		p.Src, p.Dst = pick(r, s.v6), pick(r, s.v6)
	}
	switch p.Proto {
	case policy.ICMP:
		p.Type = pick(r, []uint8{0, 3, 8, 11, 12, 13})
	case policy.ICMP6:
		p.Type = pick(r, []uint8{1, 2, 3, 128, 129, 133, 134, 135, 136})
	}
	if p.Proto == 6 || p.Proto == 17 {
		p.Sport, p.Dport = pick(r, s.ports), pick(r, s.ports)
	}
	if p.Dir != policy.Out {
		p.In = pick(r, s.links)
	}
	if p.Dir != policy.In {
		p.Out = pick(r, s.links)
	}
	if p.Dir == policy.Forward && (p.In == policy.Loopback || p.Out == policy.Loopback) {
		p.In, p.Out = "eth5", "eth5"
	}
	return p
}

// Agree follows packets through what a ruleset is meant to be, and through the policy that became of what was read of it.
func Agree(t *testing.T, r *rand.Rand, meant, read *importer.Ruleset, text string) {
	t.Helper()
	res := importer.Translate(read, "a test")
	pol := parse(t, res.Text)
	for _, l := range res.Left {
		if l.Matters() {
			t.Fatalf("left out: %s\n%s", l, text)
		}
	}
	for range 300 {
		p := policytest.Packet(r)
		if p.Dir == policy.Forward && (p.In == policy.Loopback || p.Out == policy.Loopback) {
			continue // there are none
		}
		want := Follow(meant, p)
		if got := pol.Decide(p); got.Action != want.Action {
			t.Fatalf("%s %s: %s, want %s\n%s\nbecame\n%s", p.Dir, p, got, want.Action, text, res.Text)
		}
	}
}
