//go:build integration

package policytest_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"mef/internal/firewall/policy"
	"mef/internal/firewall/policytest"
	"mef/internal/netnstest"
)

// translating makes the world take note of where packets are led and whom they come from once the policy has seen them, and translate
// nothing by itself. Packets go as far as the translation of their source.
const translating = `
flush chain inet world arrival_nat
flush chain inet world departure_nat
flush chain inet world fwd_after
flush chain inet world out_after
table inet world {
	set dst4 { typeof meta mark . ip daddr; flags dynamic; size 65535; }
	set dst6 { typeof meta mark . ip6 daddr; flags dynamic; size 65535; }
	set dport { typeof meta mark . th dport; flags dynamic; size 65535; }
	set src4 { typeof meta mark . ip saddr; flags dynamic; size 65535; }
	set src6 { typeof meta mark . ip6 saddr; flags dynamic; size 65535; }
	chain led {
		ip version 4 add @dst4 { meta mark . ip daddr }
		ip6 version 6 add @dst6 { meta mark . ip6 daddr }
		meta l4proto { tcp, udp } add @dport { meta mark . th dport }
	}
	chain led_in { type filter hook input priority -2; jump led; }
	chain led_fwd { type filter hook forward priority -2; jump led; }
	chain leaving {
		type filter hook postrouting priority 200
		ip version 4 add @src4 { meta mark . ip saddr }
		ip6 version 6 add @src6 { meta mark . ip6 saddr }
		add @after { meta mark } drop
	}
}
`

// A packet's ends as the host saw them.
type ends struct {
	dst, src netip.Addr
	dport    uint16
}

// ends returns what was seen of packets by tag, and forgets it.
func (h *host) ends(t *testing.T) map[uint16]*ends {
	t.Helper()
	all := map[uint16]*ends{}
	for set, note := range map[string]func(*ends, []byte){
		"dst4":  func(e *ends, b []byte) { e.dst, _ = netip.AddrFromSlice(b[:4]) },
		"dst6":  func(e *ends, b []byte) { e.dst, _ = netip.AddrFromSlice(b[:16]) },
		"dport": func(e *ends, b []byte) { e.dport = binary.BigEndian.Uint16(b) },
		"src4":  func(e *ends, b []byte) { e.src, _ = netip.AddrFromSlice(b[:4]) },
		"src6":  func(e *ends, b []byte) { e.src, _ = netip.AddrFromSlice(b[:16]) },
	} {
		for _, key := range h.noted(t, set) {
			tag := tagOf(key)
			if all[tag] == nil {
				all[tag] = &ends{}
			}
			note(all[tag], key[4:])
		}
		h.nft.FlushSet(h.set(set))
	}
	if err := h.nft.Flush(); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestOneTranslation sends packets to hosts that have random nat statements and rules, loaded by each backend, and compares where they are
// led, what becomes of them there, and which source they leave with, with the simulator. MEF_DIFF_POLICIES and MEF_DIFF_SEED as in TestOneVerdict.
func TestOneTranslation(t *testing.T) {
	netnstest.Need(t)
	policies, seed := number(t, "MEF_DIFF_POLICIES", 60), number(t, "MEF_DIFF_SEED", 1)
	for name, load := range backends {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.ns.Run(t, around+translating, "nft", "-f", "-")
			for _, link := range interfaces {
				h.awaken(t, link.name, addrsOf(link.name)...)
			}
			h.ends(t)
			led, left := 0, 0
			for i := range policies {
				r := rand.New(rand.NewPCG(uint64(seed), uint64(i)))
				tr := translationTrial{trial: trial{h: h, load: load, text: policytest.Translating(r)}}
				tr.led, tr.left = &led, &left
				p := tr.policy(t, tr.text)
				for tag := range probes {
					pr := probe{answered: true}
					pr.tag = uint16(tag + 1)
					source{Rand: r}.fresh(&pr)
					source{Rand: r}.through(&pr, p)
					tr.probes = append(tr.probes, pr)
				}
				tr.run(t, i, p)
				if t.Failed() {
					return
				}
			}
			t.Logf("%d packets were led elsewhere, %d left with another source", led, left)
			if led == 0 || left == 0 {
				t.Error("that is too few to compare")
			}
		})
	}
}

// through chooses how a packet comes to the host, and where the nat statements of a policy lead it.
func (s source) through(p *probe, pol *policy.Policy) {
	p.to = p.dst
	s.way(p)
	if !p.arrives {
		return
	}
	p.link = p.policy.In
	arriving := p.policy
	arriving.Dir, arriving.Out = policy.In, ""
	by := pol.Translation(policy.In, arriving)
	switch {
	case by == nil:
		return
	case by.NAT.Action == policy.Redirect || isOwn(by.NAT.Addr):
		p.policy.Dir, p.policy.Out = policy.In, ""
	default:
		p.policy.Dir, p.policy.Out = policy.Forward, linkTo(by.NAT.Addr)
	}
}

// A translationTrial is a trial whose packets are translated.
type translationTrial struct {
	trial
	led, left *int
}

func (d *translationTrial) run(t *testing.T, number int, p *policy.Policy) {
	t.Helper()
	d.load(t, d.h.ns, p)
	outcomes := d.outcomes(t)
	seen := d.h.ends(t)
	for i, pr := range d.probes {
		o := outcomes[pr.tag]
		wrong := difference(pr, o, p.Decide(pr.policy))
		e := seen[pr.tag]
		if e == nil {
			e = &ends{}
		}
		if wrong == "" && pr.arrives {
			wrong = d.ledWrong(p, pr, e)
		}
		if wrong == "" && o.passed && pr.policy.Dir != policy.In {
			wrong = d.leftWrong(p, pr, e)
		}
		if wrong != "" {
			t.Errorf("policy %d, packet %d: %s\n%s\n%s", number, i, pr.policy, wrong, d.text)
			return
		}
	}
}

// ledWrong reports how the destination is not what the nat statements make of it.
func (d *translationTrial) ledWrong(p *policy.Policy, pr probe, e *ends) string {
	arriving := pr.policy
	arriving.Dir, arriving.Out = policy.In, ""
	want := ends{dst: pr.dst, dport: pr.dport}
	by := p.Translation(policy.In, arriving)
	if by != nil {
		*d.led++
		if by.NAT.Port != 0 {
			want.dport = by.NAT.Port
		}
		if by.NAT.Action == policy.Redirect {
			if !slices.Contains(addrsOf(pr.link), e.dst) || e.dport != want.dport {
				return fmt.Sprintf("redirected by %s to %s port %d, want port %d of %s", by.At, e.dst, e.dport, want.dport, pr.link)
			}
			return ""
		}
		want.dst = by.NAT.Addr
	}
	if e.dst != want.dst || e.dport != want.dport {
		return fmt.Sprintf("led to %s port %d, want %s port %d", e.dst, e.dport, want.dst, want.dport)
	}
	return ""
}

// leftWrong reports how the source is not what the nat statements make of it.
func (d *translationTrial) leftWrong(p *policy.Policy, pr probe, e *ends) string {
	leaving := pr.policy
	if by := p.Translation(policy.In, leaving); by != nil && pr.arrives { // statements for dir=out see the destination as it is by then
		if leaving.Dst = by.NAT.Addr; by.NAT.Port != 0 {
			leaving.Dport = by.NAT.Port
		}
	}
	by := p.Translation(policy.Out, leaving)
	switch {
	case by == nil && e.src != pr.src:
		return fmt.Sprintf("it left with the source %s, want %s", e.src, pr.src)
	case by == nil:
		return ""
	case by.NAT.Action == policy.Masquerade && !slices.Contains(addrsOf(leaving.Out), e.src):
		return fmt.Sprintf("it left with the source %s, want one of %s", e.src, leaving.Out)
	case by.NAT.Action == policy.SNAT && e.src != by.NAT.Addr:
		return fmt.Sprintf("it left with the source %s, want %s", e.src, by.NAT.Addr)
	}
	*d.left++
	return ""
}

// addrsOf returns the addresses of an interface.
func addrsOf(link string) (addrs []netip.Addr) {
	for _, i := range interfaces {
		for word := range strings.FieldsSeq(i.addrs) {
			if i.name == link {
				addrs = append(addrs, netip.MustParsePrefix(word).Addr())
			}
		}
	}
	return addrs
}
