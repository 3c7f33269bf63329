package engine

import (
	"iter"
	"net/netip"
	"time"

	"mef/internal/event"
	"mef/internal/portscan"
)

// Packet is one that the packet filter reports.
type Packet = event.Packet

// Packets returns what follows from packets that the packet filter reports. now is as in Lines. Packets of addresses that this host needs
// or has itself, of special ones, and of those that lists ban do not count.
func (e *Engine) Packets(packets []Packet, now time.Time) iter.Seq[*Outcome] {
	return func(yield func(*Outcome) bool) {
		for i := range packets {
			p := &packets[i]
			from := netip.PrefixFrom(p.From, p.From.BitLen())
			if e.facts.Untouchable(from) != "" || e.facts.Needed(from) != "" || e.blocked.Contains(p.From) {
				continue
			}
			if p.Mark == event.NewPeer {
				if !e.peer(p, yield) {
					return
				}
				continue
			}
			episode, rule := new(event.Episode), floodRule
			if p.Mark == event.ClosedPort {
				episode, rule = e.scans.Count(e.tracker.Source(p.From), p), portscan.RuleName
			} else if episode.Text = floodText(e.cfg.Flood, p); episode.Text == "" {
				continue
			}
			if episode == nil {
				continue
			}
			e.ev = event.Event{Time: p.Time, Rule: rule, Service: rule, Addr: p.From, Kind: event.Failure, Count: 1,
				Line: p.String(), Episode: episode}
			if !e.event("", &e.ev, now, yield) {
				return
			}
		}
	}
}

// ScanStats are what was found of port scans since the start.
type ScanStats = portscan.Stats

// Scans returns them.
func (e *Engine) Scans(now time.Time) ScanStats { return e.scans.Stats(now) }

// explainScans returns to how many closed ports an address came.
func (e *Engine) explainScans(addr netip.Addr, now time.Time) []string {
	return e.scans.Explain(e.tracker.Source(addr), now)
}
