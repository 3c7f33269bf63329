package decide

import (
	"fmt"
	"time"

	"mef/internal/ban"
	"mef/internal/exempt"
)

// CrowdedAt is how many addresses of an IPv4 network of 24 bits must be banned one by one for it to be banned whole, once there is no
// room for more bans. It is a quarter of the network; while there is room, no IPv4 network is banned for what addresses did.
const CrowdedAt = 64

// Crowd makes the ban of a crowded network until a time. ok is false if an address in it must stay reachable.
func Crowd(w ban.Wider, until time.Time, facts exempt.Facts, now time.Time) (b ban.Ban, ok bool) {
	if !w.Reached() || facts.Inside(w.Prefix) != "" || w.Known > 0 {
		return ban.Ban{}, false
	}
	return ban.Ban{
		Key: ban.Key{Prefix: w.Prefix}, Start: now, Until: until, Rule: ban.ByCrowd, Count: 1,
		ID:     fmt.Sprintf("%s %s %d", ban.ByCrowd, w.Prefix, now.UnixNano()),
		Reason: fmt.Sprintf("%d of its addresses are banned, and there is no room for more bans: all of it", w.Banned),
	}, true
}
