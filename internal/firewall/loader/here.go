package loader

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"mef/internal/firewall/policy"
	"mef/internal/host"
)

// A place is the state of this host, as far as a policy can harm it.
type place struct {
	links    []host.Link
	services []host.Listener // that others can reach
	sshPorts []uint16
	peers    []session     // of the SSH server
	dhcp     bool          // a DHCP client keeps leases here
	forwards policy.Family // packets of which it forwards
}

func lookAround() (*place, error) {
	links, err := host.Links()
	if err != nil {
		return nil, err
	}
	p := &place{links: links, dhcp: host.UsesDHCP(), forwards: forwards()}
	if p.services, err = host.Listeners(); err != nil {
		return nil, fmt.Errorf("list listening services: %w", err)
	}
	p.sshPorts = host.SSHPortsAmong(p.services)
	peers, err := host.Connections(p.sshPorts)
	if err != nil {
		return nil, fmt.Errorf("list SSH sessions: %w", err)
	}
	if own, ok := ownConnection(os.Getenv("SSH_CONNECTION")); ok && !slices.Contains(peers, own) {
		peers = append(peers, own)
	}
	for _, c := range peers {
		if !c.Remote.Addr().IsLoopback() {
			p.peers = append(p.peers, session{c, host.Addressed(c)})
		}
	}
	return p, nil
}

// forwards returns the families of which the kernel forwards packets.
func forwards() (f policy.Family) {
	for family, path := range map[policy.Family]string{policy.V4: "/proc/sys/net/ipv4/ip_forward", policy.V6: "/proc/sys/net/ipv6/conf/all/forwarding"} {
		if text, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(text)) != "0" {
			f |= family // what cannot be read is not warned of
		}
	}
	return f
}

// ownConnection reads SSH_CONNECTION: the client's address and port, and the server's.
func ownConnection(text string) (c host.Connection, ok bool) {
	f := strings.Fields(text)
	if len(f) != 4 {
		return c, false
	}
	remote, err1 := netip.ParseAddr(f[0])
	local, err2 := netip.ParseAddr(f[2])
	remotePort, err3 := strconv.ParseUint(f[1], 10, 16)
	localPort, err4 := strconv.ParseUint(f[3], 10, 16)
	if err1 != nil || err2 != nil || err3 != nil || err4 != nil {
		return c, false
	}
	return host.Connection{
		Local:  netip.AddrPortFrom(local.WithZone("").Unmap(), uint16(localPort)),
		Remote: netip.AddrPortFrom(remote.WithZone("").Unmap(), uint16(remotePort)),
	}, true
}

// linkOf returns the interface over which a peer is reached: the one that has the address it speaks to.
func (p *place) linkOf(local netip.Addr) string {
	for _, l := range p.links {
		if slices.ContainsFunc(l.Nets, func(n netip.Prefix) bool { return n.Addr() == local }) {
			return l.Name
		}
	}
	for _, l := range p.links {
		if l.Default {
			return l.Name
		}
	}
	return "eth0"
}

// lockout returns how a policy would cut off SSH users: their sessions, or their next login. Before is the policy that is in force, nil for
// none. Rules match the address and port that the client uses; replies have those of the server.
func (p *place) lockout(pol, before *policy.Policy) (lines []string) {
	for i := range p.peers {
		c := &p.peers[i]
		link := p.linkOf(c.addressed.Addr())
		in := policy.Packet{Dir: policy.In, In: link, Proto: policy.TCP, Src: c.Remote.Addr(), Dst: c.addressed.Addr(),
			Sport: c.Remote.Port(), Dport: c.addressed.Port(), State: policy.Established}
		out := policy.Packet{Dir: policy.Out, Out: link, Proto: in.Proto, Src: c.Local.Addr(), Dst: in.Src, Sport: c.Local.Port(), Dport: in.Sport, State: policy.Established}
		next := in
		next.State, next.Syn = policy.New, true
		if away := p.ledAway(c, next, pol, before); away != "" {
			lines = append(lines, fmt.Sprintf("a new SSH login from %s to port %d %s", c.Remote.Addr(), c.addressed.Port(), away))
			continue
		}
		for _, packet := range []policy.Packet{in, out, next} {
			if v := pol.Decide(packet); v.Action != policy.Accept {
				what := "the SSH session from"
				if packet.State == policy.New {
					what = "a new SSH login from"
				}
				lines = append(lines, fmt.Sprintf("%s %s to port %d would be cut off: %s", what, c.Remote.Addr(), c.addressed.Port(), v))
				break
			}
		}
	}
	slices.Sort(lines)
	return slices.Compact(lines)
}

// names returns the names of this host's interfaces.
func (p *place) names() (all []string) {
	for _, l := range p.links {
		all = append(all, l.Name)
	}
	return all
}

// forwarding warns of rules and nat statements about packets through a host that forwards none.
func (p *place) forwarding(pol *policy.Policy) []policy.Warning {
	forwarded := pol.Of(policy.Forward)
	for i := range pol.NAT {
		if r := &pol.NAT[i]; r.NAT.Action != policy.Redirect {
			forwarded = append(forwarded, r)
		}
	}
	for _, r := range forwarded {
		f := r.Family &^ p.forwards
		if r.Action != policy.Accept || f == 0 || p.forwards != 0 && r.Family == policy.Any {
			continue
		}
		key := "net.ipv4.ip_forward"
		if f == policy.V6 {
			key = "net.ipv6.conf.all.forwarding"
		}
		return []policy.Warning{{At: r.At, Msg: "this host does not forward such packets: " + key + " is 0", Hint: "sysctl -w " + key + "=1 enables forwarding; put it into a file in /etc/sysctl.d to make it permanent"}}
	}
	return nil
}

// reachable returns the families in which this host has addresses that are not of one link alone; both if it has none yet.
func (p *place) reachable() (has policy.Family) {
	for _, l := range p.links {
		for _, n := range l.Nets {
			switch a := n.Addr(); {
			case a.IsLoopback() || a.IsLinkLocalUnicast():
			case a.Is4():
				has |= policy.V4
			default:
				has |= policy.V6
			}
		}
	}
	if has == 0 {
		return policy.Any
	}
	return has
}

// families returns the families in which this host speaks to others at all: IPv6 also where it has an address of a link alone.
func (p *place) families() policy.Family {
	has := p.reachable()
	if slices.ContainsFunc(p.links, func(l host.Link) bool {
		return slices.ContainsFunc(l.Nets, func(n netip.Prefix) bool { return n.Addr().Is6() && !n.Addr().IsLoopback() })
	}) {
		has |= policy.V6
	}
	return has
}

// questions returns what to check on this host, in addition to what is checked everywhere.
func (p *place) questions() (all []policy.Question) {
	if p.dhcp {
		all = append(all, policy.DHCP()...)
	}
	for _, port := range p.sshPorts {
		for _, v := range []struct {
			family policy.Family
			name   string
		}{{policy.V4, "IPv4"}, {policy.V6, "IPv6"}} {
			if p.reachable()&v.family == 0 {
				continue
			}
			q := reaches(policy.TCP, port, fmt.Sprintf("no address can log in by SSH over %s, port %d", v.name, port))
			q.Family = v.family
			all = append(all, q)
		}
	}
	for _, l := range p.services {
		if q, ok := p.service(l); ok && !slices.ContainsFunc(all, func(o policy.Question) bool { return o.Lost == q.Lost }) {
			all = append(all, q)
		}
	}
	for _, l := range p.links {
		if l.Bridge {
			all = append(all, containers(l)...)
		}
	}
	return all
}

// service asks whether anybody can reach what listens, unless that was asked already, or it waits for answers only.
func (p *place) service(l host.Listener) (q policy.Question, ok bool) {
	proto := policy.TCP
	if l.Protocol == "udp" {
		proto = policy.UDP
	}
	dhcp := proto == policy.UDP && (l.Port == 68 || l.Port == 546)
	published := l.Program == "docker-proxy" // packets to its port are translated, and forwarded
	if l.Local() || dhcp || published || proto == policy.UDP && l.Port >= 32768 || proto == policy.TCP && slices.Contains(p.sshPorts, l.Port) {
		return q, false
	}
	name := cmp.Or(l.Program, strings.TrimSuffix(l.Unit, ".service"), "a program")
	return reaches(proto, l.Port, fmt.Sprintf("%s listens on %s/%d, but no address can reach it", name, l.Protocol, l.Port)), true
}

// reaches asks whether anybody can begin to speak to a port.
func reaches(proto policy.Proto, port uint16, lost string) policy.Question {
	return policy.Question{
		Rule:    policy.Rule{Dir: policy.In, Family: policy.Any, Protos: policy.Protos{proto}, States: policy.New, Flags: policy.Syn, Dport: onePort(port)},
		Lost:    lost,
		Remedy:  fmt.Sprintf("rule dir=in action=accept proto=%s dport=%d if it should be reachable", proto, port),
		AnyPart: true,
	}
}

func onePort(n uint16) policy.Ports {
	return policy.Ports{Given: true, In: []policy.PortRange{{First: n, Last: n}}}
}

// containers asks whether what lives behind a bridge can reach others and be answered.
func containers(l host.Link) []policy.Question {
	var nets []netip.Prefix
	for _, n := range l.Nets {
		if !n.Addr().IsLinkLocalUnicast() {
			nets = append(nets, n.Masked())
		}
	}
	if len(nets) == 0 {
		return nil
	}
	inside := policy.Within(nets...)
	bridge := policy.Interfaces{Names: []string{l.Name}}
	return []policy.Question{
		{
			Rule:    policy.Rule{Dir: policy.Forward, Family: policy.Any, Protos: policy.Protos{policy.TCP}, States: policy.New, Flags: policy.Syn, In: bridge, Src: inside},
			Lost:    fmt.Sprintf("containers or virtual machines behind %s cannot connect to any address", l.Name),
			Remedy:  fmt.Sprintf("rule dir=fwd action=accept proto=all iif=%s", l.Name),
			AnyPart: true,
		},
		{
			Rule:    policy.Rule{Dir: policy.Forward, Family: policy.Any, Protos: policy.Protos{policy.TCP}, States: policy.Established, Out: bridge, Dst: inside},
			Lost:    fmt.Sprintf("containers or virtual machines behind %s get no replies", l.Name),
			Remedy:  "rule dir=fwd action=accept proto=all ct=established,related",
			AnyPart: true,
		},
	}
}
