package loader

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"mef/internal/conf"
	"mef/internal/firewall/inforce"
	"mef/internal/firewall/nft"
	"mef/internal/firewall/policy"
	"mef/internal/run"
)

// A backend puts policies into the kernel.
type backend interface {
	// String returns the name, as in firewall_backend.
	String() string

	// load makes the policy hold in place of what the backend held before, or changes nothing and returns an error. It calls ready
	// before anything changes, and if that returns an error, nothing does, and load returns it.
	load(ctx context.Context, p *policy.Policy, ready func() error) error

	// clear removes all that is ours.
	clear(ctx context.Context) error

	// held returns a digest of what the kernel holds of ours, which stays the same as long as nobody changes that; empty if there
	// is nothing.
	held(ctx context.Context) (string, error)

	// list returns what the kernel holds of ours, for people.
	list(ctx context.Context) (string, error)

	// script returns what load would give to a program.
	script(p *policy.Policy) (string, error)
}

// maxOutput bounds the output of programs: listings of sets with a million elements.
const maxOutput = 256 << 20

// choose returns the wanted backend, or the best available one, and why it was chosen.
func choose(ctx context.Context, want conf.Backend) (b backend, reason string, err error) {
	nftables, err := nftReady()
	switch {
	case want == conf.IPTables:
		return iptables{}, "firewall_backend asks for it", iptablesReady(ctx)
	case err == nil && want == conf.NFTables:
		return nftables, "firewall_backend asks for it", nil
	case err == nil:
		return nftables, "nft is installed and the kernel has nf_tables", nil
	case want == conf.NFTables:
		return nil, "", err
	}
	if err2 := iptablesReady(ctx); err2 != nil {
		return nil, "", fmt.Errorf("neither nftables nor iptables works: %w; %w", err, err2)
	}
	return iptables{}, "nftables is not available: " + err.Error(), nil
}

// byName returns a backend.
func byName(name string) (b backend, ok bool) {
	switch name {
	case nftables{}.String():
		return nftables{}, true
	case iptables{}.String():
		return iptables{}, true
	}
	return nil, false
}

// holders returns the backends that may hold rules of ours. They need not be ready to load any: what nft has loaded can be removed
// without it.
func (l *Loader) holders() (all []backend, err error) {
	err = inforce.Ready()
	if errors.Is(err, fs.ErrPermission) {
		return nil, err
	}
	if err == nil {
		all = append(all, nftables{})
	}
	if in, ok := l.noted(); ok && in.Backend == conf.IPTables.String() || err != nil || l.settings.Firewall.Backend == conf.IPTables {
		all = append(all, iptables{})
	}
	return all, nil
}

// empty removes what a backend holds of ours, and reports whether that was anything.
func empty(ctx context.Context, b backend) (removed bool, err error) {
	held, err := b.held(ctx)
	if err != nil || held == "" {
		return false, err
	}
	return true, b.clear(ctx)
}

// nftables is the backend that runs nft(8).
type nftables struct{}

// nftReady returns the backend if there is nft and a kernel that would understand it.
func nftReady() (nftables, error) {
	if !run.Installed("nft") {
		return nftables{}, fmt.Errorf("nft: %w: install the package nftables", run.ErrNotFound)
	}
	return nftables{}, inforce.Ready()
}

func (nftables) String() string { return conf.NFTables.String() }

func (nftables) script(p *policy.Policy) (string, error) { return nft.Script(p) }

// stdin is standard input as a file that nft reads bit by bit. Of "-" it reads all before it begins.
const stdin = "/proc/self/fd/0"

func (nftables) load(ctx context.Context, p *policy.Policy, ready func() error) error {
	var refused error
	write := func(out io.Writer) error {
		return nft.Write(out, p, func() error {
			refused = ready()
			return refused
		})
	}
	_, err := run.Stream(ctx, write, maxOutput, "nft", "-f", stdin)
	if refused != nil || err == nil {
		return refused
	}
	return fmt.Errorf("the kernel refused the rules: %w", err)
}

// always is ready for what needs no further check.
func always() error { return nil }

func (nftables) clear(context.Context) error { return inforce.DeleteTable() }

func (nftables) held(context.Context) (string, error) {
	all, _, err := inforce.Fingerprint()
	return all, err
}

func (nftables) list(ctx context.Context) (string, error) {
	out, err := run.Output(ctx, maxOutput, "nft", append([]string{"-s", "list", "table"}, strings.Fields(nft.Table)...)...)
	return string(out), err
}
