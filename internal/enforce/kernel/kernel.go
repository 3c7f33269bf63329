// Package kernel is the one door to the packet filter of this host: it chooses the backend, keeps bans in force with it, ends the
// sessions of banned peers, and tests now and then that bans block. The list backends names all kinds of packet filters; nothing else
// depends on which it is.
package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"mef/internal/conf"
	"mef/internal/enforce"
	"mef/internal/enforce/ipset"
	"mef/internal/enforce/nftset"
	"mef/internal/enforce/session"
	"mef/internal/exempt"
	"mef/internal/sleep"
)

// A backend is a kind of packet filter.
type backend struct {
	name string
	ours string // what is ours in it
	// open returns the packet filter of a network namespace, 0 for this one, or an error that names what is missing.
	open func(netns int, log *slog.Logger, s enforce.Settings) (enforce.Backend, error)
	// remove removes all that is ours, and present looks whether there is anything. Neither needs a daemon.
	remove, present func() (bool, error)
}

// backends returns the kinds there are, the best first. Their names are values of firewall_backend.
func backends() []backend {
	return []backend{{
		name: conf.NFTables.String(), ours: "table inet mefdaemon",
		open: func(netns int, log *slog.Logger, s enforce.Settings) (enforce.Backend, error) {
			return nftset.NewIn(netns, log, s)
		},
		remove:  nftset.Delete,
		present: nftset.Present,
	}, {
		name: conf.IPTables.String(), ours: "ipset mefd_*",
		open: func(netns int, log *slog.Logger, s enforce.Settings) (enforce.Backend, error) {
			return ipset.NewIn(netns, log, s)
		},
		remove:  ipset.Delete,
		present: ipset.Present,
	}}
}

// A found is what came of looking for a kind of packet filter.
type found struct {
	name  string
	lacks error // nil: it is there
}

// choose returns which of the packet filters to use, those looked for in the order of preference, and why. The error says what each lacks.
func choose(want conf.Backend, looked []found) (name, reason string, err error) {
	var lacks []string
	for _, f := range looked {
		switch {
		case f.lacks != nil && want != conf.Automatic:
			return "", "", fmt.Errorf("firewall_backend=%s: %w", want, f.lacks)
		case f.lacks != nil:
			lacks = append(lacks, fmt.Sprintf("%s is not available: %v", f.name, f.lacks))
		case want != conf.Automatic:
			return f.name, fmt.Sprintf("firewall_backend=%s", want), nil
		case lacks == nil:
			return f.name, f.name + " is available", nil
		default:
			return f.name, fmt.Sprintf("%s is available; %s", f.name, strings.Join(lacks, "; ")), nil
		}
	}
	return "", "", errors.New(strings.Join(lacks, "; "))
}

// Open opens the packet filter of a network namespace, 0 for this one: the wanted one, or the best that there is.
func Open(netns int, want conf.Backend, log *slog.Logger, settings Settings) (enforce.Backend, error) {
	filter, _, err := openOf(backends(), netns, want, log, settings)
	return filter, err
}

// openOf also returns why a packet filter was chosen.
func openOf(kinds []backend, netns int, want conf.Backend, log *slog.Logger, settings Settings) (filter enforce.Backend, reason string, err error) {
	var looked []found
	for _, b := range kinds {
		if want != conf.Automatic && b.name != want.String() {
			continue
		}
		filter, err = b.open(netns, log, settings)
		if looked = append(looked, found{b.name, err}); err == nil || errors.Is(err, fs.ErrPermission) {
			break // the others need the same capability
		}
	}
	_, reason, err = choose(want, looked)
	return filter, reason, err
}

// A Kernel is an Enforcer over the packet filter of this host.
type Kernel struct {
	*enforce.Enforcer
	filter    enforce.Backend
	sessions  *session.Ender
	tested    atomic.Pointer[SelfTest]
	scans     scans
	unsampled atomic.Pointer[string] // why samples of dropped packets are not received; nil or empty if they are
	log       *slog.Logger
	host      *late // the filter, if it is that of this host
}

// Settings are what the packet filter does beside bans.
type Settings = enforce.Settings

// SettingsFromConf returns those of mef.conf.
func SettingsFromConf(cfg *conf.Config) Settings {
	return Settings{Log: cfg.Log, Scan: cfg.Scan, Flood: cfg.Flood, Proxies: cfg.ProxyAddrs(), CDNs: exempt.CDNNetworks(), Peers: cfg.RBL.Peers(),
		Page: enforce.Page{HTTP: uint16(cfg.Page.BlockPort), TLS: uint16(cfg.Page.BlockTLSPort())}, Samples: true}
}

// New returns a Kernel over the packet filter of this host. If that cannot be used, because a capability or a module is missing, bans wait
// until it can: see Enforcer.Status.
func New(log *slog.Logger, want conf.Backend, settings Settings, opt enforce.Options) *Kernel {
	host := newLate(backends(), want, log, settings)
	k := Over(host, log, opt)
	k.host = host
	k.scans.want(settings)
	return k
}

// Over returns a Kernel over a packet filter. OnVerified, OnLifted, Connected and Log of opt are its own.
func Over(filter enforce.Backend, log *slog.Logger, opt enforce.Options) *Kernel {
	sessions := session.New(log)
	opt.OnVerified, opt.OnLifted, opt.Connected, opt.Log = sessions.Add, sessions.Forget, session.Connected, log
	return &Kernel{Enforcer: enforce.New(filter, opt), filter: filter, sessions: sessions, scans: newScans(log), log: log}
}

// Reason returns why this packet filter was chosen, "" while none can be used.
func (k *Kernel) Reason() string {
	if k.host == nil {
		return ""
	}
	return k.host.why()
}

// lookReady is how often RemoveOthers looks whether the bans are in force.
const lookReady = 10 * time.Second

// RemoveOthers removes what is ours from the packet filters that were not chosen, once the chosen one holds all bans: an earlier run may have
// used another one. It returns nil once ctx is done.
func (k *Kernel) RemoveOthers(ctx context.Context) error {
	if k.host == nil || k.Ready(ctx) != nil {
		return nil
	}
	for !k.Status().Ready {
		if !sleep.For(ctx, lookReady) {
			return nil
		}
	}
	chosen := k.filter.Names().Filter
	for _, b := range backends() {
		if b.name == chosen {
			continue
		}
		present, err := b.present()
		if err == nil && present {
			_, err = b.remove()
			k.log.Info("removed bans from the packet filter that was used before", "backend", b.name)
		}
		if err != nil {
			k.log.Warn("look for bans in another packet filter", "backend", b.name, "err", err)
		}
	}
	return nil
}

// EndSessions ends the sessions of peers that are banned, until ctx is done.
func (k *Kernel) EndSessions(ctx context.Context) error { return k.sessions.Run(ctx) }

// Configure changes what the packet filter does beside bans, without a moment in which a ban does not hold.
func (k *Kernel) Configure(ctx context.Context, settings Settings) error {
	err := k.Renew(ctx, func() error { return k.filter.Configure(settings) })
	k.scans.want(settings)
	return err
}

// Delete removes all that is ours from every packet filter of this host, and returns the names of what it removed: "table inet mefdaemon".
func Delete() (removed []string, err error) {
	for _, b := range backends() {
		found, removeErr := b.remove()
		if found {
			removed = append(removed, b.ours)
		}
		err = errors.Join(err, removeErr)
	}
	return removed, err
}

// Present reports whether anything of ours is in a packet filter of this host.
func Present() (any bool, err error) {
	for _, b := range backends() {
		found, presentErr := b.present()
		any, err = any || found, errors.Join(err, presentErr)
	}
	return any, err
}
