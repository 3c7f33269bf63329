// Package kernel is the one door to the packet filter of this host: it chooses the backend, keeps bans in force with it, ends the
// sessions of banned peers, and tests now and then that bans block. A second backend is one more line of backends; nothing else knows
// which it is.
package kernel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"mef/internal/conf"
	"mef/internal/enforce"
	"mef/internal/enforce/nftset"
	"mef/internal/enforce/session"
	"mef/internal/exempt"
)

// A backend is a kind of packet filter.
type backend struct {
	name string
	// open returns the packet filter of this host, or an error that names what is missing.
	open func(*slog.Logger, enforce.Settings) (enforce.Backend, error)
	// remove removes all that is ours, and present looks whether there is anything. Neither needs a daemon.
	remove, present func() (bool, error)
}

// backends returns the kinds there are, the best first.
func backends() []backend {
	return []backend{{
		name:    "nftables",
		open:    func(log *slog.Logger, s enforce.Settings) (enforce.Backend, error) { return nftset.New(log, s) },
		remove:  nftset.Delete,
		present: nftset.Present,
	}}
}

// choose opens the first of the backends that this host has, and returns why it was chosen. The error says what each of them lacks.
func choose(from []backend, log *slog.Logger, settings enforce.Settings) (chosen enforce.Backend, reason string, err error) {
	var lacks []error
	for _, b := range from {
		filter, err := b.open(log, settings)
		if err == nil && len(lacks) == 0 {
			return filter, b.name + " is available", nil
		}
		if err == nil {
			return filter, fmt.Sprintf("%s is available; %v", b.name, errors.Join(lacks...)), nil
		}
		lacks = append(lacks, fmt.Errorf("%s is not: %w", b.name, err))
	}
	if len(lacks) == 1 {
		return nil, "", errors.Unwrap(lacks[0])
	}
	return nil, "", errors.Join(lacks...)
}

// A Kernel is an Enforcer over the packet filter of this host.
type Kernel struct {
	*enforce.Enforcer
	filter   enforce.Backend
	sessions *session.Ender
	tested   atomic.Pointer[SelfTest]
	scans    scans
}

// Settings are what the packet filter does beside bans.
type Settings = enforce.Settings

// SettingsFromConf returns those of mef.conf.
func SettingsFromConf(cfg *conf.Config) Settings {
	return Settings{Log: cfg.Log, Scan: cfg.Scan, Flood: cfg.Flood, Proxies: cfg.ProxyAddrs(), CDNs: exempt.CDNNetworks()}
}

// New returns a Kernel over the packet filter of this host.
func New(log *slog.Logger, settings Settings, opt enforce.Options) (*Kernel, error) {
	filter, reason, err := choose(backends(), log, settings)
	if err != nil {
		return nil, err
	}
	log.Info("packet filter", "backend", filter.Names().Filter, "reason", reason)
	k := Over(filter, log, opt)
	k.scans.want(settings)
	return k, nil
}

// Over returns a Kernel over a packet filter. OnVerified, OnLifted, Connected and Log of opt are its own.
func Over(filter enforce.Backend, log *slog.Logger, opt enforce.Options) *Kernel {
	sessions := session.New(log)
	opt.OnVerified, opt.OnLifted, opt.Connected, opt.Log = sessions.Add, sessions.Forget, session.Connected, log
	return &Kernel{Enforcer: enforce.New(filter, opt), filter: filter, sessions: sessions, scans: newScans(log)}
}

// EndSessions ends the sessions of peers that are banned, until ctx is done.
func (k *Kernel) EndSessions(ctx context.Context) error { return k.sessions.Run(ctx) }

// Configure changes what the packet filter does beside bans, without a moment in which a ban does not hold.
func (k *Kernel) Configure(ctx context.Context, settings Settings) error {
	err := k.Renew(ctx, func() error { return k.filter.Configure(settings) })
	k.scans.want(settings)
	return err
}

// Delete removes all that is ours from every packet filter of this host. It reports whether there was anything.
func Delete() (bool, error) { return each(func(b backend) (bool, error) { return b.remove() }) }

// Present reports whether anything of ours is in a packet filter of this host.
func Present() (bool, error) { return each(func(b backend) (bool, error) { return b.present() }) }

// each asks every backend, and reports whether any answered yes.
func each(ask func(backend) (bool, error)) (any bool, err error) {
	for _, b := range backends() {
		yes, askErr := ask(b)
		any, err = any || yes, errors.Join(err, askErr)
	}
	return any, err
}
