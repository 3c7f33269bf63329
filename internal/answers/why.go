// Package answers describes in the words of the control socket what the parts of a running daemon know: it turns their values into
// the answers of mefctl status and mefctl why.
package answers

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"mef/internal/ban"
	"mef/internal/control"
	"mef/internal/duration"
	"mef/internal/engine"
	"mef/internal/host/foreign"
)

// Why completes the explanation of an address whose bans and lists are in why: what is counted for it, what keeps it from being banned (allowed,
// "" if nothing does), and what happens to its packets. grace is for how long nothing bans it, because a ban was lifted.
func Why(why *control.Why, e engine.Explanation, allowed string, grace time.Duration, now time.Time) {
	why.Allowed = allowed
	explain(why, e.Account, now)
	why.Score += float64(e.Listed)
	if e.Web != "" {
		why.Arithmetic = append(why.Arithmetic, fmt.Sprintf("it is %s: bans by rules do not cover its web ports (%s)", e.Web, engine.WebPorts))
	}
	if e.SSH != "" {
		why.Arithmetic = append(why.Arithmetic, fmt.Sprintf("an administrator is logged in from it over SSH: new bans do not cover port %s", e.SSH))
	}
	for _, n := range e.Neighbors {
		why.Prefix = append(why.Prefix, control.Neighbor{Prefix: ban.Key{Prefix: n.Prefix}.String(), Score: float64(n.Score), Banned: n.Banned})
	}
	why.Requests, why.Scans, why.Listings = e.Requests, e.Scans, e.Listings
	why.Banned = len(why.Bans)+len(why.Lists) > 0 && !e.Through && grace == 0
	why.Verdict = verdict(why, grace, len(e.Pardons) > 0)
}

// inForce is the reason of a ban in an address's history whose end has not come.
const inForce = "in force"

// Unread adds to an explanation that the bans of the address cannot be read from the packet filter, which may not enforce any.
func Unread(why *control.Why, err error) {
	why.Verdict = fmt.Sprintf("bans cannot be enforced or read now: %v", err)
	for i, b := range why.History {
		if b.Reason == inForce {
			why.History[i].Reason = "should be in force"
			why.Verdict = fmt.Sprintf("should be banned by %s, but %s", b.Rule, why.Verdict)
			break
		}
	}
}

// explain turns an account into what is shown.
func explain(why *control.Why, a engine.Account, now time.Time) {
	why.Score, why.Limit = float64(a.Score), a.ScoreLimit
	if a.Source.IsValid() && a.Source != netip.PrefixFrom(a.Addr, a.Addr.BitLen()) {
		why.Arithmetic = append(why.Arithmetic, fmt.Sprintf("counted as %s, all addresses together", a.Source))
	}
	if a.Tracked && a.Score > 0 {
		why.Arithmetic = append(why.Arithmetic, addUp(a)...)
		why.Arithmetic = append(why.Arithmetic, fmt.Sprintf("points halve every %s; last event %s ago",
			duration.Format(a.HalfLife), now.Sub(a.Seen).Round(time.Second)))
	}
	if a.ScoreUnverified > 0 {
		why.Arithmetic = append(why.Arithmetic, fmt.Sprintf("%d more points from sources that can be forged", a.ScoreUnverified))
	}
	for _, p := range a.Pardons {
		why.Arithmetic = append(why.Arithmetic, fmt.Sprintf("%d failures of user %q at %s do not count: the user %s, and fails at a person's or a device's pace; the latest was %s ago",
			p.Failures, p.User, p.Service, p.Reason, now.Sub(p.Last).Round(time.Second)))
	}
	for _, attack := range a.Attacks {
		why.Arithmetic = append(why.Arithmetic, attack.String())
	}
	if a.Shared {
		why.Arithmetic = append(why.Arithmetic, fmt.Sprintf("%d users log in from here: bans are short and cover the service's ports only", len(a.Known)))
	}
	for _, r := range a.Rules {
		why.Rules = append(why.Rules, control.RuleWhy{Rule: r.Rule, Attempts: float64(r.Attempts + r.Unverified),
			MaxRetry: r.Limit, FindTime: duration.Format(r.FindTime)})
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
			reason = inForce
		}
		why.History = append(why.History, control.Ban{Prefix: key.String(), Rule: p.Rule, Start: p.Start, Until: control.Moment(p.Until), Reason: reason})
	}
	for _, w := range a.Wider {
		if w.Banned > 0 {
			why.Arithmetic = append(why.Arithmetic, fmt.Sprintf("banned networks within %s: %d; with %d, all of it is banned",
				w.Prefix, w.Banned, w.Limit))
		}
	}
	why.Evidence = a.Evidence
	if len(why.Evidence) == 0 {
		for _, b := range why.Bans {
			why.Evidence = append(why.Evidence, b.Evidence...)
		}
	}
}

// addUp returns what the score consists of.
func addUp(a engine.Account) (lines []string) {
	sum := 0.0
	for _, r := range a.Rules {
		if r.Points > 0 {
			sum += r.Points
			lines = append(lines, fmt.Sprintf("%d attempts at %s, now worth %.1f points", r.Attempts, r.Rule, r.Points))
		}
	}
	if rest := a.Score - engine.Points(sum); rest > 0 {
		lines = append(lines, fmt.Sprintf("%d more points of probes and of old attempts", rest))
	}
	return lines
}

// verdict returns in a sentence what happens to packets of the address, and why.
func verdict(why *control.Why, grace time.Duration, forgiven bool) string {
	switch {
	case why.Allowed != "" && !why.Banned:
		return "not banned: " + why.Allowed
	case grace > 0:
		return fmt.Sprintf("not banned: its ban was lifted by an operator; it is not banned again for %v", grace.Round(time.Second))
	case why.Banned && len(why.Bans) == 0 && slices.Contains(why.Lists, ban.ByList):
		return "BANNED by " + ban.ByList
	case why.Banned && len(why.Bans) == 0:
		return "BANNED by " + why.Lists[0]
	case why.Banned:
		b := why.Bans[0]
		if b.Ports != "all" {
			return fmt.Sprintf("BANNED on ports %s by %s", b.Ports, b.Rule)
		}
		return "BANNED by " + b.Rule
	case len(why.Rules) > 0:
		r := why.Rules[0]
		text := fmt.Sprintf("not banned: %v of %d attempts at %s, and %s", r.Attempts, r.MaxRetry, r.Rule, points(why))
		if len(why.Known) > 0 {
			text += "; users have logged in from it, so some of their failures are forgiven"
		}
		return text
	case why.Score > 0:
		return "not banned: " + points(why)
	case forgiven:
		return "not banned: its failures are forgiven, and nothing else counts against it"
	case len(why.Known) > 0:
		return "not banned: users have logged in from it, and no failures count"
	}
	return "not banned: no failures count"
}

// points returns how far the score is from a ban.
func points(why *control.Why) string {
	if why.Limit == 0 {
		return fmt.Sprintf("%v points, which ban nobody", why.Score)
	}
	return fmt.Sprintf("%v of %d points", why.Score, why.Limit)
}

// ownTables are the tables of this project.
var ownTables = []string{"mefdaemon", "mef"}

// Foreign describes what else drops packets of an address, as far as can be seen.
func Foreign(ctx context.Context, addr netip.Addr) (found []string) {
	droppers, err := foreign.Droppers(ctx, addr, ownTables...)
	for _, dropper := range droppers {
		found = append(found, dropper.String())
	}
	if err != nil {
		found = append(found, fmt.Sprintf("there may be more: %v", err))
	}
	return found
}
