package importer_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"mef/internal/firewall/importer"
	"mef/internal/firewall/importer/importertest"
	"mef/internal/firewall/importer/iptsave"
	"mef/internal/firewall/policy"
	"mef/internal/firewall/policytest"
)

// TestPoliciesDoAsRulesetsDoBehindNAT is TestPoliciesDoAsRulesetsDo for rulesets whose destinations are translated.
func TestPoliciesDoAsRulesetsDoBehindNAT(t *testing.T) {
	r := rand.New(rand.NewPCG(21, 22))
	sure, all, opened := 0, 0, 0
	for range 3000 {
		rs := importertest.Random(r, importertest.RandomMatch)
		importertest.RandomNAT(r, rs)
		res := importer.Translate(rs, "a test")
		pol := parse(t, res.Text)
		for range 100 {
			p := policytest.Packet(r)
			if all++; p.Dir == policy.Forward && (p.In == policy.Loopback || p.Out == policy.Loopback) {
				continue // there are none
			}
			want := importertest.Follow(rs, p)
			if !want.Sure {
				continue
			}
			sure++
			got := pol.Decide(p)
			if got.Action == want.Action {
				continue
			}
			if len(res.Left) == 0 {
				t.Fatalf("%s %s: %s, want %s, and nothing is said to be left out\n%s", p.Dir, p, got, want.Action, res.Text)
			}
			opened++
		}
	}
	if sure < all/4 {
		t.Errorf("only %d of %d packets tell anything", sure, all)
	}
	if opened > sure/20 {
		t.Errorf("%d of %d packets meet another verdict where something is left out", opened, sure)
	}
}

// forwarding is a host that publishes two ports of another, and keeps strangers off one of them by the port behind the translation.
const forwarding = `*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A PREROUTING -i eth0 -p tcp -m tcp --dport 15432 -j DNAT --to-destination 10.20.0.5:5432
-A PREROUTING -i eth0 -p tcp -m tcp --dport 8081 %s-j DNAT --to-destination 10.20.0.5:80
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD ! -s 198.51.100.0/24 -i eth0 -p tcp -m tcp --dport 5432 -j DROP
-A FORWARD -i eth0 -p tcp -m tcp --dport 80 -j DROP
-A FORWARD -d 10.20.0.5/32 -i eth0 -p tcp -m tcp --dport 443 -j ACCEPT
COMMIT
`

func saved(t *testing.T, text string) *importer.Ruleset {
	t.Helper()
	rs, err := iptsave.Parse("A test", iptsave.File{Name: "saved", Family: policy.V4, Text: []byte(text)})
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

func from(src string, dport uint16) policy.Packet {
	return policy.Packet{Dir: policy.Forward, In: "eth0", Out: "eth1", Proto: 6, Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr("203.0.113.1"),
		Sport: 40000, Dport: dport, State: policy.New}
}

// TestDropBehindDNAT keeps strangers off a port that is published under another number.
func TestDropBehindDNAT(t *testing.T) {
	res := importer.Translate(saved(t, strings.ReplaceAll(forwarding, "%s", "")), "a test")
	pol := parse(t, res.Text)
	for _, tt := range []struct {
		src   string
		dport uint16
		want  policy.Action
	}{
		{"198.51.100.7", 15432, policy.Accept},
		{"192.0.2.7", 15432, policy.Drop},
		{"192.0.2.7", 5432, policy.Drop}, // forwarded as it is
		{"192.0.2.7", 8081, policy.Drop},
		{"192.0.2.7", 8082, policy.Accept},
	} {
		if got := pol.Decide(from(tt.src, tt.dport)); got.Action != tt.want {
			t.Errorf("%s to port %d: %s, want %s\n%s", tt.src, tt.dport, got, tt.want, res.Text)
		}
	}
	if len(res.Left) > 0 {
		t.Errorf("left out: %v", res.Left)
	}
}

// TestDropBehindUnclearDNAT has a translation that mef cannot follow: the line of the filter that it concerns is named, and its port
// stays shut.
func TestDropBehindUnclearDNAT(t *testing.T) {
	res := importer.Translate(saved(t, strings.ReplaceAll(forwarding, "%s", "-m statistic --mode random --probability 0.5 ")), "a test")
	pol := parse(t, res.Text)
	if got := pol.Decide(from("192.0.2.7", 8081)); got.Action != policy.Drop {
		t.Errorf("port 8081: %s, want drop\n%s", got, res.Text)
	}
	if got := pol.Decide(from("192.0.2.7", 15432)); got.Action != policy.Drop {
		t.Errorf("port 15432: %s, want drop\n%s", got, res.Text)
	}
	lines := slices.DeleteFunc(slices.Clone(res.Left), func(l importer.Left) bool { return !strings.Contains(l.Reason, "cannot be evaluated") })
	if len(lines) != 1 || !strings.Contains(lines[0].Line, "--dport 80 -j DROP") {
		t.Errorf("left out: %v, want the line about port 80", res.Left)
	}
}

// TestFirstTranslationCounts has two translations of one port: no rule about what the second makes of it is about any packet.
func TestFirstTranslationCounts(t *testing.T) {
	for action, other := range map[policy.Action]policy.Action{policy.Accept: policy.Drop, policy.Drop: policy.Accept} {
		text := fmt.Sprintf("*nat\n:PREROUTING ACCEPT\n-A PREROUTING -p tcp --dport 8080 -j DNAT --to-destination 10.0.0.5:80\n"+
			"-A PREROUTING -p tcp --dport 8080 -j DNAT --to-destination 10.0.0.6:81\nCOMMIT\n"+
			"*filter\n:FORWARD %s\n-A FORWARD -p tcp --dport 81 -j %s\nCOMMIT\n", strings.ToUpper(other.String()), strings.ToUpper(action.String()))
		res := importer.Translate(saved(t, text), "a test")
		pol := parse(t, res.Text)
		for port, want := range map[uint16]policy.Action{8080: other, 81: action} {
			if got := pol.Decide(from("192.0.2.7", port)); got.Action != want || len(res.Left) > 0 {
				t.Errorf("port %d: %s, want %s; left out: %v\n%s", port, got, want, res.Left, res.Text)
			}
		}
	}
}

// TestBothDestinations leaves out a rule that matches the destination both before and after NAT.
func TestBothDestinations(t *testing.T) {
	res := importer.Translate(saved(t, "*filter\n:FORWARD DROP\n-A FORWARD -p tcp --dport 80 -m conntrack --ctstate NEW --ctorigdstport 8080 -j ACCEPT\nCOMMIT\n"), "a test")
	if len(res.Left) != 1 || !strings.Contains(res.Left[0].Reason, "before and after NAT") {
		t.Errorf("left out: %v\n%s", res.Left, res.Text)
	}
}

// TestStatementsOfNAT reads rules of the table nat one at a time, and in an order that matters.
func TestStatementsOfNAT(t *testing.T) {
	for rule, want := range map[string]string{
		"-A POSTROUTING -o eth0 -j MASQUERADE":                                                                                                               "nat dir=out family=ip action=masquerade oif=eth0\n",
		"-A POSTROUTING -s 10.0.0.0/8 ! -d 10.0.0.0/8 -o ppp+ -j SNAT --to-source 192.0.2.1":                                                                 "nat dir=out action=snat to=192.0.2.1 oif=ppp* src=10.0.0.0/8 dst=0.0.0.0-9.255.255.255,11.0.0.0-255.255.255.255\n",
		"-A PREROUTING -i eth0 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 3128":                                                                         "nat dir=in family=ip action=redirect to=:3128 proto=tcp iif=eth0 dport=80\n",
		"-A PREROUTING -d 192.0.2.9 -p udp -m udp --dport 53 -j DNAT --to-destination 10.0.0.1":                                                              "nat dir=in action=dnat to=10.0.0.1 proto=udp dst=192.0.2.9 dport=53\n",
		"-A PREROUTING -p tcp -m multiport --dports 80,443 -j DNAT --to-destination 10.0.0.1:8080":                                                           "nat dir=in action=dnat to=10.0.0.1:8080 proto=tcp dport=80,443\n",
		"-A PREROUTING -j web\n-A web -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.1":                                                            "nat dir=in action=dnat to=10.0.0.1 proto=tcp dport=80\n",
		"-A POSTROUTING -s 10.0.0.0/8 -j SNAT --to-source 192.0.2.1-192.0.2.9":                                                                               "left: nat leads to one address\n",
		"-A PREROUTING -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.1-10.0.0.9":                                                                  "left: nat leads to one address and one port\n",
		"-A PREROUTING -p tcp -m tcp --dport 80 -m mark --mark 1 -j DNAT --to-destination 10.0.0.1":                                                          "left: mef.rules has no match \"mark\"\n",
		"-A PREROUTING -p tcp -m tcp --sport 80 -j DNAT --to-destination 10.0.0.1":                                                                           "left: nat cannot match the port of the sender\n",
		"-A PREROUTING -i eth0 -j DNAT --to-destination 10.0.0.1":                                                                                            "left: this translates every packet that arrives and hides all services of this host, SSH too; write proto= and dport=, or dst= with the address to translate\n",
		"-A OUTPUT -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.1":                                                                               "left: nat translates the destinations of packets that arrive, not those of this host's own packets\n",
		"-A POSTROUTING -s 10.0.0.0/8 -d 10.0.0.0/8 -j ACCEPT\n-A POSTROUTING -s 10.0.0.0/8 -o eth0 -j MASQUERADE":                                           "left: it is not certain which packets it translates: an earlier rule, or what it excludes, may take some of them\n",
		"-A POSTROUTING -d 172.16.0.0/12 -j RETURN\n-A POSTROUTING -s 10.0.0.0/8 -d 192.0.2.0/24 -j MASQUERADE":                                              "nat dir=out action=masquerade src=10.0.0.0/8 dst=192.0.2.0/24\n",
		"-A PREROUTING -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.1\n-A PREROUTING -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.2": "nat dir=in action=dnat to=10.0.0.1 proto=tcp dport=80\n",
		"-A POSTROUTING -s 10.0.0.0/8 -p tcp -j MASQUERADE --to-ports 1024-2048":                                                                             "left: nat does not translate the port of the sender\n",
		// What mef translates comes before what it leaves to others, so it must have nothing in common with that.
		"-A PREROUTING -j DOCKER\n-A DOCKER -p tcp --dport 80 -j DNAT --to-destination 172.17.0.2\n-A PREROUTING -p tcp --dport 1:99 -j DNAT --to-destination 10.0.0.1\n-A PREROUTING -p tcp --dport 99 -j DNAT --to-destination 10.0.0.2": "left: some of its packets are translated before it, by saved:8: -A DOCKER -p tcp --dport 80 -j DNAT --to-destination 172.17.0.2, which is not imported\n" +
			"left: some of its packets are translated before it, by saved:9: -A PREROUTING -p tcp --dport 1:99 -j DNAT --to-destination 10.0.0.1, which is not imported\n",
		"-A PREROUTING -p tcp --dport 80 -j REDIRECT --to-ports 22-25\n-A PREROUTING -p tcp --dport 1:99 -j DNAT --to-destination 10.0.0.1": "left: nat leads to one address and one port\n" +
			"left: some of its packets are translated before it, by saved:7: -A PREROUTING -p tcp --dport 80 -j REDIRECT --to-ports 22-25, which is not imported\n",
	} {
		text := "*nat\n:PREROUTING ACCEPT\n:POSTROUTING ACCEPT\n:OUTPUT ACCEPT\n:web -\n:DOCKER -\n" + rule + "\nCOMMIT\n"
		rs, err := iptsave.Parse("A test", iptsave.File{Name: "saved", Family: policy.V4, Text: []byte(text)})
		if err != nil {
			t.Fatal(err)
		}
		res := importer.Translate(rs, "a test")
		got := ""
		for line := range strings.Lines(res.Text) {
			if strings.HasPrefix(line, "nat ") {
				got += line
			}
		}
		for _, l := range res.Left {
			got += "left: " + l.Reason + "\n"
		}
		if got != want {
			t.Errorf("%s\nbecame\n%swant\n%s", rule, got, want)
		}
		parse(t, res.Text)
	}
}
