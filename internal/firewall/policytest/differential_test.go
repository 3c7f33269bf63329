//go:build integration

package policytest_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"mef/internal/firewall/iptables"
	"mef/internal/firewall/nft"
	"mef/internal/firewall/policy"
	"mef/internal/firewall/policytest"
	"mef/internal/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// A loader loads a policy into a host.
type loader func(*testing.T, *netnstest.NS, *policy.Policy)

// backends load a policy each by other means.
var backends = map[string]loader{
	"nft": func(t *testing.T, ns *netnstest.NS, p *policy.Policy) {
		t.Helper()
		script, err := nft.Script(p)
		if err != nil {
			t.Fatal(err)
		}
		ns.Run(t, script, "nft", "-f", "-")
	},
	"iptables-nft":    loadIPTables("nft"),
	"iptables-legacy": loadIPTables("legacy"),
}

func loadIPTables(variant string) loader {
	return func(t *testing.T, ns *netnstest.NS, p *policy.Policy) {
		t.Helper()
		save := func(family string) string { return ns.Run(t, "", family+"-"+variant+"-save") }
		rs, err := iptables.Compile(p, iptables.ReadState(save("iptables"), save("ip6tables"), ns.Run(t, "", "ipset", "list", "-n")))
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range rs.Steps() {
			ns.Run(t, step.Text, strings.Replace(step.Program, "tables-", "tables-"+variant+"-", 1), strings.Fields(step.Flags)...)
		}
	}
}

// number returns a number from the environment.
func number(t *testing.T, key string, usual int) int {
	t.Helper()
	s := os.Getenv(key)
	if s == "" {
		return usual
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	return n
}

// TestOneVerdict sends random packets to hosts that have random policies, loaded by each backend, and compares what becomes of them
// with the simulator's word. MEF_DIFF_POLICIES reports how many policies, MEF_DIFF_SEED which.
func TestOneVerdict(t *testing.T) {
	netnstest.Need(t)
	policies, seed := number(t, "MEF_DIFF_POLICIES", 200), number(t, "MEF_DIFF_SEED", 1)
	for name, load := range backends {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, all := ready(t)
			for i := range policies {
				newTrial(h, all, load, uint64(seed), uint64(i)).run(t, i)
			}
		})
	}
}

// TestLongPolicies is TestOneVerdict for policies with so many rules that the script for nft has several chains for them.
func TestLongPolicies(t *testing.T) {
	netnstest.Need(t)
	h, all := ready(t)
	for i := range 6 {
		d := newTrial(h, all, backends["nft"], 3, uint64(i))
		var text strings.Builder
		for line := range strings.Lines(d.text) {
			way := policy.Dirs[i%len(policy.Dirs)]
			if strings.HasPrefix(line, "rule ") && strings.Contains(d.text, "policy dir="+way.String()) {
				for n := range 300 { // which fit no packet
					fmt.Fprintf(&text, "rule dir=%s action=accept proto=tcp src=10.0.%d.0/24 dport=%d\n", way, n%250, 1+n)
				}
			}
			text.WriteString(line)
		}
		d.text = text.String()
		d.run(t, i)
	}
}

// FuzzOneVerdict goes on with TestOneVerdict for as long as one likes: the input is the seed of a policy and of the packets to it.
// As root: go test -tags integration -run '^$' -fuzz OneVerdict -fuzztime 1h ./internal/firewall/policytest
func FuzzOneVerdict(f *testing.F) {
	netnstest.Need(f)
	f.Add(uint64(2), uint64(0))
	f.Fuzz(func(t *testing.T, seed, number uint64) {
		for name, load := range backends {
			t.Run(name, func(t *testing.T) {
				h, all := ready(t)
				newTrial(h, all, load, seed, number).run(t, int(number))
			})
		}
	})
}

// ready returns a host without a policy, and the connections that it has.
func ready(t *testing.T) (*host, []flow) {
	t.Helper()
	h, all := newHost(t), flows()
	for _, fl := range all {
		h.begin(t, fl)
	}
	h.ns.Run(t, around, "nft", "-f", "-")
	h.forget(t)
	return h, all
}

// newTrial makes a policy, and packets to it that are or are not of connections that the host has.
func newTrial(h *host, all []flow, load loader, seed, number uint64) *trial {
	r := rand.New(rand.NewPCG(seed, number))
	d := &trial{h: h, load: load, text: policytest.Policy(r, ways(r)...)}
	for tag := range probes {
		d.probes = append(d.probes, source{r, all}.probe(uint16(tag+1)))
	}
	return d
}

// ways returns some of the ways, most often all.
func ways(r *rand.Rand) []policy.Dir {
	some := []policy.Dir{policy.In}
	for _, d := range policy.Dirs[1:] {
		if r.IntN(6) > 0 {
			some = append(some, d)
		}
	}
	return some
}

// probes is how many packets are sent to a policy.
const probes = 200

// A trial is a policy and packets to it.
type trial struct {
	h      *host
	load   loader
	text   string
	probes []probe
}

func (d *trial) run(t *testing.T, number int) {
	t.Helper()
	for i, wrong := range d.differences(t, d.policy(t, d.text)) {
		if wrong != "" {
			t.Errorf("policy %d, packet %d: %s\n%s\n%s", number, i, d.probes[i].policy, wrong, d.smallest(t, d.probes[i]))
			return
		}
	}
}

// smallest returns the policy without rules that make no difference to the difference over a packet.
func (d *trial) smallest(t *testing.T, p probe) string {
	t.Helper()
	lines := strings.SplitAfter(d.text, "\n")
	one := trial{h: d.h, load: d.load, probes: []probe{p}}
	for i := len(lines) - 1; i >= 0; i-- {
		if !strings.HasPrefix(lines[i], "rule ") {
			continue
		}
		fewer := slices.Delete(slices.Clone(lines), i, i+1)
		if one.differences(t, d.policy(t, strings.Join(fewer, "")))[0] != "" {
			lines = fewer
		}
	}
	return strings.Join(lines, "")
}

func (d *trial) policy(t *testing.T, text string) *policy.Policy {
	t.Helper()
	src, err := policy.Parse("mef.rules", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return src.Policy(policy.Facts{Auto: []string{"eth0"}})
}

// differences loads the policy, sends the packets, and says for each what is wrong.
func (d *trial) differences(t *testing.T, p *policy.Policy) []string {
	t.Helper()
	d.load(t, d.h.ns, p)
	seen := d.outcomes(t)
	wrong := make([]string, len(d.probes))
	for i, pr := range d.probes {
		wrong[i] = difference(pr, seen[pr.tag], p.Decide(pr.policy))
	}
	return wrong
}

// difference reports how what was seen of a packet is not what should have been.
func difference(p probe, o *outcome, v policy.Verdict) string {
	met := meeting{p.policy.Dir, p.policy.In, p.policy.Out, p.policy.State}
	if len(o.met) != 1 || o.met[0] != met {
		return fmt.Sprintf("the world is not as it was meant: the packet came to %+v, want %+v", o.met, met)
	}
	want := outcome{met: o.met}
	switch {
	case v.Action == policy.Accept:
		want.passed = true
	case v.Action == policy.Reject && p.answered:
		want.reset, want.unreachable = p.proto == tcp, p.proto != tcp
	}
	if o.passed != want.passed || o.reset != want.reset || o.unreachable != want.unreachable {
		return fmt.Sprintf("simulator: %s; seen: passed %t, reset %t, unreachable %t", v, o.passed, o.reset, o.unreachable)
	}
	return ""
}
