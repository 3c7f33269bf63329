package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"mef/internal/ban"
	"mef/internal/control"
	"mef/internal/event"
	"mef/internal/track"
)

// Why explains an address: what the kernel does with it now, what is counted for it, and what keeps it from being banned.
func (d *daemon) Why(ctx context.Context, addr netip.Addr) (control.Why, error) {
	state, err := d.enforcer.Held(ctx)
	if err != nil {
		return control.Why{}, err
	}
	why := control.Why{Addr: addr.String()}
	covering := state
	covering.Bans = nil
	for _, held := range state.Bans {
		if held.Prefix.Contains(addr) {
			covering.Bans = append(covering.Bans, held)
		}
	}
	for _, b := range d.book.show(ctx, covering) {
		if b.Kernel {
			why.Bans = append(why.Bans, b)
		}
	}
	var account track.Account
	now := time.Now()
	err = d.do(ctx, func() {
		account = d.tracker.Explain(addr, now)
		why.Allowed = d.facts.Never(addr)
	})
	if err != nil {
		return why, err
	}
	grace := time.Duration(0)
	for _, g := range state.Grace {
		if g.Prefix.Contains(addr) {
			grace = time.Duration(g.Timeout)
		}
	}
	explain(&why, account, now)
	why.Banned = len(why.Bans) > 0 && why.Allowed == "" && grace == 0
	why.Verdict = verdict(&why, grace)
	return why, nil
}

// explain turns an account into what is shown.
func explain(why *control.Why, a track.Account, now time.Time) {
	why.Score, why.Limit = float64(a.Score), a.ScoreLimit
	if a.Source.IsValid() && a.Source != netip.PrefixFrom(a.Addr, a.Addr.BitLen()) {
		why.Arithmetic = append(why.Arithmetic, fmt.Sprintf("counted as %s, with all its addresses", a.Source))
	}
	if a.Tracked && a.Score > 0 {
		why.Arithmetic = append(why.Arithmetic, fmt.Sprintf("points halve every %s; last event %s ago",
			short(a.HalfLife), now.Sub(a.Seen).Round(time.Second)))
	}
	if a.ScoreUnverified > 0 {
		why.Arithmetic = append(why.Arithmetic, fmt.Sprintf("%d more points from sources that can be forged", a.ScoreUnverified))
	}
	if a.Shared {
		why.Arithmetic = append(why.Arithmetic, fmt.Sprintf("%d users log in from here: bans are short and leave other ports alone", len(a.Known)))
	}
	for _, r := range a.Rules {
		why.Rules = append(why.Rules, control.RuleWhy{Rule: r.Rule, Attempts: float64(r.Attempts+r.Unverified) / float64(event.Whole(1)),
			MaxRetry: r.Limit, FindTime: short(r.FindTime)})
	}
	for _, l := range a.Known {
		why.Known = append(why.Known, l.User)
	}
	for _, p := range a.History {
		key := ban.Key{Prefix: p.Prefix}
		reason := "ended"
		switch {
		case p.Lifted:
			reason = "lifted by an operator"
		case p.Until.IsZero():
			reason = "without end"
		case p.Until.After(now):
			reason = "in force"
		}
		why.History = append(why.History, control.Ban{Prefix: key.String(), Rule: p.Rule, Start: p.Start, Until: end(p.Until), Reason: reason})
	}
	for _, w := range a.Wider {
		if w.Banned > 0 {
			why.Arithmetic = append(why.Arithmetic, fmt.Sprintf("%d networks within %s are banned; %d make a ban of all of it",
				w.Banned, w.Prefix, w.Limit))
		}
	}
	why.Evidence = a.Evidence
	if len(why.Evidence) == 0 {
		for _, b := range why.Bans {
			why.Evidence = append(why.Evidence, b.Evidence...)
		}
	}
}

// verdict says in a sentence what happens to packets of the address, and why.
func verdict(why *control.Why, grace time.Duration) string {
	switch {
	case why.Allowed != "":
		return "not banned: " + why.Allowed
	case grace > 0:
		return fmt.Sprintf("not banned: its ban was lifted by an operator, and nothing bans it for another %v", grace.Round(time.Second))
	case why.Banned:
		b := why.Bans[0]
		if b.Ports != "all" {
			return fmt.Sprintf("BANNED on ports %s by %s", b.Ports, b.Rule)
		}
		return "BANNED by " + b.Rule
	case len(why.Rules) > 0:
		r := why.Rules[0]
		text := fmt.Sprintf("not banned: %v of %d attempts at %s, and %v of %d points", r.Attempts, r.MaxRetry, r.Rule, why.Score, why.Limit)
		if len(why.Known) > 0 {
			text += "; it has logged in, so its failures weigh a quarter"
		}
		return text
	case len(why.Known) > 0:
		return "not banned: it has logged in, and nothing counts against it"
	}
	return "not banned: nothing counts against it"
}
