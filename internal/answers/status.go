package answers

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"mef/internal/confirm"
	"mef/internal/control"
	"mef/internal/enforce"
	"mef/internal/engine"
	"mef/internal/event"
	"mef/internal/eventlog"
)

// Kernel fills in what the packet filter holds. ever is how many bans were made since the start.
func Kernel(s *control.Status, r enforce.Report, ever uint64) {
	s.Kernel = control.Kernel{Backend: r.Filter, Table: r.Table, Present: r.Present, Elements: r.Bans.Total, Matches: r.Matches,
		Repairs: r.Repairs, Evicted: r.Evicted, Problems: r.Problems}
	s.Warnings = append(s.Warnings, r.Lacks...)
	s.Bans = control.Tally{Total: r.Bans.Total, IPv4: r.Bans.IPv4, IPv6: r.Bans.IPv6, Unverified: r.Bans.Unverified, Permanent: r.Bans.Permanent, Ever: ever}
}

// Alarms returns the alarms, oldest first.
func Alarms(e *engine.Engine) []control.Alarm {
	alarms := e.Alarms()
	shown := make([]control.Alarm, len(alarms))
	for i, a := range alarms {
		shown[i] = control.Alarm{ID: a.ID, Time: a.Time, Addr: a.Addr.String(), User: a.User, Service: a.Service, Reason: a.Reason, Evidence: a.Evidence, Acked: a.Acked}
	}
	return shown
}

// Names returns entries of the dictionary of user names; see engine.Engine.Names.
func Names(e *engine.Engine, prefix string, limit int, now time.Time) []control.Name {
	names := e.Names(prefix, limit, now)
	shown := make([]control.Name, len(names))
	for i, n := range names {
		shown[i] = control.Name{Name: n.Name, Origin: n.Origin, Hot: n.Hot, Protected: n.Protected, Tries: n.Tries, Networks: n.Networks, First: n.First, Last: n.Last}
	}
	return shown
}

// shownThreats is how many alarms and attacks status names.
const shownThreats = 3

// Engine fills in what the engine knows: the alarms, the attacks under way, and how full it is.
func Engine(s *control.Status, e *engine.Engine, now time.Time) {
	alarms := e.Alarms()
	for i := len(alarms) - 1; i >= 0; i-- {
		a := alarms[i]
		if a.Acked {
			continue
		}
		if s.AlarmCount++; s.AlarmCount <= shownThreats {
			s.Alarms = append(s.Alarms, fmt.Sprintf("%s: %q logged in to %s from %s: %s", a.Time.Local().Format(time.DateTime), a.User, a.Service, a.Addr, a.Reason))
		}
	}
	for _, a := range e.Attacks(now) {
		if len(s.Attacks) == shownThreats {
			break
		}
		s.Attacks = append(s.Attacks, a.String())
	}
	facts := e.Facts()
	for _, family := range facts.FullyExempt() {
		s.Missing = append(s.Missing, fmt.Sprintf("the allow list contains all of %s, so no address is banned; see mefctl lists whitelist", family))
	}
	web := e.WebStats()
	for _, name := range slices.Sorted(maps.Keys(web)) {
		if n := web[name].Evicted; n > 0 {
			s.Warnings = append(s.Warnings, fmt.Sprintf("rule %s follows %d sources at a time, and dropped %d since start; raise max_active_ips in its file", name, web[name].Limit, n))
		}
	}
	st := e.Stats()
	s.Spared = control.Spared{AdminPeers: facts.LiveAdmins, Reasons: e.Spared()}
	s.Tracker = control.Tracker{Sources: st.Sources, Limit: st.MaxSources, Evicted: st.Evicted, KnownLogins: st.Logins}
}

// Floods fills in how often the limits of ports were exceeded.
func Floods(s *control.Status, k enforce.ScanStatus, found event.RuleCounts) {
	s.Floods = control.Floods{On: k.Guard, Off: k.GuardOff, Found: found.Failures, Bans: found.Bans}
	if k.GuardOff != "" {
		s.Warnings = append(s.Warnings, "connections are not limited, although ddos_enabled=true: "+k.GuardOff)
	}
}

// Scans fills in which port scans were found, and why some may not have been.
func Scans(s *control.Status, k enforce.ScanStatus, found engine.ScanStats) {
	s.Scans = control.Scans{On: k.On, Active: k.On && k.Receiving, Off: k.Off, Found: found.Scans, Sources: found.Sources}
	s.Warnings = append(s.Warnings, k.Warnings...)
	if !k.On {
		return
	}
	switch {
	case k.Off != "":
		s.Warnings = append(s.Warnings, "port scans are not detected: "+k.Off)
	case k.Sampling != "":
		s.Scans.Limited = k.Sampling
	case found.Full:
		s.Scans.Limited = "too many sources scan, possibly with forged addresses: further ones are not banned for some minutes"
	}
	if s.Scans.Limited != "" {
		s.Warnings = append(s.Warnings, s.Scans.Limited)
	}
	if last := found.Last; last != nil {
		s.Scans.Last, s.Scans.From, s.Scans.Text = control.Moment(last.Time), last.From.String(), last.Text
	}
}

// Window adds the confirmation window to a status.
func Window(s *control.Status, w *confirm.Window, now time.Time) {
	switch {
	case w == nil:
		return
	case w.Lapsed:
		lifted := "its bans were lifted"
		if !w.Lifted {
			lifted = "its bans are not all lifted yet"
		}
		s.Missing = append(s.Missing, fmt.Sprintf("not confirmed within %s: %s, and bans are logged, not applied; run mefctl confirm to apply them",
			w.Length(), lifted))
	default:
		s.Warnings = append(s.Warnings, fmt.Sprintf("on trial: run mefctl confirm in a new SSH session within %s; otherwise all bans are lifted, and further ones only logged",
			w.Left(now).Round(time.Second)))
	}
	s.Armed = &control.Armed{Until: w.Until, From: w.From, Lapsed: w.Lapsed}
}

// Judge adds to a status what is missing for the host to be protected, and what else is amiss: by what the status has, by what is wrong
// with the static policy, and by the problems of the event log.
func Judge(s *control.Status, observing bool, firewall, eventLog []string) {
	if observing {
		s.Missing = append(s.Missing, "mode=observe: bans are logged, not applied; set mode=enforce in "+s.Config)
	}
	switch problems := s.Kernel.Problems; {
	case s.Kernel.Present:
		s.Missing = append(s.Missing, problems...)
	case len(problems) == 0:
		s.Missing = append(s.Missing, s.Kernel.Table+" is not in the kernel")
	default:
		s.Missing = append(s.Missing, "bans are not enforced: "+strings.Join(problems, "; "))
	}
	s.Missing = append(s.Missing, firewall...)
	live := slices.ContainsFunc(s.Sources, func(src control.Source) bool { return src.State == "active" && len(src.Rules) > 0 })
	if !live {
		s.Missing = append(s.Missing, "no rule has a live source of log lines; see SOURCE and RULE below")
	}
	if s.Store.Problem != "" {
		s.Warnings = append(s.Warnings, fmt.Sprintf("state is not saved: %s; bans continue, and after a crash the logs are read again from the last saved position", s.Store.Problem))
	}
	for _, why := range eventLog {
		s.Warnings = append(s.Warnings, fmt.Sprintf("%s; bans continue, and mefctl events shows the last %d records", why, eventlog.Kept))
	}
	if n := s.Kernel.Evicted; n > 0 {
		s.Warnings = append(s.Warnings, fmt.Sprintf("too many bans: since start, the %d with the least time left have ended early", n))
	}
	for _, src := range s.Sources {
		if src.Lost > 0 {
			s.Warnings = append(s.Warnings, fmt.Sprintf("%s: %d lines were lost: too long, suppressed or cut off", src.Name, src.Lost))
		}
	}
}
