package loader

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"mef/internal/conf"
	ipt "mef/internal/firewall/iptables"
	"mef/internal/firewall/policy"
	"mef/internal/run"
)

// iptables is the backend that runs iptables(8), ip6tables(8) and ipset(8).
type iptables struct{}

// ipset is the program that fills sets, and the package that it comes in.
const ipset = "ipset"

// iptablesReady returns an error unless both families can be had. Sets are needed only by policies that have some.
func iptablesReady(ctx context.Context) error {
	for _, name := range []string{"iptables", "ip6tables"} {
		if !run.Installed(name+"-restore") || !run.Installed(name+"-save") {
			return fmt.Errorf("%s-restore: %w: install the package iptables", name, run.ErrNotFound)
		}
		if _, err := run.Output(ctx, maxOutput, name+"-save", "-t", "filter"); err != nil {
			return fmt.Errorf("the kernel does not answer %s: %w", name, err)
		}
	}
	return nil
}

func (iptables) String() string { return conf.IPTables.String() }

// script returns what would be loaded if nothing of ours were.
func (iptables) script(p *policy.Policy) (string, error) {
	r, err := ipt.Compile(p, ipt.State{})
	return r.String(), err
}

// state returns what of ours is loaded.
func (iptables) state(ctx context.Context) (s ipt.State, err error) {
	var texts [3]string
	for i, line := range [...][]string{{"iptables-save"}, {"ip6tables-save"}, {ipset, "list", "-n"}} {
		if line[0] == ipset && !run.Installed(ipset) {
			continue // then nobody has sets
		}
		out, err := run.Output(ctx, maxOutput, line[0], line[1:]...)
		if err != nil {
			return s, fmt.Errorf("read what is loaded: %w", err)
		}
		texts[i] = string(out)
	}
	return ipt.ReadState(texts[0], texts[1], texts[2]), nil
}

func (b iptables) load(ctx context.Context, p *policy.Policy, ready func() error) error {
	now, err := b.state(ctx)
	if err != nil {
		return err
	}
	r, err := ipt.Compile(p, now)
	if err != nil {
		return err
	}
	if r.Sets != "" && !run.Installed(ipset) {
		return fmt.Errorf("sets need %s: %w: install the package %s", ipset, run.ErrNotFound, ipset)
	}
	if err := ready(); err != nil {
		return err
	}
	if err := b.restore(ctx, r); err != nil {
		return fmt.Errorf("the kernel refused the rules: %w", errors.Join(err, b.revert(ctx, now)))
	}
	return nil
}

// restore loads a ruleset, text by text.
func (iptables) restore(ctx context.Context, r ipt.Ruleset) error {
	for _, s := range r.Steps() {
		if _, err := run.Feed(ctx, []byte(s.Text), maxOutput, s.Program, strings.Fields(s.Flags)...); err != nil {
			return err
		}
	}
	return nil
}

// revert brings back what was loaded before, after a part of something else could not be.
func (b iptables) revert(ctx context.Context, former ipt.State) error {
	now, err := b.state(ctx)
	if err != nil {
		return err
	}
	return b.restore(ctx, ipt.Revert(former, now))
}

func (b iptables) clear(ctx context.Context) error {
	now, err := b.state(ctx)
	if err != nil {
		return err
	}
	return b.restore(ctx, ipt.Clear(now))
}

func (b iptables) held(ctx context.Context) (string, error) {
	list, err := b.list(ctx)
	if err != nil || list == "" {
		return "", err
	}
	return digestOf(list), nil
}

// list returns our chains and what is in our sets.
func (b iptables) list(ctx context.Context) (string, error) {
	if !run.Installed("iptables-save") && !run.Installed("ip6tables-save") {
		return "", nil // what was loaded before they were removed cannot be read; it no longer exists with the next boot
	}
	now, err := b.state(ctx)
	if err != nil || now.Empty() {
		return "", err
	}
	text := now.String()
	for _, name := range now.Sets() {
		out, err := run.Output(ctx, maxOutput, ipset, "save", name, "-s")
		if err != nil {
			return "", fmt.Errorf("read set %s: %w", name, err)
		}
		text += strings.TrimRight(string(out), "\n") + "\n"
	}
	return text, nil
}

// digestOf returns a digest of a text.
func digestOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
