package kernel

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/enforce"
)

// openAgain is how long to wait before the packet filter is opened again. Opening may start programs, and every ban would ask for it.
const openAgain = 5 * time.Second

// A late is a packet filter that may not be usable yet, because a capability or a module is missing. Check opens it; until that succeeds, all
// methods return why it cannot be opened. It implements enforce.Backend.
type late struct {
	open   func(Settings) (filter enforce.Backend, reason string, err error)
	opened chan struct{} // closed once it is open

	mu       sync.Mutex
	settings Settings // to open it with
	filter   enforce.Backend
	reason   string // why this packet filter was chosen
	err      error  // why it cannot be opened
	tried    time.Time
}

// newLate returns the packet filter of this host, and tries to open it.
func newLate(kinds []backend, want conf.Backend, log *slog.Logger, settings Settings) *late {
	l := &late{settings: settings, opened: make(chan struct{})}
	l.open = func(s Settings) (enforce.Backend, string, error) {
		filter, reason, err := openOf(kinds, 0, want, log, s)
		if err == nil {
			log.Info("packet filter", "backend", filter.Names().Filter, "reason", reason)
		}
		return filter, reason, err
	}
	l.tryOpen(time.Now())
	return l
}

// tryOpen opens the packet filter, unless it is open or that was tried a moment ago.
func (l *late) tryOpen(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.filter != nil || now.Sub(l.tried) < openAgain {
		return
	}
	l.tried = now
	if l.filter, l.reason, l.err = l.open(l.settings); l.err != nil {
		l.filter = nil
		return
	}
	close(l.opened)
}

// get returns the packet filter, or why it is not open.
func (l *late) get() (enforce.Backend, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.filter, l.err
}

// why returns why this packet filter was chosen, "" while there is none.
func (l *late) why() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reason
}

// Check implements enforce.Backend.
func (l *late) Check(ctx context.Context) (enforce.Check, error) {
	l.tryOpen(time.Now())
	filter, err := l.get()
	if err != nil {
		return enforce.Check{}, err
	}
	return filter.Check(ctx)
}

// Apply implements enforce.Backend.
func (l *late) Apply(ctx context.Context, c enforce.Changes) ([]enforce.Failure, error) {
	filter, err := l.get()
	if err != nil {
		return nil, err
	}
	return filter.Apply(ctx, c)
}

// Rebuild implements enforce.Backend.
func (l *late) Rebuild(ctx context.Context, c enforce.Changes) ([]enforce.Failure, error) {
	filter, err := l.get()
	if err != nil {
		return nil, err
	}
	return filter.Rebuild(ctx, c)
}

// Held implements enforce.Backend.
func (l *late) Held(ctx context.Context, keys ...ban.Key) (enforce.State, error) {
	filter, err := l.get()
	if err != nil {
		return enforce.State{}, err
	}
	return filter.Held(ctx, keys...)
}

// Watch implements enforce.Backend.
func (l *late) Watch(ctx context.Context, changed func(enforce.Notice)) error {
	select {
	case <-l.opened:
	case <-ctx.Done():
		return nil
	}
	filter, _ := l.get()
	return filter.Watch(ctx, changed)
}

// SetList implements enforce.Backend.
func (l *late) SetList(list enforce.List) func(context.Context) (bool, error) {
	var step func(context.Context) (bool, error)
	return func(ctx context.Context) (done bool, err error) {
		if step == nil {
			filter, err := l.get()
			if err != nil {
				return false, err
			}
			step = filter.SetList(list)
		}
		return step(ctx)
	}
}

// KeepLists implements enforce.Backend.
func (l *late) KeepLists(ctx context.Context, names []string) error {
	filter, err := l.get()
	if err != nil {
		return err
	}
	return filter.KeepLists(ctx, names)
}

// Lists implements enforce.Backend.
func (l *late) Lists(ctx context.Context) ([]enforce.HeldList, error) {
	filter, err := l.get()
	if err != nil {
		return nil, err
	}
	return filter.Lists(ctx)
}

// Listed implements enforce.Backend.
func (l *late) Listed(ctx context.Context, addr netip.Addr) ([]string, error) {
	filter, err := l.get()
	if err != nil {
		return nil, err
	}
	return filter.Listed(ctx, addr)
}

// Configure implements enforce.Backend. A packet filter that is not open yet is opened with these settings.
func (l *late) Configure(s Settings) error {
	l.mu.Lock()
	l.settings = s
	l.mu.Unlock()
	filter, err := l.get()
	if err != nil {
		return nil
	}
	return filter.Configure(s)
}

// Detection implements enforce.Backend.
func (l *late) Detection() (enforce.Detection, error) {
	filter, err := l.get()
	if err != nil {
		return enforce.Detection{}, err
	}
	return filter.Detection()
}

// Drops implements enforce.Backend.
func (l *late) Drops(ctx context.Context) (enforce.Drops, error) {
	filter, err := l.get()
	if err != nil {
		return enforce.Drops{}, err
	}
	return filter.Drops(ctx)
}

// Names implements enforce.Backend.
func (l *late) Names() enforce.Names {
	filter, err := l.get()
	if err != nil {
		return enforce.Names{Filter: "none", Table: "the packet filter"}
	}
	return filter.Names()
}

// SetOf implements enforce.Backend.
func (l *late) SetOf(k ban.Key) string {
	filter, err := l.get()
	if err != nil {
		return ""
	}
	return filter.SetOf(k)
}
