// Package decide turns a tally into a ban, or says why there is none.
//
// Decisions are pure functions of the tally (which carries the source's history and the bans in force), the configuration,
// the facts about this host, and now. Every ban carries its arithmetic as a sentence, so that a person can check it.
package decide

import (
	"net/netip"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/event"
	"mef/internal/prefixset"
)

// A Config says how long bans last, and whether there are any.
type Config struct {
	Times   conf.BanTimes
	Observe bool // nothing is banned, only said
}

// Facts say which addresses must stay reachable. Loopback, link-local, multicast and unspecified addresses always do.
type Facts struct {
	Own       prefixset.Set // this host's addresses
	Gateways  prefixset.Set
	Resolvers prefixset.Set
	Servers   prefixset.Set // DHCP servers
	Allowed   prefixset.Set // the allow list
	Proxies   prefixset.Set // proxies and CDNs: many clients behind each address
	OnLink    prefixset.Set // the networks of our own links
}

// A Verdict is what a decision comes to.
type Verdict string

// The verdicts.
const (
	None    Verdict = ""         // no limit is reached
	Ban     Verdict = "ban"      // Decision.Ban is to be put in force
	Observe Verdict = "observe"  // it would be, but mode=observe
	Detect  Verdict = "detect"   // it would be, but the rule only reports
	Covered Verdict = "covered"  // a ban in force does as much already
	Repeat  Verdict = "repeated" // this very line has been decided on before
	Refused Verdict = "refused"  // the address is never banned
)

// A Decision is what Decide makes of a tally.
type Decision struct {
	Verdict Verdict
	Ban     ban.Ban // the ban, or the one it would be; valid unless Verdict is None or Refused
	Reason  string  // what reached which limit and what follows; for Refused why nothing does
}

// Decide decides about the tally's event, at the time now.
func Decide(t *event.Tally, cfg Config, facts Facts, now time.Time) Decision { return Decision{} }

// A Request is an operator's wish for a ban.
type Request struct {
	Prefix netip.Prefix
	For    time.Duration // 0: until lifted
	Ports  ban.Ports
	Author string
	Note   string
	Force  bool // also networks wider than /16 (IPv4) or /32 (IPv6)
}

// Manual makes the ban that an operator asks for. The error says why it must not be.
func Manual(r Request, facts Facts, now time.Time) (ban.Ban, error) { return ban.Ban{}, nil }
