package loader

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"mef/internal/conf"
	"mef/internal/firewall/inforce"
	"mef/internal/firewall/policy"
)

// A Status is what is in force and whether it is as it should be.
type Status struct {
	InForce   bool       `json:"in_force"` // the kernel holds what was loaded last
	From      string     `json:"from"`     // file, confirmed, previous, trial, rescue; empty if nothing was loaded
	Source    string     `json:"source"`
	Loaded    *time.Time `json:"loaded"`
	Backend   string     `json:"backend"`
	Reason    string     `json:"reason"` // why this backend is taken now
	Rules     int        `json:"rules"`
	Notice    string     `json:"notice"`  // why it is not what the file says
	Changed   bool       `json:"changed"` // the file says something else by now
	Mistakes  string     `json:"mistakes"`
	AtBoot    bool       `json:"at_boot"` // the service is enabled
	Trial     *time.Time `json:"trial"`   // until when rules are tried
	LastTrial string     `json:"last_trial"`
	Beside    []string   `json:"beside,omitempty"` // other firewalls whose rules are in force too, each in a sentence
	Problems  []string   `json:"problems"`
}

// Status looks at the kernel and at what is kept.
func (l *Loader) Status(ctx context.Context) (Status, error) {
	var s Status
	if err := l.settle(ctx); err != nil {
		s.Problems = append(s.Problems, "an earlier trial: "+err.Error())
	}
	b, reason, err := choose(ctx, l.settings.Firewall.Backend)
	if err != nil {
		return s, err
	}
	s.Backend, s.Reason, s.AtBoot, s.Beside = b.String(), reason, AtBoot(), inforce.Others()
	in, ok := l.noted()
	if !ok {
		s.Problems = append(s.Problems, "no rules were loaded; mef apply does that")
	} else if err := l.compare(ctx, &s, in); err != nil {
		return s, err
	}
	l.compareFile(&s, in)
	var until trialRecord
	if readJSON(l.state.path(trial, recordFile), &until) == nil {
		s.Trial = &until.Until
	}
	var n note
	if readJSON(l.state.path(noteFile), &n) == nil {
		s.LastTrial = n.Outcome + ", " + n.When.Local().Format(time.DateTime)
	}
	return s, nil
}

// compare looks whether the kernel holds what was loaded.
func (l *Loader) compare(ctx context.Context, s *Status, in loaded) error {
	s.From, s.Source, s.Loaded, s.Notice = in.From, in.Source, &in.Loaded, in.Notice
	if text, err := os.ReadFile(l.state.path(loadedRules)); err == nil {
		if src, err := policy.Thaw(loadedRules, text); err == nil {
			s.Rules = len(src.Policy(policy.Facts{}).Rules)
		}
	}
	b, ok := byName(in.Backend)
	if !ok {
		return fmt.Errorf("%s names an unknown backend, %q", l.state.path(loadedFile), in.Backend)
	}
	held, err := b.held(ctx)
	if err != nil {
		return err
	}
	switch {
	case held == in.Held:
		s.InForce = true
	case held == "":
		s.Problems = append(s.Problems, "the kernel holds none of the loaded rules: another program removed them, or the host was rebooted; mef load restores them")
	default:
		s.Problems = append(s.Problems, "another program changed the rules in the kernel since they were loaded; mef plan shows how, mef load restores them")
	}
	return nil
}

// compareFile looks whether the file reports what was loaded.
func (l *Loader) compareFile(s *Status, in loaded) {
	src, err := l.readConfigured()
	switch {
	case errors.Is(err, fs.ErrNotExist) && in.From != "":
		s.Problems = append(s.Problems, fmt.Sprintf("%s does not exist, so a boot loads the last good rules; copy the policy there", conf.Name(l.RulesFile())))
	case err != nil:
		s.Mistakes = err.Error()
		s.Problems = append(s.Problems, "the file cannot be loaded as it is; mef check reports all mistakes")
	case src.Digest != in.Digest && in.From != "":
		s.Changed = true
	}
	if in.From == fromRescue {
		s.Problems = append(s.Problems, "only the rescue rules are in force, which accept SSH and little else")
	}
}

// AtBoot reports whether systemd loads the policy at boot.
func AtBoot() bool { return inforce.AtBoot() }
