package loader

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"mef/internal/firewall/policy"
	"mef/internal/host"
)

// A session is an SSH session, and the address and port that its client uses, which NAT may translate.
type session struct {
	host.Connection
	addressed netip.AddrPort
}

// translated reports whether NAT leads the session to the SSH server.
func (s *session) translated() bool { return s.addressed != s.Local }

// isOwn reports whether this host has an address.
func (p *place) isOwn(a netip.Addr) bool {
	return slices.ContainsFunc(p.links, func(l host.Link) bool {
		return slices.ContainsFunc(l.Nets, func(n netip.Prefix) bool { return n.Addr() == a })
	})
}

// ledAway returns how a policy leads new logins away from the SSH server, "" if it does not. Before is the policy that is in force, nil for
// none.
func (p *place) ledAway(s *session, login policy.Packet, pol, before *policy.Policy) string {
	by := pol.Translation(policy.In, login)
	switch {
	case by != nil && !p.leadsToSSH(by, login.Dport):
		return fmt.Sprintf("would be led away from the SSH server: %s by %s", by.NAT, by.At.InLine())
	case by == nil && s.translated() && before != nil:
		if was := before.Translation(policy.In, login); was != nil {
			return fmt.Sprintf("would no longer be led to the SSH server: the policy in force does it (%s)", was.NAT)
		}
	}
	return ""
}

// hidden returns which services of this host others can no longer reach because a nat statement translates all packets to them.
func (p *place) hidden(pol *policy.Policy) (lines []string) {
	p.eachHidden(pol, func(r *policy.Rule, what string) {
		if !narrowed(r) {
			lines = append(lines, fmt.Sprintf("%s: %s", r.At, what))
		}
	})
	if len(lines) > 0 {
		return lines
	}
	return p.sshHidden(pol)
}

// sshHidden returns the SSH ports to which no login comes any more because nat statements lead all of them elsewhere, each perhaps those of one
// interface or network.
func (p *place) sshHidden(pol *policy.Policy) (lines []string) {
	if len(pol.Translations(policy.In)) == 0 {
		return nil
	}
	plain := *pol
	plain.NAT = nil
	before, now := policy.NewModel(&plain), policy.NewModel(pol)
	for _, port := range p.sshPorts {
		had, by := false, (*policy.Rule)(nil)
		reached := slices.ContainsFunc(p.logins(port), func(login policy.Rule) bool {
			cases, err := before.Ask(&login)
			had = had || err != nil || slices.ContainsFunc(cases, func(c policy.Case) bool { return c.Action == policy.Accept })
			if cases, err = now.Ask(&login); err != nil {
				return true // not known
			}
			return slices.ContainsFunc(cases, func(c policy.Case) bool {
				if c.NAT != nil && by == nil {
					by = c.NAT
				}
				return c.Action == policy.Accept && (c.NAT == nil || p.leadsToSSH(c.NAT, port))
			})
		})
		if had && !reached && by != nil {
			lines = append(lines, fmt.Sprintf("%s: no login reaches the SSH server on port %d any more: with this translation (%s), all are led elsewhere; "+
				"write iif=, dst= or src= with the packets to translate, or another dport", by.At, port, by.NAT))
		}
	}
	return lines
}

// logins returns descriptions of the logins to a port, for each address of this host that others can reach.
func (p *place) logins(port uint16) (all []policy.Rule) {
	for _, l := range p.links {
		for _, n := range l.Nets {
			a := n.Addr()
			if a.IsLoopback() {
				continue
			}
			r := reaches(policy.TCP, port, "").Rule
			r.In = policy.Interfaces{Names: []string{l.Name}}
			r.Dst = policy.Within(netip.PrefixFrom(a, a.BitLen()))
			all = append(all, r)
		}
	}
	return all
}

// leadsToSSH reports whether a nat statement leads logins to a port to the SSH server of this host.
func (p *place) leadsToSSH(by *policy.Rule, port uint16) bool {
	return (by.NAT.Action != policy.DNAT || p.isOwn(by.NAT.Addr)) && slices.Contains(p.sshPorts, cmp.Or(by.NAT.Port, port))
}

// translations warns of nat statements that hide services from some, or do nothing on this host.
func (p *place) translations(pol *policy.Policy) (all []policy.Warning) {
	p.eachHidden(pol, func(r *policy.Rule, what string) {
		if narrowed(r) {
			all = append(all, policy.Warning{At: r.At, Msg: what})
		}
	})
	for i := range pol.NAT {
		r := &pol.NAT[i]
		if r.NAT.Action == policy.DNAT && p.isOwn(r.NAT.Addr) {
			all = append(all, policy.Warning{At: r.At, Msg: fmt.Sprintf("%s is an address of this host: rules for dir=in decide about these packets, and expectations take them for forwarded", r.NAT.Addr),
				Hint: "write action=redirect to=:PORT"})
		}
	}
	return all
}

// narrowed reports whether a nat statement names the packets that it takes from a service by more than the port.
func narrowed(r *policy.Rule) bool { return !r.In.Any() || r.Src.Given || r.Dst.Given }

// eachHidden calls fn for each service and the nat statement that hides it.
func (p *place) eachHidden(pol *policy.Policy, fn func(r *policy.Rule, what string)) {
	for _, r := range pol.Translations(policy.In) {
		var ports []string
		for _, l := range p.services {
			if p.hides(r, l) {
				name := fmt.Sprintf("%s/%d", l.Protocol, l.Port)
				if who := cmp.Or(l.Program, strings.TrimSuffix(l.Unit, ".service")); who != "" {
					name = who + " on " + name
				}
				if !slices.Contains(ports, name) {
					ports = append(ports, name)
				}
			}
		}
		if len(ports) > 0 {
			fn(r, fmt.Sprintf("this translation (%s) hides a service of this host from those it matches: %s; write iif=, dst= or src= with the packets to translate, or another dport", r.NAT, strings.Join(ports, ", ")))
		}
	}
}

// hides reports whether a nat statement translates packets to a service that others can reach.
func (p *place) hides(r *policy.Rule, l host.Listener) bool {
	proto := policy.TCP
	if l.Protocol == "udp" {
		proto = policy.UDP
	}
	if l.Local() || l.Program == "docker-proxy" || proto == policy.UDP && l.Port >= 32768 {
		return false
	}
	own := []netip.Addr{l.Addr}
	if l.Addr.IsUnspecified() {
		own = nil
		for _, link := range p.links {
			for _, n := range link.Nets {
				if !n.Addr().IsLoopback() && (l.Addr.Is6() || n.Addr().Is4()) {
					own = append(own, n.Addr())
				}
			}
		}
	}
	return slices.ContainsFunc(own, func(a netip.Addr) bool {
		pkt := policy.Packet{Dir: policy.In, In: p.linkOf(a), Proto: proto, Dst: a, Dport: l.Port, State: policy.New, Sport: 40000}
		if pkt.Src = a; r.Src.Given { // somebody whom it fits
			pkt.Src = netip.Addr{}
			for _, g := range r.Src.In.Ranges() {
				if g.First.Is4() == a.Is4() {
					pkt.Src = g.First
					break
				}
			}
			if !pkt.Src.IsValid() {
				return false
			}
		}
		return r.Fits(pkt)
	})
}
