// Package loader puts the policy of mef.rules into the kernel: whole or not at all, at boot and on demand, and with a way back.
//
// What is in force, what it was before and what is being tried are texts that need nothing else (rules.Freeze), kept below
// /var/lib/mef-firewall:
//
//	confirmed   the last good rules: what an operator confirmed, or a boot loaded
//	previous    what was confirmed before that
//	trial       rules in force until their time is over, unless somebody confirms
//	refused     the last trial that nobody confirmed: never loaded at boot, nor are those before it, refused-1 to refused-7
//
// A trial is decided by one rename: "mef confirm" renames trial to accepted, the guard renames it to expired when its time is over.
// The first process to rename decides, and the next one completes what it left undone, however it ended. The guard is
// a process of its own, outside the session that began the trial: a closed terminal, kill -9, a lost network and a
// reboot all end with the last confirmed rules. A policy that nobody confirmed is remembered and never loaded at boot.
//
// At boot nothing is asked, no network is needed, and no mistake leaves the host open: what cannot be loaded is replaced by the
// last good rules, and where there are none by rules that let SSH in.
package loader

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"mef/internal/conf"
	"mef/internal/firewall/inforce"
	"mef/internal/firewall/policy"
)

// A Loader loads policies on this host.
type Loader struct {
	settings    *conf.Config
	state       *state
	nameServers []string // none: those of this host
}

// New returns a Loader by the settings of mef.conf. The error says that nothing can be kept on this host, or nothing that others
// could not change; the Loader is still good for Load and Clear, which must not depend on that, and for what changes nothing.
func New(settings *conf.Config) (*Loader, error) {
	s, err := openState(inforce.StateDir(settings))
	if err != nil {
		return &Loader{settings: settings, state: &state{os.DevNull}}, fmt.Errorf("state of the firewall: %w", err)
	}
	return &Loader{settings: settings, state: s}, nil
}

// RulesFile returns the path of the policy.
func (l *Loader) RulesFile() string { return l.settings.Firewall.RulesFile }

// A Candidate is a policy that was read and checked, with the findings.
type Candidate struct {
	Source   *policy.Source
	Policy   *policy.Policy
	Facts    policy.Facts
	Unmet    []policy.Failure // expectations that it does not meet
	Warnings []policy.Warning
	Notices  []string // what could not be found out about this host, and what is used instead
	Lockout  []string // how it would cut off those who are logged in over SSH
	Hidden   []string // which services of this host its nat statements hide
	Exposed  []string // that others can write its files, which a boot does not load then
}

// Fatal returns what keeps the policy from being loaded without force, one problem per line; nil if nothing does.
func (c *Candidate) Fatal() error {
	var lines []string
	for _, f := range c.Unmet {
		lines = append(lines, fmt.Sprintf("%s: %s", f.Expect.At, f))
	}
	lines = slices.Concat(lines, c.Lockout, c.Hidden, c.Exposed)
	if len(lines) == 0 {
		return nil
	}
	return errors.New(strings.Join(lines, "\n"))
}

// Read reads and checks the policy at path against this host. The error has the mistakes of the files.
func (l *Loader) Read(ctx context.Context, path string) (*Candidate, error) {
	read := func() (*policy.Source, error) { return policy.Read(path) }
	if path == l.RulesFile() {
		read = l.readConfigured
	}
	src, err := read()
	if err != nil {
		return nil, readError(err)
	}
	return l.Consider(ctx, src)
}

// readConfigured reads the policy that a boot loads. Whoever can change one of its files decides what the firewall lets in, so each must be
// root's alone.
func (l *Loader) readConfigured() (*policy.Source, error) {
	src, err := policy.Read(l.RulesFile())
	if err != nil {
		return nil, err
	}
	var refused conf.Errors
	for _, path := range src.Files {
		if e := conf.CheckOwner(path); e != nil {
			refused = append(refused, e)
		}
	}
	if err := refused.Err(); err != nil {
		return nil, err
	}
	return src, nil
}

// readError reports what to do about a file that is not there.
func readError(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w; mef.rules(5) describes the language, and mef import prints the rules in force as a policy", err)
	}
	return err
}

// Consider checks a policy that was read.
func (l *Loader) Consider(ctx context.Context, src *policy.Source) (*Candidate, error) {
	c := &Candidate{Source: src}
	var err error
	if c.Facts, c.Notices, err = l.facts(ctx, src, lookUp); err != nil {
		return nil, err
	}
	if when, ok := l.state.refusal(src.Digest); ok {
		c.Notices = append(c.Notices, fmt.Sprintf("this policy was tried on %s and not confirmed: it is not loaded at boot until mef apply is run again and confirmed", when.Local().Format(time.DateTime)))
	}
	c.Notices = append(c.Notices, inforce.Others()...)
	c.Policy = src.Policy(c.Facts)
	m := policy.NewModel(c.Policy)
	c.Unmet = m.Unmet(c.Policy.Expects)
	here, err := lookAround()
	if err != nil {
		return nil, err
	}
	c.Warnings = slices.Concat(m.Warnings(here.families(), here.questions()...), c.Policy.Missing(here.names()), here.forwarding(c.Policy), here.translations(c.Policy))
	var before *policy.Policy
	if slices.ContainsFunc(here.peers, func(s session) bool { return s.translated() }) {
		if now, _, err := l.inForce(); err == nil && now != nil {
			before = now.Policy(policy.Facts{})
		}
	}
	c.Lockout, c.Hidden = here.lockout(c.Policy, before), here.hidden(c.Policy)
	if src.Path == l.RulesFile() {
		c.Exposed = exposed(src)
	}
	return c, nil
}

// exposed returns why the files of a policy are not to be loaded at boot: others can write them.
func exposed(src *policy.Source) (lines []string) {
	for _, path := range src.Files {
		if err := trust(path); err != nil && !slices.Contains(lines, err.Error()) {
			lines = append(lines, err.Error())
		}
	}
	return lines
}

// Confirmed reports whether a policy, with all files that it reads, is the one that was confirmed last.
func (l *Loader) Confirmed(c *Candidate) bool {
	_, record, err := l.state.get(confirmed)
	return err == nil && record.Digest == c.Source.Digest
}

// Refused reports whether a policy was tried and not confirmed, so that a boot does not load it.
func (l *Loader) Refused(c *Candidate) bool {
	_, ok := l.state.refusal(c.Source.Digest)
	return ok
}

// Facts returns what the policy needs to know of this host, with what could not be had. The error reports countries without addresses.
func (l *Loader) Facts(ctx context.Context, src *policy.Source) (policy.Facts, []string, error) {
	return l.facts(ctx, src, lookUp)
}

// ErrForm says that there is no such form to show a policy in.
var ErrForm = errors.New("unknown form")

// Show returns a policy in one of its forms: nft, iptables or model.
func Show(c *Candidate, as string) (string, error) {
	switch as {
	case "nft":
		return nftables{}.script(c.Policy)
	case "iptables":
		return iptables{}.script(c.Policy)
	case "model":
		return string(c.Source.Freeze(c.Facts)), nil
	}
	return "", ErrForm
}

// put loads a policy by a backend and notes that it is in force. What another backend held goes afterwards, so that there is no
// moment without rules.
func (l *Loader) put(ctx context.Context, b backend, src *policy.Source, facts policy.Facts, in loaded) error {
	return l.putReady(ctx, b, src.Policy(facts), later(func() []byte { return src.Freeze(facts) }), always, in)
}

// later runs a function now, beside the caller, and returns what waits for its result.
func later[T any](fn func() T) (wait func() T) {
	result := make(chan T, 1)
	go func() { result <- fn() }()
	return sync.OnceValue(func() T { return <-result })
}

// putReady is put for a policy, its text that needs nothing else, and a last check, for whose end the kernel waits.
func (l *Loader) putReady(ctx context.Context, b backend, p *policy.Policy, text func() []byte, ready func() error, in loaded) error {
	if err := b.load(ctx, p, ready); err != nil {
		return err
	}
	if before, ok := l.noted(); ok && before.Backend != b.String() {
		if o, ok := byName(before.Backend); ok {
			if _, err := empty(ctx, o); err != nil {
				return fmt.Errorf("remove the rules that %s still holds: %w", o, err)
			}
		}
	}
	var held string
	var err error
	if b == (nftables{}) {
		held, in.Frame, err = inforce.Fingerprint()
	} else {
		held, err = b.held(ctx)
	}
	if err != nil {
		return fmt.Errorf("read the rules back: %w", err)
	}
	in.Loaded, in.Backend, in.Held, in.Boot = time.Now(), b.String(), held, inforce.Boot()
	if err := errors.Join(writeNote(l.state.path(loadedRules), text(), 0o600), writeNote(l.state.path(loadedFile), in, 0o644)); err != nil {
		return unkept{err}
	}
	return nil
}

// noted returns what was loaded last; ok is false if that is not known. What is reported of it need not have outlived a power cut, as the
// rules have not: one that cannot be read is none.
func (l *Loader) noted() (in loaded, ok bool) {
	err := readJSON(l.state.path(loadedFile), &in)
	return in, err == nil
}

// unkept is an error after the rules were loaded: that could not be saved, most likely because the disk is full.
type unkept struct{ error }

// Error reports it.
func (u unkept) Error() string {
	return "these rules are in force, but that cannot be saved: " + u.error.Error()
}

// Unwrap returns why.
func (u unkept) Unwrap() error { return u.error }

// back loads rules that are kept under a name again, by the backend that is available now.
func (l *Loader) back(ctx context.Context, name, notice string) error {
	text, record, err := l.state.get(name)
	if err != nil {
		return err
	}
	b, _, err := choose(ctx, l.settings.Firewall.Backend)
	if err != nil {
		return err
	}
	src, err := policy.Thaw(l.state.path(name, rulesFile), text)
	if err != nil {
		return err
	}
	from := name
	switch {
	case record.Digest == "": // made of no file
		from = fromRescue
	case name == expired+before:
		from = fromFile
	}
	return l.put(ctx, b, src, policy.Facts{}, loaded{Record: record, From: from, Notice: notice})
}

// Clear removes all rules from the kernel, whichever backend holds them, and reports whether there were any. Rules that are being
// tried are not confirmed then, and nobody puts others in their place. Notices report what could not be noted down: like Load, it must
// not depend on that.
func (l *Loader) Clear(ctx context.Context) (removed bool, notices []string, err error) {
	err = l.locked(ctx, func() error {
		ended := l.forsake()
		removed, err = l.removeAll(ctx, &notices)
		return errors.Join(err, ended)
	})
	if errors.Is(err, errNoLock) {
		notices = append(notices, err.Error())
		removed, err = l.removeAll(ctx, &notices)
	}
	return removed, notices, err
}

// forsake ends a trial, if there is one, and leaves the kernel to the caller.
func (l *Loader) forsake() error {
	if err := l.state.confirm(); err != nil {
		return err
	}
	if !l.state.has(expired) {
		if ok, err := l.state.decide(expired); err != nil || !ok {
			return err
		}
	}
	return l.refuse("all rules were removed by mef clear")
}

// removeAll removes all rules of all backends.
func (l *Loader) removeAll(ctx context.Context, notices *[]string) (removed bool, err error) {
	all, err := l.holders()
	if err != nil {
		return false, err
	}
	for _, b := range all {
		had, err := empty(ctx, b)
		if err != nil {
			return removed, err
		}
		removed = removed || had
	}
	if err := errors.Join(remove(l.state.path(loadedFile)), remove(l.state.path(loadedRules))); err != nil {
		*notices = append(*notices, "no rules are in force, but that cannot be saved: "+err.Error())
	}
	return removed, nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
