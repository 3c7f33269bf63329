package coverage

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/host"
	"mef/internal/ordered"
)

const (
	// portsFor is how long a port remains that of a service that does not listen there any more: it may be restarting, or the host.
	portsFor = 7 * 24 * time.Hour
	// maxPorts is how many ports of a rule's service are known; further ones are not added to its bans.
	maxPorts = 16
	// saveAge is how old saved times may become.
	saveAge = 24 * time.Hour
	// privileged is the first port that any user may open, clientPorts the first of those that the kernel gives to clients, and udpStays how
	// long a UDP port between them must be open to be that of a service: a resolver sends each question from another one.
	privileged  = 1024
	clientPorts = 32768
	udpStays    = 20 * time.Second
)

// Ports are the ports at which the services of rules with ports=auto listen, for others than this host: TCP ports, and UDP ports if the rule
// has transport=udp. The zero value knows none.
//
// A port counts only if the service itself listens there: a socket of its unit, opened by root, a system account or an account that the
// rule names, or a socket of root's in a program that the rule covers. What a local user starts, under whatever name, does not count.
type Ports struct {
	rules map[string][]openPort // by rule, in order of the ports
	udp   map[udpPort]time.Time // since when UDP ports are open that may be those of clients
	saved time.Time
}

// A udpPort is a UDP port of the service of a rule.
type udpPort struct {
	rule string
	port uint16
}

// An openPort is a port at which a service listens, or did until a time.
type openPort struct {
	Port uint16
	By   string // the unit or program
	At   time.Time
	Open bool `json:"-"` // it listens there now
}

// RestorePorts returns what Save returned in an earlier run; nothing is known if it is something else.
func RestorePorts(text string) *Ports {
	p := new(Ports)
	if json.Unmarshal([]byte(text), &p.rules) != nil {
		p.rules = nil
	}
	return p
}

// Save returns the ports as text for RestorePorts. due reports whether it differs enough from what was saved before.
func (p *Ports) Save(changed bool, now time.Time) (text string, due bool) {
	if !changed && (len(p.rules) == 0 || now.Sub(p.saved) < saveAge) {
		return "", false
	}
	data, err := json.Marshal(p.rules)
	p.saved = now
	return string(data), err == nil
}

// Look takes over what listens now. It reports whether the ports of a rule are others than before. userID returns the number of an account.
func (p *Ports) Look(rules []conf.Rule, services Services, listeners []host.Listener, userID func(name string) (uint32, bool), now time.Time) (changed bool) {
	next, before := make(map[string][]openPort), p.udp
	p.udp = nil
	for i := range rules {
		r := &rules[i]
		if !r.Enabled || !r.PortsAuto && !r.ServiceAuto {
			continue
		}
		if ports := p.look(r, services, listeners, uids(r, userID), before, now); len(ports) > 0 {
			next[r.Name] = ports
		}
	}
	changed = !maps.EqualFunc(p.rules, next, func(a, b []openPort) bool {
		return slices.EqualFunc(a, b, func(x, y openPort) bool { return x.Port == y.Port })
	})
	p.rules = next
	return changed
}

// Waiting reports whether UDP ports are open of which only time shows whether they are those of a service.
func (p *Ports) Waiting(now time.Time) bool {
	for _, since := range p.udp {
		if now.Sub(since) < udpStays {
			return true
		}
	}
	return false
}

// stays reports whether a UDP port of the service of a rule is no client's. before is since when ports are open, as of the last look.
func (p *Ports) stays(r *conf.Rule, port uint16, before map[udpPort]time.Time, now time.Time) bool {
	if port < privileged || p.knows(r.Name, port) {
		return true
	}
	key := udpPort{r.Name, port}
	since, open := before[key]
	if !open {
		since = now
	}
	if p.udp == nil {
		p.udp = make(map[udpPort]time.Time)
	}
	p.udp[key] = since
	return now.Sub(since) >= udpStays
}

// look returns the ports of one rule.
func (p *Ports) look(r *conf.Rule, services Services, listeners []host.Listener, accounts []uint32, udp map[udpPort]time.Time, now time.Time) (ports []openPort) {
	others := make(map[uint16]bool)
	for _, l := range listeners {
		switch {
		case l.Local() || l.Protocol != "tcp" && (!r.UDP || l.Port >= clientPorts):
		case !own(r, services, l, accounts):
			others[l.Port] = true
		case l.Protocol != "tcp" && !p.stays(r, l.Port, udp, now):
		case !slices.ContainsFunc(ports, func(o openPort) bool { return o.Port == l.Port }):
			ports = append(ports, openPort{l.Port, show(l), now, true})
		}
	}
	for _, old := range p.rules[r.Name] {
		old.Open = false
		known := slices.ContainsFunc(ports, func(o openPort) bool { return o.Port == old.Port })
		if !known && !others[old.Port] && now.Sub(old.At) < portsFor {
			ports = append(ports, old)
		}
	}
	if len(ports) > maxPorts { // those known before stay, so that a service that opens ports all the time does not change its bans with them
		ordered.Sort(ports, func(a, b openPort) int { return compareBool(!p.knows(r.Name, a.Port), !p.knows(r.Name, b.Port)) })
		ports = ports[:maxPorts]
	}
	ordered.Sort(ports, func(a, b openPort) int { return cmp.Compare(a.Port, b.Port) })
	return ports
}

func (p *Ports) knows(rule string, port uint16) bool {
	return slices.ContainsFunc(p.rules[rule], func(o openPort) bool { return o.Port == port })
}

// own reports whether a listener is the service of a rule, which nobody else can imitate.
func own(r *conf.Rule, services Services, l host.Listener, accounts []uint32) bool {
	unit := serviceOf(l)
	if services.Serves(r.Name, unit) {
		return systemAccount(l.UID) || slices.Contains(accounts, l.UID)
	}
	return l.UID == 0 && covers(services, r, l)
}

// All returns the ports by rule.
func (p *Ports) All() map[string]ban.Ports {
	all := make(map[string]ban.Ports, len(p.rules))
	for name, ports := range p.rules {
		var list []string
		for _, o := range ports {
			list = append(list, strconv.Itoa(int(o.Port)))
		}
		if parsed, err := ban.ParsePorts(strings.Join(list, ",")); err == nil {
			all[name] = parsed
		}
	}
	return all
}

// Reason returns where the service of a rule listens: "ssh.service listens on 2222; it listened on 22 until 2026-01-02 15:04:05". It is
// empty for a rule whose ports do not follow its service.
func (p *Ports) Reason(r *conf.Rule) string {
	if !r.PortsAuto && !r.ServiceAuto {
		return ""
	}
	open := make(map[string][]uint16)
	var parts []string
	for _, o := range p.rules[r.Name] {
		if o.Open {
			open[o.By] = append(open[o.By], o.Port)
		} else {
			parts = append(parts, fmt.Sprintf("%s listened on %d until %s", o.By, o.Port, o.At.Local().Format(time.DateTime)))
		}
	}
	for _, by := range slices.Backward(slices.Sorted(maps.Keys(open))) {
		list := strings.Trim(strings.ReplaceAll(fmt.Sprint(open[by]), " ", ", "), "[]")
		parts = slices.Insert(parts, 0, fmt.Sprintf("%s listens on %s", by, list))
	}
	if len(parts) == 0 {
		return "the usual ports, because " + r.Service + " does not listen"
	}
	return strings.Join(parts, "; ")
}
