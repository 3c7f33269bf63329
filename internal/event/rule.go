package event

import (
	"time"

	"mef/internal/ban"
)

// A Rule reports how the events of one detection rule count. It need not come from a file: whatever produces events has rules.
type Rule struct {
	Name    string // unique; Event.Rule names it
	Service string // what it protects: "sshd"

	MaxRetry int           // this many attempts
	FindTime time.Duration // within this time ban
	BanTime  time.Duration // first ban; 0: that of the configuration
	Points   int           // of an attempt in the score across services; 0: that of the configuration

	Ports        ban.Ports // of its bans; empty: all
	ServicePorts ban.Ports // of the service, for bans that must leave other ports alone; empty: not known
	PortsAuto    bool      // Ports follow the service: see Listening
	ServiceAuto  bool      // ServicePorts do
	Listens      ban.Ports // where the service listens beyond the ports that the rule names, if any of them follow it; empty: nowhere
	NamesUnknown bool      // its lines about refusals report which users do not exist
	NoLogins     bool      // no line of it reports a login, so that failures alone do not show who belongs here
	Lenient      bool      // so failures of names that may be users' weigh less, which an operator's own rule does not ask for
	Detect       bool      // attempts are counted and reported, and never ban
	Escalation   Escalation
}

// Listening returns the rule for a service that listens at some TCP ports, none if that is not known. Ports that follow the service are those
// of the list and those at which it listens. Without a list, they are those at which it listens, otherwise those of the service,
// otherwise all.
func (r Rule) Listening(at ban.Ports) Rule {
	if !r.PortsAuto && !r.ServiceAuto {
		return r
	}
	named := r.Ports
	switch {
	case !r.PortsAuto:
		named = r.ServicePorts
	case r.Ports != "":
		r.Ports = following(r.Ports, at)
	case at != "":
		r.Ports, named = at, r.ServicePorts
	default:
		r.Ports, named = r.ServicePorts, r.ServicePorts
	}
	if r.ServiceAuto {
		r.ServicePorts = following(r.ServicePorts, at)
	}
	r.Listens = at
	if at != "" && named != "" {
		r.Listens, _ = at.Without(named)
	}
	return r
}

// following adds ports to a list, unless a ban could not have so long a list.
func following(list, at ban.Ports) ban.Ports {
	if all := list.With(at); len(all) <= ban.MaxPorts {
		return all
	}
	return list
}

// An Escalation reports when a source that keeps coming back is banned without end.
type Escalation struct {
	Window    time.Duration
	Threshold int // bans within Window; 0: never
}
