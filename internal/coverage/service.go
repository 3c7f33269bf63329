package coverage

import (
	"cmp"
	"slices"
	"strconv"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/host"
	"mef/internal/ordered"
)

// BanPorts is ban.Ports.
type BanPorts = ban.Ports

// A Service is a service that listens at some ports.
type Service struct {
	Name     string // its unit or its program
	Unknown  bool   // neither is known; Name is a note of that
	Protocol string // "tcp" or "udp"
	Ports    []uint16
	Local    bool     // only this host can reach it
	Rules    []string // that are enabled and cover it
	Open     []uint16 // of Ports, those that the bans of none of Rules cover; none if there is no rule
}

// List returns the services among listeners, with the rules that cover each: those that others can reach first, by name and protocol. A
// rule covers a service if it reads what it logs; where nothing is known of it but the port, if it bans on that port. bans returns the ports of
// the bans of a rule.
func List(rules []conf.Rule, services Services, listeners []host.Listener, bans func(rule string) ban.Ports) (all []Service) {
	for _, l := range listeners {
		s := Service{Name: show(l), Unknown: l.Unit == "" && l.Program == "", Protocol: l.Protocol, Local: l.Local()}
		for i := range rules {
			if r := &rules[i]; r.Enabled && (covers(services, r, l) || serves(r, l)) {
				s.Rules = append(s.Rules, r.Name)
			}
		}
		slices.Sort(s.Rules)
		i := slices.IndexFunc(all, func(o Service) bool {
			return o.Name == s.Name && o.Protocol == s.Protocol && o.Local == s.Local && slices.Equal(o.Rules, s.Rules)
		})
		if i < 0 {
			i, all = len(all), append(all, s)
		}
		if slices.Contains(all[i].Ports, l.Port) {
			continue
		}
		all[i].Ports = append(all[i].Ports, l.Port)
		covered := func(rule string) bool { return bans(rule).Covers(ban.Ports(strconv.Itoa(int(l.Port)))) }
		if len(s.Rules) > 0 && !s.Local && !slices.ContainsFunc(s.Rules, covered) {
			all[i].Open = append(all[i].Open, l.Port)
		}
	}
	// A service that others can reach at a port is not shown again for its local addresses.
	all = slices.DeleteFunc(all, func(s Service) bool {
		return s.Local && slices.ContainsFunc(all, func(o Service) bool {
			return !o.Local && o.Name == s.Name && o.Protocol == s.Protocol && !slices.ContainsFunc(s.Ports, func(p uint16) bool { return !slices.Contains(o.Ports, p) })
		})
	})
	ordered.Sort(all, func(a, b Service) int {
		return cmp.Or(compareBool(a.Local, b.Local), compareBool(a.Unknown, b.Unknown), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Protocol, b.Protocol),
			slices.Compare(a.Ports, b.Ports))
	})
	return all
}

// compareBool orders false before true.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}
