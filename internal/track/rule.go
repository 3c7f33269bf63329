package track

import (
	"cmp"
	"slices"
	"strings"

	"mef/internal/conf"
	"mef/internal/event"
)

// A Rule says how the events of one detection rule count.
type Rule = event.Rule

// Rules returns the rules of files as what the tracker counts by.
func Rules(from []conf.Rule) []Rule {
	rules := make([]Rule, len(from))
	for i := range from {
		r := &from[i]
		rules[i] = Rule{
			Name: r.Name, Service: r.Service, MaxRetry: r.MaxRetry, FindTime: r.FindTime, BanTime: r.BanTime, Points: r.Weight,
			Ports: r.Ports, ServicePorts: cmp.Or(r.ServicePorts, r.Ports), Detect: r.Action == conf.ActionDetect,
			NamesUnknown: slices.ContainsFunc(r.Fail, func(p conf.Pattern) bool { return strings.Contains(p.Text, "(?P<unknownuser>") }),
		}
		if r.Escalation.Enabled {
			rules[i].Escalation = event.Escalation{Window: r.Escalation.Window, Threshold: r.Escalation.Threshold}
		}
	}
	return rules
}
