package hostwatch

import (
	"context"
	"mef/internal/exempt"
	"mef/internal/host"
	"mef/internal/host/docker"
	"os"
	"time"
)

// A Host is what was found of this host.
type Host struct{ host.Facts }

// Read returns what this host is now.
func Read(ctx context.Context) (Host, error) {
	f, err := host.Read(ctx)
	return Host{f}, err
}

// Watch calls changed when the host's addresses, routes, resolvers or accounts have changed, and once at the beginning. It blocks until
// ctx is done and then returns nil.
func Watch(ctx context.Context, changed func(Host)) error {
	return host.Watch(ctx, func(f host.Facts) { changed(Host{f}) })
}

// SetFacts sets what must stay reachable for the host's sake.
func (h Host) SetFacts(f *exempt.Facts) {
	f.SetHost(h.Addrs, h.Gateways, h.Resolvers, h.DHCPServers, h.OnLink)
	f.Containers = h.Inside
}

// AccountNames returns the accounts of the host by the name that fold makes of theirs, and whether one of that name can log in.
func (h Host) AccountNames(fold func(name string) string) map[string]bool {
	names := make(map[string]bool, len(h.Accounts))
	for _, a := range h.Accounts {
		name := fold(a.Name)
		names[name] = names[name] || a.CanLogIn
	}
	return names
}

// UserIDs returns a function that returns the number of an account of this host, as of now.
func UserIDs() func(name string) (uid uint32, ok bool) { return host.UserIDs() }

// lookAtAccounts is how often it is checked whether accounts were added or removed.
const lookAtAccounts = time.Minute

// WatchAccounts calls changed when /etc/passwd has changed. It blocks until ctx is done and then returns nil.
func WatchAccounts(ctx context.Context, changed func()) error {
	return whenChanged(ctx, "/etc/passwd", lookAtAccounts, changed)
}

// lookAtContainers is how often it is checked whether Docker's containers have changed.
const lookAtContainers = 5 * time.Second

// WatchContainers calls changed when Docker's containers have changed, and once at the beginning if there are any: they may have changed since
// the caller looked. It blocks until ctx is done and then returns nil.
func WatchContainers(ctx context.Context, changed func()) error {
	tick := time.NewTicker(lookAtContainers)
	defer tick.Stop()
	before := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if now := docker.State(); now != before {
			before = now
			changed()
		}
	}
}

// whenChanged calls changed when a file was replaced or written to. It looks every so often, until ctx is done.
func whenChanged(ctx context.Context, path string, every time.Duration, changed func()) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	before, _ := os.Stat(path)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now, err := os.Stat(path)
		if err != nil {
			continue // being replaced
		}
		if before == nil || !os.SameFile(before, now) || !before.ModTime().Equal(now.ModTime()) || before.Size() != now.Size() {
			before = now
			changed()
		}
	}
}
