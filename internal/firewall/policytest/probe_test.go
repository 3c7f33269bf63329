//go:build integration

package policytest_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"mef/internal/firewall/policy"
	"mef/internal/firewall/policytest"
)

// A flow is a connection that conntrack knows: the one who began it, whom he addressed, and to what that was translated.
type flow struct {
	proto  policy.Proto
	a, b   netip.Addr
	ap, bp uint16
}

// began returns a packet of the one who began it, and answered one of the other. The ports of ICMP are its identifier.
func (f flow) began() frame {
	return frame{proto: f.proto, src: f.a, dst: f.b, sport: f.ap, dport: f.bp}
}

func (f flow) answered() frame {
	b, bp := translated(f.proto, f.b, f.bp)
	return frame{proto: f.proto, src: b, dst: f.a, sport: bp, dport: f.ap}
}

// flows returns those that every host has. The ports of those who began are none that other packets have.
func flows() []flow {
	var all []flow
	next := uint16(40000)
	add := func(proto policy.Proto, a, b string, ports ...uint16) {
		for _, bp := range ports {
			all = append(all, flow{proto: proto, a: netip.MustParseAddr(a), b: netip.MustParseAddr(b), ap: next, bp: bp})
			next++
		}
	}
	for _, v := range []struct {
		own0, own1, remote0, remote1, standsFor string
		echo                                    policy.Proto
	}{
		{"192.0.2.1", "198.51.100.1", "192.0.2.2", "198.51.100.2", "192.0.2.3", icmp},
		{"2001:db8::1", "2001:db8:1::1", "2001:db8::2", "2001:db8:1::2", "2001:db8::3", icmp6},
	} {
		for _, proto := range []policy.Proto{tcp, udp} {
			add(proto, v.remote0, v.own0, 22, 80, 443, redirected, published)
			add(proto, v.remote1, v.own1, 53, 8101)
			add(proto, v.own0, v.remote0, 22, 53, 443)
			add(proto, v.own1, v.remote1, 80)
			add(proto, v.own0, v.own1, published)
			add(proto, v.remote0, v.remote1, 22, 80, 8101)
			add(proto, v.remote1, v.remote0, 53)
			add(proto, v.remote0, v.standsFor, 25, 443)
		}
		add(v.echo, v.remote0, v.own0, 0)
		add(v.echo, v.own1, v.remote1, 0)
		add(v.echo, v.remote0, v.remote1, 0)
		add(v.echo, v.remote0, v.standsFor, 0)
		add(gre, v.remote0, v.own0, 0)
		add(gre, v.own1, v.remote1, 0)
		add(gre, v.remote1, v.remote0, 0)
	}
	return all
}

// Protocols without ports.
const (
	gre = 47
	esp = 50
)

// live returns a packet of a flow with what follows its header.
func live(f frame, answer bool) frame {
	switch f.proto {
	case tcp:
		return f.tcpSegment(ack)
	case udp:
		return f.udpDatagram(false)
	case gre, esp:
		f.payload = []byte{0, 0, 8, 0, 'm', 'e', 'f', '.'} // less is not translated
		return f
	}
	return echo(f, answer)
}

// echo returns a message of ICMP or ICMPv6. Both ports of a flow are its identifier.
func echo(f frame, answer bool) frame {
	id := max(f.sport, f.dport)
	f.sport, f.dport = 0, 0
	return f.icmpMessage(echoType(f.proto, answer), 0, uint32(id)<<16, nil)
}

func echoType(proto policy.Proto, answer bool) byte {
	switch {
	case proto == icmp && answer:
		return 0
	case proto == icmp:
		return 8
	case answer:
		return 129
	}
	return 128
}

// begin has conntrack see the flow's first packets in both directions.
func (h *host) begin(t *testing.T, fl flow) {
	send := func(f frame) {
		f.tag = 1
		if isOwn(f.src) {
			h.sends(t, "", f)
		} else {
			h.arrives(t, linkTo(f.src), f)
		}
	}
	if fl.proto == tcp {
		send(fl.began().tcpSegment(syn))
		send(fl.answered().tcpSegment(syn | ack))
	}
	send(live(fl.began(), false))
	send(live(fl.answered(), true))
}

// A probe is a packet, the way that it takes, and what rules see of it.
type probe struct {
	frame
	arrives  bool       // else the host sends it
	link     string     // by which it arrives, or to which its socket is bound
	to       netip.Addr // its destination once it is translated
	policy   policy.Packet
	answered bool // whether the host answers it when it is rejected
}

// A source of probes is random, but knows the flows there are.
type source struct {
	*rand.Rand
	flows []flow
}

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

// probe returns a probe with a tag.
func (s source) probe(tag uint16) probe {
	p := probe{answered: true}
	p.tag = tag
	switch n := s.IntN(20); {
	case n < 1:
		s.toAll(&p)
		return p
	case n < 8:
		s.fresh(&p)
	case n < 13:
		s.established(&p)
	case n < 15:
		s.related(&p)
	case n < 17:
		s.invalid(&p)
	default:
		s.untracked(&p)
	}
	s.way(&p)
	return p
}

// random fills in what rulestest's packets have.
func (s source) random(p *probe) {
	pkt := policytest.Packet(s.Rand)
	p.proto, p.src, p.dst, p.sport, p.dport = pkt.Proto, pkt.Src, pkt.Dst, pkt.Sport, pkt.Dport
}

// fresh makes a packet that no connection is known of.
func (s source) fresh(p *probe) {
	for s.random(p); s.known(p.frame); s.random(p) {
	}
	p.policy.State = policy.New
	switch p.proto {
	case tcp:
		p.frame = p.tcpSegment([]byte{syn, syn, syn, ack}[s.IntN(4)]) // the last as if its connection were older than the host
	case udp, gre, esp:
		p.frame = live(p.frame, false)
	default:
		p.frame = p.icmpMessage(echoType(p.proto, false), 0, uint32(1+s.IntN(1000))<<16, nil)
	}
	p.to, _ = translated(p.proto, p.dst, p.dport)
}

// toAll makes a packet to all hosts of a link, as DHCP and neighbour discovery have them. None of those is answered.
func (s source) toAll(p *probe) {
	for s.random(p); p.proto == tcp; s.random(p) {
	}
	p.arrives, p.answered, p.link = true, false, pick(s.Rand, []string{"eth0", "eth1", "eth2"})
	p.policy.In, p.policy.State = p.link, policy.New
	if p.dst = netip.IPv6LinkLocalAllNodes(); p.src.Is4() {
		p.dst = pick(s.Rand, []netip.Addr{netip.MustParseAddr("255.255.255.255"), netip.MustParseAddr("224.0.0.1")})
	}
	switch p.proto {
	case icmp:
		p.frame = p.icmpMessage(echoType(icmp, false), 0, 1<<16, nil)
	case icmp6:
		p.policy.State = policy.Untracked
		p.frame = p.icmpMessage(byte(133+s.IntN(4)), 0, 0, p.dst.AsSlice())
	default:
		p.frame = live(p.frame, false)
	}
	s.told(p)
}

// told fills in what rules see of a packet.
func (s source) told(p *probe) {
	p.policy.Proto, p.policy.Src, p.policy.Dst, p.policy.Sport, p.policy.Dport = p.proto, p.src, p.dst, p.sport, p.dport
	if p.proto == icmp || p.proto == icmp6 {
		p.policy.Type = p.payload[0]
	}
	p.policy.Syn = p.proto == tcp && p.payload[13]&(fin|syn|rst|ack) == syn
}

// known reports whether a packet may belong to a flow.
func (s source) known(f frame) bool {
	same := func(g frame) bool {
		return f.proto == g.proto && f.src == g.src && f.dst == g.dst && f.sport == g.sport && f.dport == g.dport
	}
	return slices.ContainsFunc(s.flows, func(fl flow) bool {
		began, answered := fl.began(), fl.answered()
		if fl.proto == gre {
			began.sport, answered.dport = 0, 0
		}
		return same(began) || same(answered)
	})
}

func (s source) established(p *probe) {
	fl := pick(s.Rand, s.flows)
	tag, answer := p.tag, s.IntN(2) == 0
	if p.frame = fl.began(); answer {
		p.frame = fl.answered()
	}
	p.tag = tag
	p.to, _ = translated(p.proto, p.dst, p.dport)
	p.frame = live(p.frame, answer)
	p.policy.State = policy.Established
}

// related makes a router's word that a packet of a flow could not be delivered.
func (s source) related(p *probe) {
	fl := pick(s.Rand, s.flows)
	var quoted frame
	if s.IntN(2) == 0 {
		back := fl.answered() // beyond the host, the one addressed is the one that it was translated to
		quoted = live(frame{proto: fl.proto, src: back.dst, dst: back.src, sport: back.dport, dport: back.sport}, false)
		p.to = fl.a
	} else {
		first := fl.began() // before the host, the one who answers is the one addressed
		quoted = live(frame{proto: fl.proto, src: first.dst, dst: first.src, sport: first.dport, dport: first.sport}, true)
		p.to, _ = translated(fl.proto, fl.b, fl.bp)
	}
	s.random(p)
	for p.src.Is4() != quoted.src.Is4() {
		s.random(p)
	}
	p.dst = quoted.src
	s.unreachable(p, quoted)
	p.policy.State = policy.Related
}

// unreachable makes the probe the word that a packet could not be delivered.
func (s source) unreachable(p *probe, quoted frame) {
	p.sport, p.dport, p.answered = 0, 0, false
	if p.src.Is4() {
		p.proto = icmp
		p.frame = p.icmpMessage(3, 1, 0, quoted.bytes())
		return
	}
	p.proto = icmp6
	p.frame = p.icmpMessage(1, 3, 0, quoted.bytes())
}

// invalid makes a packet of which conntrack can make nothing.
func (s source) invalid(p *probe) {
	for s.random(p); p.proto == gre || p.proto == esp; s.random(p) {
	}
	p.to = p.dst
	p.policy.State = policy.Invalid
	switch p.proto {
	case tcp:
		p.frame = p.tcpSegment(syn | fin)
	case udp:
		p.frame = p.udpDatagram(true)
	default:
		if s.IntN(3) == 0 {
			s.unreachable(p, frame{proto: udp, src: p.dst, dst: p.src, sport: 1, dport: 1}.udpDatagram(false))
			return
		}
		p.frame = p.icmpMessage(echoType(p.proto, true), 0, uint32(1+s.IntN(1000))<<16, nil)
	}
}

// withoutTracking is the bit of a tag that has the host leave the packet alone.
const withoutTracking = 0x8000

// untracked makes a packet that conntrack leaves alone: neighbour discovery, or what the host says.
func (s source) untracked(p *probe) {
	s.random(p)
	p.to = p.dst
	p.policy.State = policy.Untracked
	switch p.proto {
	case tcp:
		p.frame = p.tcpSegment([]byte{syn, ack, syn | ack, fin | ack}[s.IntN(4)])
	case udp, gre, esp:
		p.frame = live(p.frame, false)
	case icmp:
		p.frame = echo(p.frame, s.IntN(2) == 0)
	default:
		p.frame = p.icmpMessage(byte(133+s.IntN(4)), 0, 0, p.dst.AsSlice())
		if s.IntN(2) == 0 {
			return
		}
	}
	p.tag |= withoutTracking
}

// way chooses how a packet comes to the host, and finds where it goes from there.
func (s source) way(p *probe) {
	s.told(p)
	links := []string{"eth0", "eth1", "eth2", policy.Loopback}
	p.arrives = s.IntN(3) > 0
	switch {
	case !p.arrives:
		p.owner = s.IntN(len(owners))
		p.policy.Owner = owners[p.owner]
		p.policy.Dir, p.policy.Out = policy.Out, linkTo(p.dst) // also if it is translated: the hook sees the first route
		if !isOwn(p.dst) && s.IntN(2) == 0 {
			p.link = pick(s.Rand, links[:3])
			p.policy.Out = p.link
		}
	case isOwn(p.to):
		p.link = pick(s.Rand, links)
		p.policy.Dir, p.policy.In = policy.In, p.link
	default:
		p.link = pick(s.Rand, links[:3]) // nothing is forwarded from loopback
		p.policy.Dir, p.policy.In, p.policy.Out = policy.Forward, p.link, linkTo(p.to)
	}
}
