package ipset

import (
	"context"
	"maps"
	"strings"
	"time"

	"mef/internal/enforce"
)

const (
	// pollEvery is how often Watch looks for changes by others. The kernel counts the elements of sets one by one, which takes milliseconds
	// where there are very many: the time between two looks is pollShare times as long as one at least.
	pollEvery = 500 * time.Millisecond
	pollShare = 50
	// readEvery is how often everything is compared although nothing seems to have changed: of a set whose elements were replaced by as
	// many others there is no sign.
	readEvery = 10 * time.Minute
)

// A view is what is cheap to read and shows changes by others.
type view struct {
	rules string         // see xtables.seen
	fixed map[string]int // elements of the sets that hold no bans
	bans  int
}

// fixedCounts returns how many elements the sets have that hold no bans, and that packets do not fill.
func fixedCounts(found map[string]header) map[string]int {
	counts := map[string]int{}
	for name, h := range found {
		if _, _, isBans := parseKind(name); strings.HasPrefix(name, prefix) && !isBans && h.lasting == 0 {
			counts[name] = h.elements
		}
	}
	return counts
}

// noteFixed notes the number of elements after a change of ours.
func (b *Backend) noteFixed() error {
	found, err := b.conn.headers()
	b.seen.fixed = fixedCounts(found)
	return err
}

// Watch implements enforce.Backend.
func (b *Backend) Watch(ctx context.Context, changed func(enforce.Notice)) error {
	next := time.NewTimer(pollEvery)
	defer next.Stop()
	read := time.NewTicker(readEvery)
	defer read.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-read.C:
			changed(enforce.Notice{})
		case <-next.C:
			began := time.Now()
			if notice, ok := b.poll(); ok {
				changed(notice)
			}
			next.Reset(max(pollEvery, pollShare*time.Since(began)))
		}
	}
}

// poll reports whether others may have changed something since the last poll.
func (b *Backend) poll() (notice enforce.Notice, changed bool) {
	b.write.Lock()
	defer b.write.Unlock()
	rules, err := b.tables.seen(b.conn)
	if err != nil {
		return notice, true
	}
	found, err := b.conn.headers()
	if err != nil {
		return notice, true
	}
	now := view{rules: rules, fixed: fixedCounts(found), bans: bans(found)}
	before := b.seen
	b.seen = now
	elements := before.fixed != nil && !maps.Equal(before.fixed, now.fixed)
	return enforce.Notice{Shallow: !elements}, elements || before.rules != now.rules || now.bans < before.bans
}
