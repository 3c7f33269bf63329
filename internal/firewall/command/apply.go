package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mef/internal/conf"
	"mef/internal/console"
	"mef/internal/duration"
	"mef/internal/firewall/loader"
)

func (o *Options) apply() *cobra.Command {
	var timeout string
	var yes, force bool
	cmd := &cobra.Command{
		Use:        "apply [FILE]",
		SuggestFor: []string{"try", "commit"},
		Short:      "Load a policy, and restore the previous one unless it is confirmed in time",
		Long: "apply shows what changes, loads the policy, and waits for confirmation: at the prompt, or by mef confirm in another session, which\n" +
			"proves that new sessions are possible. Without it, the rules that were confirmed last are restored when the time is over, even if this\n" +
			"session is lost: a process outside it does that, and so does a reboot. A policy that fails its expectations\n" +
			"or would cut off an SSH session is refused.",
		Args: console.OneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := duration.Parse(timeout)
			if err != nil || d < time.Second || d > loader.MaxTimeout {
				return console.Usage("--timeout %q: write a duration from 1s to %v such as 30s or 5m", timeout, loader.MaxTimeout)
			}
			l, c, err := o.candidate(cmd, args)
			if err != nil {
				return err
			}
			if err := c.Fatal(); err != nil && !force {
				return fmt.Errorf("%w\nnothing was loaded; --force loads it nevertheless", err)
			} else if err != nil {
				fmt.Fprintf(cmd.ErrOrStderr(), "--force overrides:\n%s\n", indent(err.Error()))
			}
			return o.try(cmd, l, c, d, yes)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&timeout, "timeout", "30s", "how long to wait for confirmation")
	flags.BoolVar(&yes, "yes", false, "confirm at once, without asking")
	flags.BoolVar(&force, "force", false, "load it even if it fails its expectations or cuts off SSH sessions")
	return cmd
}

// try loads a policy and waits for its end.
func (o *Options) try(cmd *cobra.Command, l *loader.Loader, c *loader.Candidate, timeout time.Duration, yes bool) error {
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	plan, err := l.Plan(ctx, c, o.self("listing")...)
	if err != nil {
		return err
	}
	if !o.JSON {
		reportOf(c).warn(out)
		showPlan(out, plan)
	}
	if yes {
		if _, err := l.Keep(ctx, c); err != nil {
			return err
		}
		return o.ended(cmd, loader.Kept)
	}
	trial, err := l.Try(ctx, c, timeout, o.self("guard")...)
	if err != nil {
		return err
	}
	if !o.JSON && !trial.Until.IsZero() {
		fmt.Fprintf(out, "Loaded. Unless confirmed, the previous rules are restored at %s. From another session: %s confirm\n", until(trial.Until), o.name())
	}
	outcome, err := o.wait(ctx, cmd, l, trial)
	if err != nil {
		return err
	}
	return o.ended(cmd, outcome)
}

// self is the command line by which this program runs one of its hidden commands, in another folder.
func (o *Options) self(command ...string) []string {
	config, err := filepath.Abs(o.Config)
	if err != nil {
		config = o.Config // the folder we are in no longer exists; the command says that it finds no file
	}
	return append(append([]string{"--config", config}, o.Prefix...), command...)
}

// name is how the operator calls us.
func (o *Options) name() string {
	if len(o.Prefix) > 0 {
		return "mefctl " + strings.Join(o.Prefix, " ")
	}
	return "mef"
}

// wait returns how the trial ended: by an answer at the prompt, by another process, or by itself. An interrupt means no.
func (o *Options) wait(ctx context.Context, cmd *cobra.Command, l *loader.Loader, trial *loader.Trial) (loader.Outcome, error) {
	answers := make(chan bool, 1)
	if in := cmd.InOrStdin(); console.Terminal(in) && !o.JSON {
		fmt.Fprint(cmd.OutOrStdout(), "Keep these rules? [y/N] ")
		go func() { answers <- console.Yes(in) }() // ends with the program, if nobody answers
	}
	type end struct {
		outcome loader.Outcome
		err     error
	}
	ended := make(chan end, 1)
	watch, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		outcome, err := trial.Outcome(watch)
		ended <- end{outcome, err}
	}()
	select {
	case e := <-ended:
		if ctx.Err() == nil {
			return e.outcome, e.err
		}
	case yes := <-answers:
		if yes {
			_, err := l.Confirm(ctx)
			return loader.Kept, err
		}
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	_, err := l.Rollback(ctx)
	return loader.TakenBack, err
}

// ended reports how a trial ended. That rules were reverted is exit status 1.
func (o *Options) ended(cmd *cobra.Command, outcome loader.Outcome) error {
	err := console.Print(cmd, o.JSON, map[string]bool{"confirmed": outcome == loader.Kept}, func(w io.Writer) {
		if outcome == loader.Kept {
			fmt.Fprintln(w, "Confirmed: these rules are in force"+atBoot())
		}
	})
	if err != nil || outcome == loader.Kept {
		return err
	}
	if o.JSON {
		return &console.Exit{Code: 1}
	}
	return errors.New("not confirmed: the previous rules are in force again")
}

// atBoot goes on with what a boot makes of the rules in force, or what to do for it.
func atBoot() string {
	if loader.AtBoot() {
		return ", and are loaded at boot."
	}
	return ". mefctl enable mef also loads them at boot."
}

func (o *Options) confirm() *cobra.Command {
	return &cobra.Command{
		Use:   "confirm",
		Short: "Keep the rules on trial",
		Long:  "confirm ends the trial that mef apply began: its rules stay.",
		Args:  console.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := o.loader(cmd)
			if err != nil {
				return err
			}
			r, err := l.Confirm(cmd.Context())
			if err != nil {
				return err
			}
			return console.Print(cmd, o.JSON, r, func(w io.Writer) {
				fmt.Fprintf(w, "Confirmed: the rules of %s are in force%s\n", conf.Name(r.Source), atBoot())
			})
		},
	}
}

func (o *Options) rollback() *cobra.Command {
	return &cobra.Command{
		Use:        "rollback",
		SuggestFor: []string{"revert", "undo", "restore"},
		Short:      "Restore the previous rules",
		Long: "rollback removes the rules on trial and restores the previous ones. If no trial runs, it restores those that\n" +
			"were confirmed before the current ones; run it again to undo that.",
		Args: console.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := o.loader(cmd)
			if err != nil {
				return err
			}
			r, err := l.Rollback(cmd.Context())
			if err != nil {
				return err
			}
			return console.Print(cmd, o.JSON, r, func(w io.Writer) {
				if r.Source == "" {
					fmt.Fprintln(w, "Rolled back. No rules were confirmed before these, so the rules from before the trial are in force again.")
					return
				}
				fmt.Fprintf(w, "The rules of %s, confirmed on %s, are in force again. The file itself was not changed: fix it, then run %s apply.\n",
					conf.Name(r.Source), r.Made.Local().Format(time.DateTime), o.name())
			})
		},
	}
}

func (o *Options) guard() *cobra.Command {
	return &cobra.Command{
		Use:    "guard",
		Short:  "Restore the previous rules when a trial ends",
		Hidden: true, // started by apply
		Args:   console.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := o.loader(cmd)
			if err != nil {
				return err
			}
			return l.Guard(cmd.Context(), func(err error) {
				fmt.Fprintf(cmd.ErrOrStderr(), "mef: the previous rules cannot be restored, trying again: %v\n", err)
			})
		},
	}
}

func (o *Options) load() *cobra.Command {
	var boot bool
	cmd := &cobra.Command{
		Use:        "load",
		SuggestFor: []string{"start", "reload", "restart"},
		Short:      "Load the policy as at boot, without questions",
		Long: "load is what mef.service does at boot. It needs no network and asks nothing. If the file cannot be loaded, or was not confirmed\n" +
			"after a trial, the last good rules are loaded; if there are none, rescue rules that accept SSH. Both are logged as errors with exit status 1, unless\n" +
			"--boot is given: the service must be active whichever rules protect this host.",
		Args: console.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, unkept := o.loader(cmd)
			from, notice, notices, err := l.Load(cmd.Context())
			if unkept != nil {
				notices = append([]string{unkept.Error()}, notices...)
			}
			level := levels(os.Getenv("JOURNAL_STREAM") != "")
			for _, n := range notices {
				fmt.Fprintf(cmd.ErrOrStderr(), "%s%s\n", level.warning, n)
			}
			if err != nil {
				return err
			}
			err = console.Print(cmd, o.JSON, map[string]string{"from": from, "notice": notice}, func(w io.Writer) {
				if notice == "" {
					fmt.Fprintf(w, "The rules of %s are in force.\n", l.RulesFile())
				}
			})
			if err != nil || notice == "" {
				return err
			}
			what := "the last good rules are in force instead"
			if from != loader.Confirmed {
				what = "only the rescue rules, which accept SSH, are in force, because there are no others"
			}
			for line := range strings.Lines(strings.TrimSpace(notice) + "\n" + what + "; mef check reports mistakes in the file, if it has any, and mef apply loads it") {
				fmt.Fprintf(cmd.ErrOrStderr(), "%smef: %s\n", level.err, strings.TrimRight(line, "\n"))
			}
			if boot {
				return nil
			}
			return &console.Exit{Code: 1}
		},
	}
	cmd.Flags().BoolVar(&boot, "boot", false, "exit with 0 if the last good or the rescue rules are loaded instead, as mef.service does when it starts")
	return cmd
}

func (o *Options) watch() *cobra.Command {
	return &cobra.Command{
		Use:   "watch",
		Short: "Restore the policy whenever another program removes it from the kernel",
		Long: "watch is what mef-watch.service runs. It waits until the rules that mef has loaded disappear, as by nft flush ruleset, and loads them\n" +
			"again, with growing delays if that happens again and again. Rules on trial and rules that mef clear has removed are not restored.",
		Args: console.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := o.loader(cmd)
			if err != nil {
				return err
			}
			level := levels(os.Getenv("JOURNAL_STREAM") != "")
			return l.Watch(cmd.Context(), func(err error) {
				if err != nil {
					fmt.Fprintf(cmd.ErrOrStderr(), "%smef: the policy is not in the kernel and cannot be restored: %v\n", level.err, err)
					return
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "%smef: another program removed the policy from the kernel; it is restored\n", level.warning)
			})
		},
	}
}

// journalLevels are what the journal takes for the level of a line (sd-daemon(3)).
type journalLevels struct{ err, warning string }

func levels(journal bool) journalLevels {
	if journal {
		return journalLevels{"<3>", "<4>"}
	}
	return journalLevels{}
}

func (o *Options) clear() *cobra.Command {
	var onStop bool
	cmd := &cobra.Command{
		Use:        "clear",
		SuggestFor: []string{"stop", "flush", "remove", "disable", "off"},
		Short:      "Remove all rules of mef from the kernel",
		Long:       "clear removes the rules that mef has loaded, and nothing else: all packets are then accepted, unless another firewall drops them.",
		Args:       console.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg := o.settings(cmd.ErrOrStderr())
			l, unkept := loader.New(cfg)
			if onStop {
				why, restarted := keeps(cmd.Context(), cfg.Firewall.KeepOnStop)
				if why != "" {
					fmt.Fprintln(cmd.OutOrStdout(), why)
				}
				if restarted {
					return l.EndTrial(cmd.Context()) // otherwise it would keep the service from starting
				}
				if why != "" {
					return nil
				}
			}
			removed, notices, err := l.Clear(cmd.Context())
			if unkept != nil {
				notices = append([]string{unkept.Error()}, notices...)
			}
			for _, n := range notices {
				fmt.Fprintln(cmd.ErrOrStderr(), n)
			}
			if err != nil {
				return err
			}
			return console.Print(cmd, o.JSON, map[string]bool{"removed": removed}, func(w io.Writer) {
				if removed {
					fmt.Fprintln(w, "The rules of mef are removed. mef load restores them.")
				} else {
					fmt.Fprintln(w, "There were no rules of mef in the kernel.")
				}
			})
		},
	}
	cmd.Flags().BoolVar(&onStop, "on-stop", false, "obey rules_on_stop, and do nothing while the host shuts down or the service is restarted, as mef.service does when it stops")
	return cmd
}

// keeps returns why the rules stay in force although the service is stopped, empty if they are to be removed; and whether it is restarted. By
// setting they stay in any case.
func keeps(ctx context.Context, setting bool) (why string, restarted bool) {
	if setting {
		why = "rules_on_stop=keep: the rules stay in force"
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil { // sd_booted(3)
		return why, false
	}
	down, err := loader.GoingDown(ctx)
	if down {
		return "This host is shutting down; its rules stay in force.", false
	}
	restarted, err2 := loader.Restarting(ctx)
	switch {
	case restarted:
		return "The service is restarting; its rules stay in force until they are replaced.", true
	case !setting && (err != nil || err2 != nil):
		return fmt.Sprintf("The rules stay in force, because systemd does not report why the service is stopped: %v. mef clear removes them.", cmp.Or(err, err2)), false
	}
	return why, false
}

func (o *Options) status() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show which rules are in force, and whether they are as they should be",
		Long:  "status compares the kernel with what was loaded, and that with the file. Exit status 1 if the rules are not in force as they were loaded.",
		Args:  console.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := o.loader(cmd)
			if err != nil {
				return err
			}
			s, err := l.Status(cmd.Context())
			if err != nil {
				return err
			}
			if err := console.Print(cmd, o.JSON, s, func(w io.Writer) { showStatus(w, s) }); err != nil {
				return err
			}
			if !s.InForce || len(s.Problems) > 0 {
				return &console.Exit{Code: 1}
			}
			return nil
		},
	}
}

func showStatus(w io.Writer, s loader.Status) {
	switch {
	case s.InForce:
		fmt.Fprintf(w, "In force: yes, %d rules of %s, loaded on %s\n", s.Rules, origin(s), s.Loaded.Local().Format(time.DateTime))
	default:
		fmt.Fprintln(w, "In force: NO")
	}
	fmt.Fprintf(w, "Backend:  %s: %s\n", s.Backend, s.Reason)
	if s.Trial != nil {
		fmt.Fprintf(w, "Trial:    ends at %s unless confirmed: mef confirm\n", until(*s.Trial))
	} else if s.LastTrial != "" {
		fmt.Fprintf(w, "Trial:    none; the last one was not kept: %s\n", s.LastTrial)
	}
	if !s.AtBoot {
		fmt.Fprintln(w, "Boot:     no policy is loaded; mefctl enable mef enables that")
	}
	if s.Changed {
		fmt.Fprintln(w, "File:     changed since it was loaded; mef plan shows how, mef apply loads it")
	}
	if s.Notice != "" {
		fmt.Fprintf(w, "Notice:   %s\n", strings.ReplaceAll(s.Notice, "\n", "\n          "))
	}
	for _, other := range s.Beside {
		fmt.Fprintf(w, "Beside:   %s\n", other)
	}
	for _, p := range s.Problems {
		fmt.Fprintf(w, "Problem:  %s\n", p)
	}
}

// origin reports where the rules come from.
func origin(s loader.Status) string {
	switch s.From {
	case "rescue":
		return "the rescue policy"
	case "trial":
		return conf.Name(s.Source) + ", on trial"
	case "previous", "confirmed":
		return conf.Name(s.Source) + " as it was confirmed last"
	}
	return conf.Name(s.Source)
}
