package loader

import (
	"context"
	"os"
	"time"

	"mef/internal/conf"
	"mef/internal/firewall/inforce"
	"mef/internal/firewall/policy"
	"mef/internal/sleep"
)

// How long a restore waits for the program that removed the table to finish, and how far it backs off if the table is removed repeatedly.
const (
	restoreAfter = 100 * time.Millisecond
	restoreMost  = 30 * time.Second
	calm         = time.Minute // without a removal, the next one is restored at once again
)

// Watch restores the policy that was loaded last whenever somebody removes it, as nft flush ruleset does, until ctx is done; it then
// returns nil. A policy that is being tried is left to its guard, and what mef clear removed stays away. A restore that fails is tried
// again until it succeeds. report is called with each restore, whose error is nil if it succeeded.
func (l *Loader) Watch(ctx context.Context, report func(error)) error {
	w, err := inforce.NewWatch()
	if err != nil {
		return err
	}
	defer w.Close()
	wait, last := restoreAfter, time.Now()
	for {
		restored, err := l.Restore(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if restored || err != nil {
			report(err)
			if wait *= 2; time.Since(last) > calm {
				wait = restoreAfter
			}
			wait, last = min(wait, restoreMost), time.Now()
		}
		if err == nil {
			if err := w.Deleted(ctx); ctx.Err() != nil {
				return nil
			} else if err != nil {
				return err
			}
		}
		if !sleep.For(ctx, wait) {
			return nil
		}
	}
}

// Restore loads again what was loaded last in this boot, if nothing of it is left in nf_tables. It reports whether it did.
func (l *Loader) Restore(ctx context.Context) (restored bool, err error) {
	err = l.locked(ctx, func() error {
		in, ok := l.noted()
		if !ok || in.Boot != inforce.Boot() || in.Backend != conf.NFTables.String() || l.state.has(trial) || l.state.has(expired) {
			return nil
		}
		held, _, err := inforce.Fingerprint()
		if err != nil || held != "" {
			return err
		}
		text, err := os.ReadFile(l.state.path(loadedRules))
		if err != nil {
			return err
		}
		src, err := policy.Thaw(l.state.path(loadedRules), text)
		if err != nil {
			return err
		}
		restored = true
		return l.put(ctx, nftables{}, src, policy.Facts{}, in)
	})
	return restored, err
}
