package decide

import (
	"fmt"
	"time"

	"mef/internal/ban"
	"mef/internal/exempt"
)

const longestUnverified = 10 * time.Minute

// TakeOver makes the ban of another host one of this host, which knows so many logins inside its prefix. The error reports why it must not be: what is
// never banned here, or not without force, is decided here, and so are the addresses from which users log in here.
func TakeOver(r ban.Shared, known int, facts exempt.Facts, now time.Time) (ban.Ban, error) {
	if known > 0 {
		return ban.Ban{}, fmt.Errorf("users log in here from %s, which host %s has banned", r.Key, r.Host)
	}
	if r.Class == ban.Unverified {
		r.For = min(r.For, longestUnverified)
	}
	b, err := Manual(Request{Prefix: r.Prefix, For: r.For, Ports: r.Ports, Known: known}, facts, now)
	if err != nil {
		return b, err
	}
	b.Class, b.Rule, b.ID, b.Reason, b.Author = r.Class, ban.ByFleet, r.ID, r.Reason, r.Host
	return b, nil
}
