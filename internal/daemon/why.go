package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/enforce/kernel"
	"mef/internal/engine"
	"mef/internal/host"
)

// Why explains an address: what the kernel does with it now, what is counted for it, and what keeps it from being banned.
func (d *daemon) Why(ctx context.Context, addr netip.Addr) (control.Why, error) {
	state, err := d.enforcer.HeldOver(ctx, addr)
	if err != nil {
		return control.Why{}, err
	}
	why := control.Why{Addr: addr.String(), Bans: d.reasons.show(ctx, state, d.askListed)}
	for i, held := range state.Bans {
		why.Bans[i].Set = kernel.SetOf(held.Key)
	}
	type known struct {
		engine.Explanation
		allowed string
	}
	now := time.Now()
	k, err := query(ctx, d.loop, func() known { return known{d.engine.Explain(addr, now, shownNeighbors), d.allowed(addr)} })
	if err != nil {
		return why, err
	}
	why.Allowed = k.allowed
	grace := time.Duration(0)
	for _, g := range state.Grace {
		grace = max(grace, time.Duration(g.Timeout))
	}
	explain(&why, k.Account, now)
	if k.Web != "" {
		why.Arithmetic = append(why.Arithmetic, fmt.Sprintf("it is %s: bans by rules leave its web ports open (%s)", k.Web, engine.WebPorts))
	}
	if k.SSH != "" {
		why.Arithmetic = append(why.Arithmetic, fmt.Sprintf("an administrator's SSH session from there is live: new bans leave port %s open to it", k.SSH))
	}
	for _, n := range k.Neighbors {
		why.Prefix = append(why.Prefix, control.Neighbor{Prefix: ban.Key{Prefix: n.Prefix}.String(), Score: float64(n.Score), Banned: n.Banned})
	}
	why.Requests = k.Requests
	why.Foreign = d.foreign(ctx, addr)
	why.Banned = len(why.Bans) > 0 && !k.Through && grace == 0
	why.Verdict = verdict(&why, grace, len(k.Pardons) > 0)
	return why, nil
}

// shownNeighbors is how many others of its network why names.
const shownNeighbors = 10

// ownTables are the tables of this project.
var ownTables = []string{"mefdaemon", "mef"}

// foreign says what else drops packets of an address, as far as can be seen.
func (d *daemon) foreign(ctx context.Context, addr netip.Addr) (found []string) {
	droppers, err := host.Droppers(ctx, addr, ownTables...)
	for _, dropper := range droppers {
		found = append(found, dropper.String())
	}
	if err != nil {
		found = append(found, fmt.Sprintf("there may be more: %v", err))
	}
	return found
}

// allowed says why an address is never banned, and where the operator wrote so; "" if it may be banned.
func (e *loop) allowed(addr netip.Addr) string {
	facts := e.engine.Facts()
	why := facts.Never(addr)
	if !facts.Allowed.Contains(addr) {
		return why
	}
	for _, item := range e.allowList {
		if item.Set.Contains(addr) {
			return fmt.Sprintf("%s (%s, %s)", why, item.Text, item.Source)
		}
	}
	return why
}

// explain turns an account into what is shown.
func explain(why *control.Why, a engine.Account, now time.Time) {
	why.Score, why.Limit = float64(a.Score), a.ScoreLimit
	if a.Source.IsValid() && a.Source != netip.PrefixFrom(a.Addr, a.Addr.BitLen()) {
		why.Arithmetic = append(why.Arithmetic, fmt.Sprintf("counted as %s, with all its addresses", a.Source))
	}
	if a.Tracked && a.Score > 0 {
		why.Arithmetic = append(why.Arithmetic, addUp(a)...)
		why.Arithmetic = append(why.Arithmetic, fmt.Sprintf("points halve every %s; last event %s ago",
			conf.FormatDuration(a.HalfLife), now.Sub(a.Seen).Round(time.Second)))
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
		why.Arithmetic = append(why.Arithmetic, fmt.Sprintf("%d users log in from here: bans are short and leave other ports alone", len(a.Known)))
	}
	for _, r := range a.Rules {
		why.Rules = append(why.Rules, control.RuleWhy{Rule: r.Rule, Attempts: float64(r.Attempts + r.Unverified),
			MaxRetry: r.Limit, FindTime: conf.FormatDuration(r.FindTime)})
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
			why.Arithmetic = append(why.Arithmetic, fmt.Sprintf("networks within %s that are banned: %d; %d make a ban of all of it",
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

// addUp says what the score consists of.
func addUp(a engine.Account) (lines []string) {
	sum := 0.0
	for _, r := range a.Rules {
		if r.Points > 0 {
			sum += r.Points
			lines = append(lines, fmt.Sprintf("%d attempts at %s, now worth %.1f points", r.Attempts, r.Rule, r.Points))
		}
	}
	if rest := a.Score - engine.Points(sum); rest > 0 {
		lines = append(lines, fmt.Sprintf("%d more of probes, and of attempts that no longer count one by one", rest))
	}
	return lines
}

// verdict says in a sentence what happens to packets of the address, and why.
func verdict(why *control.Why, grace time.Duration, forgiven bool) string {
	switch {
	case why.Allowed != "" && !why.Banned:
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
			text += "; it has logged in, so failures of its users are forgiven at a person's pace"
		}
		return text
	case why.Score > 0:
		return fmt.Sprintf("not banned: %v of %d points", why.Score, why.Limit)
	case forgiven:
		return "not banned: its failures are forgiven, and nothing else counts against it"
	case len(why.Known) > 0:
		return "not banned: it has logged in, and nothing counts against it"
	}
	return "not banned: nothing counts against it"
}

// Names answers mefctl names.
func (d *daemon) Names(ctx context.Context, prefix string, limit int) ([]control.Name, error) {
	names, err := query(ctx, d.loop, func() []engine.Name { return d.engine.Names(prefix, limit, time.Now()) })
	shown := make([]control.Name, len(names))
	for i, n := range names {
		shown[i] = control.Name{Name: n.Name, Origin: n.Origin, Hot: n.Hot, Protected: n.Protected, Tries: n.Tries, Networks: n.Networks, First: n.First, Last: n.Last}
	}
	return shown, err
}

// Alarms answers mefctl alarms.
func (d *daemon) Alarms(ctx context.Context) ([]control.Alarm, error) {
	alarms, err := query(ctx, d.loop, d.engine.Alarms)
	shown := make([]control.Alarm, len(alarms))
	for i, a := range alarms {
		shown[i] = control.Alarm{ID: a.ID, Time: a.Time, Addr: a.Addr.String(), User: a.User, Service: a.Service, Reason: a.Reason, Evidence: a.Evidence, Acked: a.Acked}
	}
	return shown, err
}

// Acknowledge marks alarms as seen. What was marked is saved with the next state.
func (d *daemon) Acknowledge(ctx context.Context, req control.AckRequest) (control.Acked, error) {
	n, err := query(ctx, d.loop, func() int {
		n := d.engine.Acknowledge(req.IDs...)
		d.save()
		return n
	})
	if err == nil && n > 0 {
		d.records.Add(control.Record{Time: time.Now(), Event: "alarms-acknowledged", Count: n, Author: req.Author})
	}
	return control.Acked{Acked: n}, err
}

// shownThreats is how many alarms and attacks status names.
const shownThreats = 3

// describeThreats fills in the alarms and the attacks under way. It runs on the engine's goroutine.
func (d *daemon) describeThreats(s *control.Status) {
	alarms := d.engine.Alarms()
	for i := len(alarms) - 1; i >= 0; i-- {
		a := alarms[i]
		if a.Acked {
			continue
		}
		if s.AlarmCount++; s.AlarmCount <= shownThreats {
			s.Alarms = append(s.Alarms, fmt.Sprintf("%s: %q logged in to %s from %s: %s", a.Time.Local().Format(time.DateTime), a.User, a.Service, a.Addr, a.Reason))
		}
	}
	for _, a := range d.engine.Attacks(time.Now()) {
		if len(s.Attacks) == shownThreats {
			break
		}
		s.Attacks = append(s.Attacks, a.String())
	}
}

// attacks are the distributed attacks that records have told of.
type attacks struct {
	looked  time.Time
	ongoing map[string]engine.Attack
}

// attacksEvery is how often it is looked for attacks that have begun or ended: looking takes milliseconds where very many sources are
// known.
const attacksEvery = 10 * time.Second

// noteAttacks adds a record for each distributed attack that has begun, and for each that is over, since the last look. at is the time of
// the latest event: no event, no news.
func (e *loop) noteAttacks(at time.Time) {
	if passed := at.Sub(e.attacks.looked); passed >= 0 && passed < attacksEvery {
		return
	}
	e.attacks.looked = at
	now := map[string]engine.Attack{}
	for _, a := range e.engine.Attacks(at) {
		key := fmt.Sprintf("%q %s %s", a.User, a.Net, a.Rule)
		now[key] = a
		if _, known := e.attacks.ongoing[key]; !known {
			e.records.Add(control.Record{Time: at, Event: "attack", Rule: a.Rule, User: a.User, Reason: a.String()})
		}
	}
	for key, a := range e.attacks.ongoing {
		if _, ongoing := now[key]; !ongoing {
			e.records.Add(control.Record{Time: at, Event: "attack-over", Rule: a.Rule, User: a.User, Reason: "limits are as usual again; it was: " + a.String()})
		}
	}
	e.attacks.ongoing = now
}
