package engine

import (
	"cmp"
	"slices"
	"strings"

	"mef/internal/conf"
	"mef/internal/event"
)

// counted returns the rules of files as what the tracker counts by, but for those with engine=webscan, which have several each.
func counted(from []conf.Rule) []event.Rule {
	rules := make([]event.Rule, 0, len(from))
	for i := range from {
		r := &from[i]
		if r.Web != nil {
			continue
		}
		one := event.Rule{
			Name: r.Name, Service: r.Service, MaxRetry: r.MaxRetry, FindTime: r.FindTime, BanTime: r.BanTime, Points: r.Weight,
			Ports: r.Ports, ServicePorts: cmp.Or(r.ServicePorts, r.Ports), PortsAuto: r.PortsAuto,
			ServiceAuto: r.ServiceAuto || r.ServicePorts == "" && r.PortsAuto, Detect: r.Action == conf.ActionDetect,
			NamesUnknown: slices.ContainsFunc(r.Fail, func(p conf.Pattern) bool { return strings.Contains(p.Text, "(?P<unknownuser>") }),
			NoLogins:     len(r.OK) == 0 && (r.JSON == nil || len(r.JSON.OK) == 0),
		}
		one.Lenient = one.NoLogins && (r.BuiltIn() || slices.ContainsFunc(r.Fail, func(p conf.Pattern) bool { return p.Shipped }))
		if r.Escalation.Enabled {
			one.Escalation = event.Escalation{Window: r.Escalation.Window, Threshold: r.Escalation.Threshold}
		}
		rules = append(rules, one)
	}
	return rules
}
