package decide

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"mef/internal/ban"
	"mef/internal/exempt"
	"mef/internal/prefixset"
)

// A Request is a ban that an operator asks for.
type Request struct {
	Prefix netip.Prefix
	For    time.Duration // 0: until lifted
	Ports  ban.Ports
	Author string
	Note   string
	Caller netip.Addr // from where the operator is logged in; the zero Addr if that is not known
	Known  int        // known logins inside Prefix
	Force  bool       // ban also what is very wide, or contains an address that must stay reachable: see unforced
}

// longestManual is how long an operator's ban lasts at most, unless it has no end: times in nanoseconds end in 2262.
const longestManual = 100 * 365 * 24 * time.Hour

// Manual makes the ban that an operator asks for. The error reports why it must not be, and what to do about it.
func Manual(r Request, facts exempt.Facts, now time.Time) (ban.Ban, error) {
	if !r.Prefix.IsValid() {
		return ban.Ban{}, errors.New("not an address or network")
	}
	p := prefixset.Normalize(r.Prefix)
	name := ban.Key{Prefix: p}.String()
	if why := facts.Untouchable(p); why != "" && p.IsSingleIP() {
		return ban.Ban{}, fmt.Errorf("%s is never banned: %s", name, why)
	} else if why != "" {
		return ban.Ban{}, fmt.Errorf("%s is never banned: it contains %s", name, why)
	}
	if why := facts.LetThrough(p); why != "" {
		return ban.Ban{}, fmt.Errorf("%s is %s, which the kernel accepts before any ban", name, why)
	}
	if r.For < 0 || r.For > 0 && r.For < time.Second {
		return ban.Ban{}, fmt.Errorf("a ban lasts at least a second, not %s", r.For)
	}
	if r.For > longestManual {
		return ban.Ban{}, errors.New("a ban lasts at most a hundred years: for a permanent one, leave out the time")
	}
	if why := unforced(&r, &facts, p); why != "" && !r.Force {
		return ban.Ban{}, fmt.Errorf("%s %s: use --force to ban it nevertheless", name, why)
	}
	b := ban.Ban{
		Key:   ban.Key{Prefix: p, Ports: r.Ports},
		Start: now, Rule: ban.ByHand, Count: 1,
		ID:     fmt.Sprintf("%s %s %d", ban.ByHand, p, now.UnixNano()),
		Reason: "added by " + cmp.Or(r.Author, "an operator"),
		Author: r.Author, Note: r.Note,
	}
	if r.For > 0 {
		b.Until = now.Add(r.For)
	}
	return b, nil
}

// unforced reports what speaks against a request that is not forced, "" if nothing does.
func unforced(r *Request, facts *exempt.Facts, p netip.Prefix) string {
	if exempt.TooWide(p) {
		return fmt.Sprintf("is wider than /%d", exempt.MinBits(p))
	}
	why := facts.Needed(p)
	switch {
	case why != "":
	case p.Contains(r.Caller):
		why = "the address from which you are logged in"
	case facts.Web(p) != "" && r.Ports.Overlaps(exempt.WebPorts):
		why = facts.Web(p)
	case facts.Sessions.Overlaps(p):
		why = "an address from which an administrator is logged in over SSH"
	case facts.Admins.Overlaps(p):
		why = "an address from which an administrator has logged in recently"
	case p.IsSingleIP():
	case facts.OnLink.Overlaps(p):
		why = "this host's own link"
	case r.Known > 0:
		why = fmt.Sprintf("%d known logins", r.Known)
	}
	switch {
	case why == "":
		return ""
	case p.IsSingleIP():
		return "is " + why
	}
	return "contains " + why
}
