package policy_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"mef/internal/firewall/policy"
	"mef/internal/firewall/policytest"
)

// TestModelEqualsSimulator compares what is said of many packets at once with what becomes of each.
func TestModelEqualsSimulator(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		text := policytest.Policy(r)
		p := pol(t, text)
		m := policy.NewModel(p)
		for range 5 {
			about := pol(t, "policy dir=in action=drop\npolicy dir=out action=drop\npolicy dir=fwd action=drop\n"+policytest.Rule(r)).Rules[0]
			cases, err := m.Ask(&about)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range cases {
				if !about.Fits(c.Sample) || c.Sample.Dir != about.Dir {
					t.Fatalf("asked about %+v, told of %s", about, c.Sample)
				}
				if got := p.Decide(c.Sample); got.String() != c.Verdict.String() {
					t.Fatalf("%s\n%s: asked, %s; simulated, %s", text, c.Sample, c.Verdict, got)
				}
			}
			for _, action := range []policy.Action{policy.Accept, policy.Drop, policy.Reject} {
				wanted := func(a policy.Action) bool { return a == action }
				c, found, err := m.Find(&about, wanted)
				if want := slices.ContainsFunc(cases, func(c policy.Case) bool { return wanted(c.Action) }); err != nil || found != want {
					t.Fatalf("%s\nfound a packet for %s that fits %+v: %v, %v; want %v", text, action, about, found, err, want)
				}
				if found && (!about.Fits(c.Sample) || p.Decide(c.Sample).String() != c.Verdict.String()) {
					t.Fatalf("%s\n%s: found, %s; simulated, %s", text, c.Sample, c.Verdict, p.Decide(c.Sample))
				}
			}
			for range 50 {
				pkt := policytest.Packet(r)
				if pkt.Dir != about.Dir || !about.Fits(pkt) {
					continue
				}
				want := p.Decide(pkt)
				found := false
				for _, c := range cases {
					found = found || c.Verdict.String() == want.String()
				}
				if !found {
					t.Fatalf("%s\nasked about %+v: %s is %s, which is not among %v", text, about, pkt, want, cases)
				}
			}
		}
	}
}

func pol(t testing.TB, text string) *policy.Policy {
	t.Helper()
	src, err := policy.Parse("mef.rules", []byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return src.Policy(policy.Facts{Auto: []string{"eth0"}})
}

// TestFirstRuleDecides asks about single packets.
func TestFirstRuleDecides(t *testing.T) {
	p := pol(t, `
policy dir=in action=drop
policy dir=out action=accept
rule dir=in action=accept proto=all iif=lo
rule dir=in action=accept proto=all ct=established,related
rule dir=in action=reject proto=tcp src=@bad dport=22
rule dir=in action=accept proto=tcp dport=22,8000-8010
rule dir=in action=accept proto=udp src=192.0.2.0/24,2001:db8::/32 sport=53 iif=!eth1
rule dir=out action=drop proto=tcp dport=25 oif=auto
rule dir=in action=accept proto=icmp6
set name=bad elements=203.0.113.0/24,2001:db8:bad::/48
`)
	tcp := func(src string, dport uint16) policy.Packet {
		return policy.Packet{Dir: policy.In, In: "eth0", Proto: 6, Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(src), Sport: 1, Dport: dport, State: policy.New}
	}
	change := func(p policy.Packet, f func(*policy.Packet)) policy.Packet { f(&p); return p }
	for name, tt := range map[string]struct {
		p    policy.Packet
		want string
	}{
		"no rule":             {tcp("192.0.2.7", 23), "drop by policy mef.rules:2"},
		"a port":              {tcp("192.0.2.7", 22), "accept by mef.rules:7"},
		"a range":             {tcp("192.0.2.7", 8005), "accept by mef.rules:7"},
		"above the range":     {tcp("192.0.2.7", 8011), "drop by policy mef.rules:2"},
		"a set comes first":   {tcp("203.0.113.9", 22), "reject by mef.rules:6"},
		"a set of IPv6":       {tcp("2001:db8:bad::9", 22), "reject by mef.rules:6"},
		"loopback":            {change(tcp("127.0.0.1", 1), func(p *policy.Packet) { p.In = "lo" }), "accept by mef.rules:4"},
		"loopback is not any": {change(tcp("127.0.0.1", 22), func(p *policy.Packet) { p.In = "lo" }), "accept by mef.rules:4"},
		"an answer":           {change(tcp("192.0.2.7", 999), func(p *policy.Packet) { p.State = policy.Established }), "accept by mef.rules:5"},
		"not that interface":  {change(tcp("192.0.2.7", 999), func(p *policy.Packet) { p.Proto, p.Sport, p.In = 17, 53, "eth1" }), "drop by policy mef.rules:2"},
		"any other":           {change(tcp("192.0.2.7", 999), func(p *policy.Packet) { p.Proto, p.Sport, p.In = 17, 53, "wlan0" }), "accept by mef.rules:8"},
		"out by auto":         {change(tcp("192.0.2.7", 25), func(p *policy.Packet) { p.Dir, p.In, p.Out = policy.Out, "", "eth0" }), "drop by mef.rules:9"},
		"out by another":      {change(tcp("192.0.2.7", 25), func(p *policy.Packet) { p.Dir, p.In, p.Out = policy.Out, "", "eth1" }), "accept by policy mef.rules:3"},
		"forwarded":           {change(tcp("192.0.2.7", 25), func(p *policy.Packet) { p.Dir, p.Out = policy.Forward, "eth1" }), "accept without a policy"},
		"ICMPv6":              {change(tcp("2001:db8::9", 0), func(p *policy.Packet) { p.Proto, p.State = 58, policy.Untracked }), "accept by mef.rules:10"},
	} {
		if got := p.Decide(tt.p).String(); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
}

func TestExpectations(t *testing.T) {
	p := pol(t, `
policy dir=in action=drop
rule dir=in action=accept proto=all ct=established,related
rule dir=in action=drop proto=tcp src=203.0.113.0/24
rule dir=in action=accept proto=tcp dport=22
expect dir=in proto=tcp dport=22 src=192.0.2.7 action=accept
expect dir=in proto=tcp dport=22 action=accept
expect dir=in proto=tcp dport=23 action=drop
expect dir=in proto=tcp dport=22-23 src=2001:db8::/32 action=drop
expect dir=in proto=tcp dport=23 ct=established action=accept
expect dir=fwd proto=all action=drop
`)
	var got []string
	for _, f := range policy.NewModel(p).Unmet(p.Expects) {
		got = append(got, fmt.Sprintf("%d: %s", f.Expect.At.Line, f))
	}
	want := []string{
		"7: expected accept, but new tcp from 203.0.113.0 port 40000 to 192.0.2.1 port 22, in by eth0 is: drop by mef.rules:4",
		"9: expected drop, but new tcp from 2001:db8::7 port 40000 to 2001:db8::1 port 22, in by eth0 is: accept by mef.rules:5",
		"11: expected drop, but new tcp from 192.0.2.7 port 40000 to 192.0.2.1 port 80, in by eth0, out by eth0 is: accept without a policy",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("unmet:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// same reports whether two verdicts are one to a packet, and to many of one source.
func same(a, b policy.Verdict) bool {
	limit := func(v policy.Verdict) policy.Rate {
		if v.Rule == nil {
			return policy.Rate{}
		}
		return v.Rule.Limit
	}
	return a.Action == b.Action && limit(a) == limit(b)
}

// TestCompareEqualsSimulator changes policies a little, and compares what is said to change with what becomes of packets.
func TestCompareEqualsSimulator(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 300 {
		before := policytest.Policy(r)
		lines := strings.Split(strings.TrimSpace(before), "\n")
		switch i := len(lines) - 1; r.IntN(4) {
		case 0:
			lines = append(lines, policytest.Rule(r))
		case 1:
			lines[i] = policytest.Rule(r)
		case 2:
			lines = append(lines[:6:6], append([]string{policytest.Rule(r)}, lines[6:]...)...)
		case 3:
			lines[0] = "policy dir=in action=accept"
		}
		after := strings.Join(lines, "\n") + "\n"
		old, now := pol(t, before), pol(t, after)
		changes, err := policy.Compare(old, now)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range changes {
			if was, is := old.Decide(c.Sample), now.Decide(c.Sample); was.String() != c.Old.String() || is.String() != c.New.String() || same(was, is) {
				t.Fatalf("%s\nbecame\n%s\n%s, for %s: simulated, %s and %s", before, after, c, c.Sample, was, is)
			}
		}
		for range 200 {
			pkt := policytest.Packet(r)
			was, is := old.Decide(pkt), now.Decide(pkt)
			if same(was, is) {
				continue
			}
			found := false
			for _, c := range changes {
				found = found || c.Dir == pkt.Dir && c.Old.String() == was.String() && c.New.String() == is.String()
			}
			if !found {
				t.Fatalf("%s\nbecame\n%s\nfor %s %s became %s, which is not among %v", before, after, pkt, was, is, changes)
			}
		}
	}
}

// TestModelFollowsTranslations compares where packets that open a connection are led, and what becomes of them there, with what is said of
// many at once.
func TestModelFollowsTranslations(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	followed := 0
	for range 300 {
		text := policytest.Translating(r)
		p := pol(t, text)
		m := policy.NewModel(p)
		about := pol(t, "policy dir=in action=drop\npolicy dir=out action=drop\npolicy dir=fwd action=drop\n"+policytest.Rule(r)).Rules[0]
		if about.Dir != policy.In {
			continue
		}
		about.States |= policy.New
		cases, err := m.Ask(&about)
		if err != nil {
			t.Fatal(err)
		}
		check := func(pkt policy.Packet) policy.Verdict { // of a packet that arrives
			by := p.Translation(policy.In, pkt)
			if by != nil && by.NAT.Action == policy.DNAT {
				pkt.Dir, pkt.Out = policy.Forward, "eth1"
			}
			v := p.Decide(pkt)
			v.NAT = by
			return v
		}
		for _, c := range cases {
			arriving := c.Sample
			arriving.Dir, arriving.Out = policy.In, ""
			if !about.Fits(arriving) {
				t.Fatalf("asked about %+v, told of %s", about, c.Sample)
			}
			want := p.Decide(c.Sample)
			if want.NAT = p.Translation(policy.In, arriving); want.String() != c.Verdict.String() || (c.Sample.Dir == policy.Forward) != (want.NAT != nil && want.NAT.NAT.Action == policy.DNAT) {
				t.Fatalf("%s\n%s: asked, %s; simulated, %s", text, c.Sample, c.Verdict, want)
			}
			if want.NAT != nil {
				followed++
			}
		}
		for _, action := range []policy.Action{policy.Accept, policy.Drop, policy.Reject} {
			wanted := func(a policy.Action) bool { return a == action }
			_, found, err := m.Find(&about, wanted)
			if want := slices.ContainsFunc(cases, func(c policy.Case) bool { return wanted(c.Action) }); err != nil || found != want {
				t.Fatalf("%s\nfound a packet for %s that fits %+v: %v, %v; want %v", text, action, about, found, err, want)
			}
		}
		for range 50 {
			pkt := policytest.Packet(r)
			if pkt.Dir, pkt.Out, pkt.State = policy.In, "", policy.New; pkt.In == "" {
				pkt.In = "eth0"
			}
			if !about.Fits(pkt) {
				continue
			}
			want := check(pkt)
			found := slices.ContainsFunc(cases, func(c policy.Case) bool {
				return c.Verdict.String() == want.String() || want.NAT != nil && want.NAT.NAT.Action == policy.DNAT && c.NAT == want.NAT // another interface
			})
			if !found {
				t.Fatalf("%s\nasked about %+v: %s is %s, which is not among %v", text, about, pkt, want, cases)
			}
		}
	}
	if followed == 0 {
		t.Error("no case was translated")
	}
}

// TestCompareTranslations finds nat statements that lead elsewhere, and none where only the words differ.
func TestCompareTranslations(t *testing.T) {
	const rest = "policy dir=in action=drop\nrule dir=in action=accept proto=tcp dport=22\n"
	for name, tt := range map[string]struct {
		before, after string
		want          []string
	}{
		"new": {"", "nat dir=in action=dnat to=192.0.2.9:80 proto=tcp dport=8080\n",
			[]string{"nat dir=in family=ip proto=tcp iif=any dport=8080: not translated, now dnat to 192.0.2.9:80 by mef.rules:3"}},
		"gone": {"nat dir=out action=masquerade oif=eth0\n", "", []string{"nat dir=out oif=eth0: masquerade by mef.rules:3, now not translated"}},
		"in other words": {"nat dir=in action=redirect to=:80 proto=tcp dport=8080-8081\n",
			"nat dir=in action=redirect to=:80 proto=tcp dport=8080\nnat dir=in action=redirect to=:80 proto=tcp dport=8081\n", nil},
		"to another port": {"nat dir=in action=redirect to=:80 proto=tcp dport=8080\n", "nat dir=in action=redirect to=:81 proto=tcp dport=8080\n",
			[]string{"nat dir=in proto=tcp iif=any dport=8080: redirect to port 80 by mef.rules:3, now redirect to port 81 by mef.rules:3"}},
	} {
		changes, err := policy.Compare(pol(t, rest+tt.before), pol(t, rest+tt.after))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range changes {
			got = append(got, c.String())
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}
