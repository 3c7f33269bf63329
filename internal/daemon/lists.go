package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/prefixset"
)

// byList is the rule name of bans that a file in the blacklist directory asks for.
const byList = "blacklist"

// maxListed bounds the networks of all blacklist files together; what is beyond is left out and said.
const maxListed = 100_000

// listedBans returns a ban without end for every network of the blacklist files, without the addresses in protected, and the
// entries that are left out: DNS names, networks that are too wide to be meant, and what is beyond maxListed.
func listedBans(entries []conf.Entry, protected prefixset.Set, now time.Time) (bans []ban.Ban, leftOut []conf.Entry) {
	for _, entry := range entries {
		prefixes, ok := entry.Prefixes()
		if !ok || slices.ContainsFunc(prefixes, tooWide) || len(bans) >= maxListed {
			leftOut = append(leftOut, entry)
			continue
		}
		for _, p := range prefixset.New(prefixes...).Subtract(protected).Prefixes() {
			bans = append(bans, ban.Ban{Key: ban.Key{Prefix: p}, Start: now, Rule: byList, Note: entry.Note,
				ID: byList + " " + p.String(), Reason: fmt.Sprintf("listed in %s", entry.Pos)})
		}
	}
	return bans, leftOut
}

// tooWide reports whether p is wider than a ban may be unless an operator insists.
func tooWide(p netip.Prefix) bool {
	return p.Addr().Is4() && p.Bits() < 16 || p.Addr().Is6() && p.Bits() < 32
}

// adoptLists merges the bans of the blacklist files into those in force before, whose slice it takes over. It returns those to
// be in force, and the keys of bans whose entry has gone from the files.
func (d *daemon) adoptLists(before []ban.Ban, now time.Time) (inForce []ban.Ban, gone []ban.Key) {
	bans, leftOut := listedBans(d.cfg.Blacklist, d.reachable(), now)
	for _, entry := range leftOut[:min(len(leftOut), 10)] {
		d.log.Warn("blacklist entry left out: it is a name, wider than /16 (IPv6: /32), or one too many", "at", entry.Pos.String(),
			"entry", entry.Text, "left out in all", len(leftOut))
	}
	listed := make(map[ban.Key]bool, len(bans))
	for _, b := range bans {
		listed[b.Key] = true
	}
	// In place, because there may be very many and seldom any of a list.
	inForce = slices.DeleteFunc(before, func(b ban.Ban) bool {
		if b.Rule == byList && !listed[b.Key] {
			gone = append(gone, b.Key)
		}
		return b.Rule == byList
	})
	return append(inForce, bans...), gone
}

// dropGone lifts bans whose entry has gone from the blacklist files.
func (d *daemon) dropGone(ctx context.Context) {
	if err := d.enforcer.Unban(ctx, 0, d.gone...); err != nil {
		d.log.Error("lift bans that are no longer listed", "err", err)
	}
}
