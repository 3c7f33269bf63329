package engine

import (
	"fmt"

	"mef/internal/conf"
	"mef/internal/event"
)

// floodRule is the name of the rule whose events are sources that exceed limits at a port.
const floodRule = "flood"

// ruleOfFloods returns the rule for events of floods: several lead to a ban.
func ruleOfFloods(cfg conf.Flood) event.Rule {
	return event.Rule{Name: floodRule, Service: floodRule, MaxRetry: max(1, cfg.Hits), FindTime: cfg.Window, BanTime: cfg.BanTime,
		Detect: !cfg.Escalate || cfg.Mode == conf.FloodDetect}
}

// Floods returns how often sources exceeded limits.
func (e *Engine) Floods() event.RuleCounts { return e.Rule(floodRule) }

// floodText returns which limit a source has exceeded; "" if the packet was not reported for a limit.
func floodText(cfg conf.Flood, p *Packet) string {
	limits := cfg.Of[p.Port].Or(cfg.FloodLimits)
	switch p.Mark {
	case event.FloodSYN:
		return fmt.Sprintf("more than %d SYN packets a second to port %d, beyond a burst of %d", limits.SYNRate, p.Port, limits.SYNBurst)
	case event.FloodNew:
		return fmt.Sprintf("more than %d new connections a second to port %d, beyond a burst of %d", limits.NewRate, p.Port, limits.NewBurst)
	case event.FloodConns:
		return fmt.Sprintf("more than %d connections to port %d at a time", limits.Conns, p.Port)
	}
	return ""
}
