// Package lists holds the operator's lists: who is never banned, and who always is.
package lists

import (
	"fmt"
	"slices"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/exempt"
	"mef/internal/prefixset"
)

// MaxBlocked bounds the networks of all blacklist files together; entries beyond it are left out.
const MaxBlocked = 100_000

// Bans returns a ban without end for every network of blacklist entries, without the addresses that no list bans, and the entries that
// are left out: DNS names, networks that are too wide to be meant, and what is beyond MaxBlocked.
func Bans(entries []conf.Entry, never prefixset.Set, now time.Time) (bans []ban.Ban, leftOut []conf.Entry) {
	for _, entry := range entries {
		prefixes, ok := entry.Prefixes()
		if !ok || slices.ContainsFunc(prefixes, exempt.TooWide) || len(bans) >= MaxBlocked {
			leftOut = append(leftOut, entry)
			continue
		}
		for _, p := range prefixset.New(prefixes...).Subtract(never).Prefixes() {
			bans = append(bans, ban.Ban{Key: ban.Key{Prefix: p}, Start: now, Rule: ban.ByList, Note: entry.Note,
				ID: ban.ByList + " " + p.String(), Reason: fmt.Sprintf("listed in %s", entry.Pos)})
		}
	}
	return bans, leftOut
}

// Never returns the addresses that no blacklist bans: those that must stay reachable, proxies, and special ones.
func Never(facts *exempt.Facts) prefixset.Set {
	return facts.Reachable().Union(facts.Proxies).Union(exempt.Special())
}
