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
	NamesUnknown bool      // its lines about refusals report which users do not exist
	NoLogins     bool      // no line of it reports a login, so that failures alone do not show who belongs here
	Detect       bool      // attempts are counted and reported, and never ban
	Escalation   Escalation
}

// An Escalation reports when a source that keeps coming back is banned without end.
type Escalation struct {
	Window    time.Duration
	Threshold int // bans within Window; 0: never
}
