package track

import (
	"mef/internal/ban"
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
			Ports: r.Ports, ServicePorts: servicePorts[r.Service], Detect: r.Action == conf.ActionDetect,
		}
		if r.Escalation.Enabled {
			rules[i].Escalation = event.Escalation{Window: r.Escalation.Window, Threshold: r.Escalation.Threshold}
		}
	}
	return rules
}

// mailPorts are those of all mail services: a guesser at IMAP goes on at SMTP with the same names.
const mailPorts = "25,110,143,465,587,993,995,4190"

// servicePorts are the ports of the services that rules are shipped for.
var servicePorts = map[string]ban.Ports{
	"sshd":    "22",
	"dovecot": mailPorts,
	"postfix": mailPorts,
	"vsftpd":  "20-21",
}
