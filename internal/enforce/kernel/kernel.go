// Package kernel is the one door to the packet filter of this host: it chooses the backend, keeps bans in force with it, and ends the
// sessions of banned peers. What it says of the backend (its name, its table, where a ban is) is for people; a second backend is one
// more case in open, and nothing else knows of it.
package kernel

import (
	"context"
	"log/slog"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/enforce"
	"mef/internal/enforce/nftset"
	"mef/internal/enforce/session"
)

// A backend is what packet filters have beside enforce.Backend.
type backend interface {
	enforce.Backend
	// LogDrops changes how dropped packets are logged, with the next Rebuild.
	LogDrops(conf.DropLog) error
}

// Names of the backend for people.
const (
	Backend = "nftables"
	Table   = "table inet mefdaemon"
)

// A Kernel is an Enforcer over the packet filter of this host.
type Kernel struct {
	*enforce.Enforcer
	filter   backend
	sessions *session.Ender
}

// open returns the packet filter of this host.
func open(log *slog.Logger, drops conf.DropLog) (backend, error) { return nftset.New(log, drops) }

// New returns a Kernel. OnVerified, OnLifted, Connected and Log of opt are its own.
func New(log *slog.Logger, drops conf.DropLog, opt enforce.Options) (*Kernel, error) {
	filter, err := open(log, drops)
	if err != nil {
		return nil, err
	}
	sessions := session.New(log)
	opt.OnVerified, opt.OnLifted, opt.Connected, opt.Log = sessions.Add, sessions.Forget, session.Connected, log
	return &Kernel{enforce.New(filter, opt), filter, sessions}, nil
}

// EndSessions ends the sessions of peers that are banned, until ctx is done.
func (k *Kernel) EndSessions(ctx context.Context) error { return k.sessions.Run(ctx) }

// LogDrops changes how dropped packets are logged, without a moment in which a ban does not hold.
func (k *Kernel) LogDrops(ctx context.Context, drops conf.DropLog) error {
	return k.Renew(ctx, func() error { return k.filter.LogDrops(drops) })
}

// SetOf returns where in the packet filter a ban is, as its own tool names it.
func SetOf(k ban.Key) string { return nftset.SetOf(k) }

// Delete removes all that is ours from the packet filter. It reports whether there was anything.
func Delete() (bool, error) { return nftset.Delete() }

// Present reports whether anything of ours is in the packet filter.
func Present() (bool, error) { return nftset.Present() }
