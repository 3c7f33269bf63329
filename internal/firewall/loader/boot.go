package loader

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"mef/internal/conf"
	"mef/internal/firewall/policy"
	"mef/internal/host"
	"mef/internal/run"
)

// What a boot loads, from best to worst. Between the two are the confirmed rules.
const (
	fromFile   = "file"
	Confirmed  = confirmed
	fromRescue = "rescue"
)

// Load is what a boot does: it asks nothing and waits for nothing. It loads the policy of the file; or the last good rules if the file has
// mistakes, does not meet its own expectations, or was tried and not confirmed; or rules that let SSH in if there are no
// others. from is which of them, and notice why it is not the file. While rules are being tried it changes nothing.
func (l *Loader) Load(ctx context.Context) (from, notice string, notices []string, err error) {
	err = l.locked(ctx, func() (err error) {
		if err := l.settleLocked(ctx); err != nil {
			notices = append(notices, "an earlier trial: "+err.Error())
		} else if l.state.has(trial) {
			return fmt.Errorf("%w and stay until the trial ends: mef confirm keeps them, mef rollback restores the previous ones", ErrTrial)
		}
		from, notice, err = l.boot(ctx, &notices)
		return err
	})
	if errors.Is(err, errNoLock) {
		notices = append(notices, err.Error())
		from, notice, err = l.boot(ctx, &notices)
	}
	return from, notice, notices, err
}

// boot is Load for a caller that has the lock, or cannot get it.
func (l *Loader) boot(ctx context.Context, notices *[]string) (from, notice string, err error) {
	b, _, err := choose(ctx, l.settings.Firewall.Backend)
	if err != nil {
		return "", "", err
	}
	why := l.loadFile(ctx, b, notices)
	if why == nil {
		return fromFile, "", nil
	}
	notice = why.Error()
	if l.state.has(confirmed) {
		err := asNotice(l.back(ctx, confirmed, notice), notices)
		if err == nil {
			return confirmed, notice, nil
		}
		notice += "\nthe last good rules cannot be loaded: " + err.Error()
	}
	src, err := policy.Parse("rescue", []byte(Rescue(host.SSHPorts())))
	if err == nil {
		err = asNotice(l.put(ctx, b, src, policy.Facts{}, loaded{From: fromRescue, Notice: notice, Record: Record{Made: time.Now()}}), notices)
	}
	if err != nil {
		return "", notice, fmt.Errorf("not even the rescue rules can be loaded: %w", errors.Join(err, why))
	}
	return fromRescue, notice, nil
}

// asNotice turns an error that only reports what could not be saved into a notice: the rules are in force.
func asNotice(err error, notices *[]string) error {
	if u := (unkept{}); errors.As(err, &u) {
		*notices = append(*notices, u.Error())
		return nil
	}
	return err
}

// loadFile loads the policy of the file and takes it for the last good one. The error reports why it does not.
func (l *Loader) loadFile(ctx context.Context, b backend, notices *[]string) error {
	src, err := l.readConfigured()
	if err != nil {
		return err
	}
	if lines := exposed(src); len(lines) > 0 {
		return errors.New(strings.Join(lines, "\n"))
	}
	if when, ok := l.state.refusal(src.Digest); ok {
		return fmt.Errorf("%s was tried on %s and not confirmed; change it, or try it again with mef apply", conf.Name(src.Path), when.Local().Format(time.DateTime))
	}
	facts, more, err := l.facts(ctx, src, lookUpAtBoot)
	*notices = append(*notices, more...)
	if err != nil {
		return err
	}
	pol := src.Policy(facts)
	text := later(func() []byte { return src.Freeze(facts) })
	met := later(func() error { // while nft reads the rules
		if len(pol.Expects) == 0 {
			return nil
		}
		if unmet := policy.NewModel(pol).Unmet(pol.Expects); len(unmet) > 0 {
			return fmt.Errorf("%s: %s", unmet[0].Expect.At, unmet[0])
		}
		return nil
	})
	record := Record{Digest: src.Digest, Source: src.Path, Made: time.Now(), Backend: b.String()}
	if err := asNotice(l.putReady(ctx, b, pol, text, met, loaded{Record: record, From: fromFile}), notices); err != nil {
		return err
	}
	if _, err := l.state.accept(text(), record); err != nil {
		*notices = append(*notices, "these rules are in force, but cannot be saved as the last good ones: "+err.Error())
	}
	return nil
}

// Rescue returns the policy that is loaded where there is no other: what a host needs to be repaired remotely.
func Rescue(sshPorts []uint16) string {
	ports := []string{"22"}
	for _, p := range sshPorts {
		if p != 22 {
			ports = append(ports, fmt.Sprint(p))
		}
	}
	return `policy dir=in action=drop
rule dir=in action=accept proto=all iif=lo
rule dir=in action=accept proto=all ct=established,related
rule dir=in action=accept proto=icmp
rule dir=in action=accept proto=icmp6
rule dir=in action=accept proto=udp family=ip sport=67 dport=68
rule dir=in action=accept proto=udp family=ip6 sport=547 dport=546
rule dir=in action=accept proto=tcp dport=` + strings.Join(ports, ",") + "\n"
}

// Restarting reports whether systemd stops our service only to start it again: what it loads then replaces the rules in one step, and there
// is no moment without them. The error says that systemd did not answer.
func Restarting(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	jobs, err := run.Output(ctx, 1<<20, "systemctl", "list-jobs", "--no-legend", "--plain")
	return err == nil && restarts(string(jobs), "mef.service"), err
}

// restarts reports whether a list of systemd's jobs ("12 mef.service restart running") has one that restarts a unit.
func restarts(jobs, unit string) bool {
	for line := range strings.Lines(jobs) {
		if f := strings.Fields(line); len(f) >= 3 && f[1] == unit && strings.HasSuffix(f[2], "restart") {
			return true
		}
	}
	return false
}

// patience is how long systemd may take to answer.
const patience = 5 * time.Second

// GoingDown reports whether systemd is shutting this host down. A service that is stopped on that way, for the sake of a file system
// that is unmounted, say, must not open the host first. The error says that systemd did not answer.
func GoingDown(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	state, err := run.Output(ctx, 1<<10, "systemctl", "show", "--property=SystemState", "--value")
	return err == nil && strings.TrimSpace(string(state)) == "stopping", err
}
