//go:build integration

package policytest_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"mef/internal/firewall/policy"
	"mef/internal/netnstest"
	"mef/internal/prefixset"
)

// hostsPage has policies of hosts, each under its heading.
const hostsPage = "../../../docs/hosts.md"

// documented returns the policies of a page by their heading.
func documented(t *testing.T, page string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	all, heading := map[string]string{}, ""
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(line, "## "); ok {
			heading = strings.TrimSpace(name)
		} else if statement, ok := strings.CutPrefix(line, "    "); ok {
			all[heading] += statement
		}
	}
	return all
}

// TestDocumentedHosts loads each policy of the page by each backend, and sends a packet for each of its expectations, in each family.
func TestDocumentedHosts(t *testing.T) {
	netnstest.Need(t)
	all := documented(t, hostsPage)
	if len(all) != 8 {
		t.Fatalf("%d hosts are documented, want 8", len(all))
	}
	dir := t.TempDir()
	var networks strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&networks, "10.%d.%d.0/25\n", i/250, i%250)
	}
	networks.WriteString("2001:db8:77::/48\n")
	if err := os.WriteFile(filepath.Join(dir, "networks.txt"), []byte(networks.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, text := range all {
		src, err := policy.Parse(filepath.Join(dir, "mef.rules"), []byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		p := src.Policy(policy.Facts{})
		for backend, load := range backends {
			t.Run(name+"/"+backend, func(t *testing.T) {
				links := linksOf(p)
				d := documentedHost{host: newHostWith(t, links), policy: p}
				d.ns.Addr(t, policy.Loopback, own[0].String()+"/32 "+own[1].String()+"/128")
				d.ns.Run(t, around+translating, "nft", "-f", "-")
				for _, l := range links {
					d.awaken(t, l.name, own...)
				}
				load(t, d.ns, p)
				for i := range p.Expects {
					d.try(t, &p.Expects[i])
				}
				if d.tried < len(p.Expects) {
					t.Errorf("%d packets were sent for %d expectations", d.tried, len(p.Expects))
				}
			})
		}
	}
}

// own and other are addresses of a documented host, and of others, that no policy names.
var (
	own   = []netip.Addr{netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("2001:db8:99::1")}
	other = []netip.Addr{netip.MustParseAddr("198.19.0.2"), netip.MustParseAddr("2001:db8:98::2")}
)

// linksOf returns the interfaces that a policy and its expectations name, one for each pattern, and eth0.
func linksOf(p *policy.Policy) (links []link) {
	names := []string{"eth0"}
	for i := range p.Rules {
		names = append(names, slices.Concat(p.Rules[i].In.Names, p.Rules[i].Out.Names)...)
	}
	for i := range p.Expects {
		names = append(names, slices.Concat(p.Expects[i].In.Names, p.Expects[i].Out.Names)...)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if name = strings.Replace(name, "*", "0", 1); name != policy.Loopback {
			links = append(links, link{name: name})
		}
	}
	slices.SortFunc(links, func(a, b link) int { return strings.Compare(a.name, b.name) })
	links = slices.Compact(links)
	return links
}

// A documentedHost is a host with one of the policies.
type documentedHost struct {
	*host
	policy *policy.Policy
	tried  int
}

// try sends packets that an expectation is about, and compares what becomes of them.
func (d *documentedHost) try(t *testing.T, e *policy.Expectation) {
	t.Helper()
	for f, family := range []policy.Family{policy.V4, policy.V6} {
		about := e.Rule
		if about.Family &= family; about.Family == 0 {
			continue
		}
		if !about.Dst.Given {
			about.Dst = one(map[bool]netip.Addr{true: own[f], false: other[f]}[about.Dir == policy.In])
		}
		if !about.Src.Given {
			about.Src = one(map[bool]netip.Addr{true: own[f], false: other[f].Next()}[about.Dir == policy.Out])
		}
		if about.In.Any() && about.Dir != policy.Out {
			about.In = policy.Interfaces{Names: []string{"eth0"}}
		}
		if about.Out.Any() && about.Dir != policy.In {
			about.Out = policy.Interfaces{Names: []string{"eth0"}}
		}
		cases, err := policy.NewModel(d.policy).Ask(&about)
		if err != nil {
			t.Fatal(err)
		}
		if len(cases) > 0 {
			d.send(t, e, cases[0])
		}
	}
}

func one(a netip.Addr) policy.Addrs {
	return policy.Addrs{Given: true, In: prefixset.New(netip.PrefixFrom(a, a.BitLen()))}
}

// send sends one packet.
func (d *documentedHost) send(t *testing.T, e *policy.Expectation, c policy.Case) {
	t.Helper()
	pkt := c.Sample
	d.tried++
	f := frame{proto: pkt.Proto, src: pkt.Src, dst: pkt.Dst, sport: pkt.Sport, dport: pkt.Dport, tag: uint16(d.tried)}
	switch pkt.Proto {
	case tcp:
		f = f.tcpSegment(syn)
	case icmp, icmp6:
		rest := pkt.Dst.AsSlice() // the target of neighbour discovery
		f = f.icmpMessage(pkt.Type, 0, 0, rest)
	default:
		if f.payload = []byte{0, 0, 8, 0, 'm', 'e', 'f', '.'}; pkt.Proto == udp {
			f = f.udpDatagram(false)
		}
	}
	d.route(t, pkt)
	f.owner = slices.IndexFunc(owners, func(o policy.Owner) bool { return o.User == pkt.Owner.User })
	if pkt.Dir == policy.Out {
		d.sends(t, "", f)
	} else {
		d.arrives(t, pkt.In, f)
	}
	o := d.outcomes(t, []uint16{f.tag})[f.tag]
	want := meeting{pkt.Dir, pkt.In, pkt.Out, pkt.State}
	if len(o.met) != 1 || o.met[0] != want {
		t.Errorf("line %d: %s: the packet came to %+v, want %+v", e.At.Line, pkt, o.met, want)
		return
	}
	if o.passed != (e.Action == policy.Accept) || c.Action != e.Action {
		t.Errorf("line %d: %s: passed %t, by the simulator %s, expected %s", e.At.Line, pkt, o.passed, c.Verdict, e.Action)
	}
}

// route makes the ends of a packet addresses of the host, or of others by the interface that the packet leaves by.
func (d *documentedHost) route(t *testing.T, pkt policy.Packet) {
	t.Helper()
	local, remote := pkt.Dst, pkt.Dst
	switch pkt.Dir {
	case policy.Out:
		local = pkt.Src
	case policy.Forward:
		local = netip.Addr{}
		if by := d.policy.Translation(policy.In, pkt); by != nil {
			remote = by.NAT.Addr
		}
	}
	if local.IsValid() && !slices.Contains(own, local) {
		d.ns.Addr(t, policy.Loopback, netip.PrefixFrom(local, local.BitLen()).String())
	}
	if pkt.Dir == policy.In {
		return
	}
	d.ns.Do(func() {
		l, err := netlink.LinkByName(pkt.Out)
		if err == nil {
			err = netlink.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: &net.IPNet{IP: remote.AsSlice(), Mask: net.CIDRMask(remote.BitLen(), remote.BitLen())}})
		}
		if err != nil {
			t.Fatalf("route %s by %s: %v", remote, pkt.Out, err)
		}
	})
}
