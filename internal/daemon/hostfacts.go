package daemon

import (
	"context"
	"encoding/json"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"mef/internal/ban"
	"mef/internal/engine"
	"mef/internal/host"
	"mef/internal/store"
)

// sshService is the service whose logins protect their address.
const sshService = "sshd"

const (
	// lookAtMost is how often the live sessions are looked at, however often they change.
	lookAtMost = time.Second
	// lookAgain is how often it is looked whether logins that logind does not know are still connected, while there are any.
	lookAgain = 10 * time.Second
	// portsAge is for how long the ports of the SSH server are taken to be the same.
	portsAge = time.Minute
	// maxLogins bounds the logins that logind does not know; further ones protect nobody.
	maxLogins = 64
)

// A login is a success at the SSH server, as its log tells.
type login struct {
	user string
	addr netip.Addr
}

// A guard knows from where administrators are logged in over SSH. It belongs to the goroutine of watchSessions.
type guard struct {
	logins  map[login]bool // that logind does not know, or not yet, with an open connection when last looked
	looked  time.Time
	ports   []uint16
	portsAt time.Time
	peers   map[netip.Addr]bool
	recent  map[netip.Addr]time.Time // from where administrators were logged in, and when last
	saved   map[netip.Addr]time.Time // of recent, what mef.db has
}

const (
	// recentAge is how long an address from which an administrator was logged in counts as such.
	recentAge = 30 * 24 * time.Hour
	// maxRecent bounds these addresses; the oldest go first.
	maxRecent = 256
	// saveRecent is how much later a login must be than the one that is saved to be saved.
	saveRecent = time.Hour

	noteAdmins = "admins" // in mef.db: recent logins of administrators, a map of time.Time by address
)

// seen passes a login on to the guard. The engine does not wait: a login that finds the queue full protects nobody until logind
// knows it.
func (e *loop) onLogin(ev *engine.Event) {
	if ev.Kind != engine.Success || ev.Service != sshService || !ev.Addr.IsValid() {
		return
	}
	select {
	case e.logins <- login{ev.User, ev.Addr}:
	default:
	}
}

// watchSessions keeps the facts about live SSH sessions of administrators: those of logind, which tells of changes, and logins that
// the log told of whose connection is still open, which have to be looked at.
func (d *daemon) watchSessions(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := host.WatchSessions(ctx, func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		})
		if err != nil {
			d.log.Warn("live SSH sessions are known from the log alone", "err", err)
		}
		return nil
	})
	g.Go(func() error { d.guardSessions(ctx, changed); return nil })
	return g.Wait()
}

func (d *daemon) guardSessions(ctx context.Context, changed <-chan struct{}) {
	k := &guard{logins: map[login]bool{}, recent: d.recentAdmins, saved: maps.Clone(d.recentAdmins)}
	look := time.NewTimer(0)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case l := <-d.logins:
			if len(k.logins) >= maxLogins && !k.logins[l] {
				continue
			}
			k.logins[l] = true
			look.Reset(lookAtMost - time.Since(k.looked))
		case <-changed:
			look.Reset(lookAtMost - time.Since(k.looked))
		case <-look.C:
			if d.protect(ctx, k) != nil {
				return
			}
			if len(k.logins) > 0 {
				look.Reset(lookAgain)
			}
		}
	}
}

// protect looks at the live sessions and tells the engine. The error is that of ctx.
func (d *daemon) protect(ctx context.Context, k *guard) error {
	groups, err := query(ctx, d.loop, func() []string { return d.cfg.ProtectGroups })
	if err != nil {
		return err
	}
	k.looked = time.Now()
	k.look(host.Sessions(), func(user string) bool { return host.Administers(user, groups) }, host.SSHPorts, host.Peers)
	k.note(k.looked)
	if text, changed := k.toSave(); changed {
		d.saver.Save(store.Update{Notes: map[string]string{noteAdmins: text}})
	}
	return d.applySessions(ctx, k)
}

// note takes note of the live sessions, and forgets what is too old or too many.
func (k *guard) note(now time.Time) {
	if k.recent == nil {
		k.recent = make(map[netip.Addr]time.Time)
	}
	for a := range k.peers {
		k.recent[a] = now
	}
	maps.DeleteFunc(k.recent, func(_ netip.Addr, at time.Time) bool { return now.Sub(at) > recentAge })
	if len(k.recent) > maxRecent {
		addrs := slices.SortedFunc(maps.Keys(k.recent), func(a, b netip.Addr) int { return k.recent[a].Compare(k.recent[b]) })
		for _, a := range addrs[:len(addrs)-maxRecent] {
			delete(k.recent, a)
		}
	}
}

// toSave returns the recent logins as mef.db keeps them, and whether it has to be given them.
func (k *guard) toSave() (text string, changed bool) {
	changed = len(k.recent) != len(k.saved)
	for a, at := range k.recent {
		changed = changed || at.Sub(k.saved[a]) > saveRecent
	}
	if !changed {
		return "", false
	}
	data, err := json.Marshal(k.recent)
	if err != nil {
		return "", false
	}
	k.saved = maps.Clone(k.recent)
	return string(data), true
}

// look finds out which addresses have a live session of an administrator.
func (k *guard) look(sessions []host.Session, admin func(user string) bool, sshPorts func() []uint16,
	connected func(ports []uint16) (map[netip.Addr]bool, error)) {
	k.peers = map[netip.Addr]bool{}
	known := map[login]bool{}
	for _, s := range sessions {
		known[login{s.User, s.Peer}] = true
		if s.UID == 0 || admin(s.User) {
			k.peers[s.Peer] = true
		}
	}
	for l := range k.logins {
		// From here on logind tells of its end.
		if known[l] || !admin(l.user) {
			delete(k.logins, l)
		}
	}
	if len(k.peers)+len(k.logins) == 0 {
		return
	}
	if k.looked.Sub(k.portsAt) > portsAge {
		k.ports, k.portsAt = sshPorts(), k.looked
	}
	if len(k.logins) == 0 {
		return
	}
	open, err := connected(k.ports)
	for l := range k.logins {
		if err == nil && !open[l.addr] {
			delete(k.logins, l)
			continue
		}
		k.peers[l.addr] = true
	}
}

// applySessions takes over what the guard found. Bans in force stay as they are, but for lists, which hold back what would ban an
// administrator.
func (d *daemon) applySessions(ctx context.Context, k *guard) error {
	live, recent := slices.Collect(maps.Keys(k.peers)), slices.Collect(maps.Keys(k.recent))
	ports := portList(k.ports)
	changed, err := query(ctx, d.loop, func() (changed bool) {
		d.admins = len(live)
		d.setFacts(func(f *engine.Facts) { changed = f.SetAdmins(live, recent, ports) })
		return changed
	})
	if err == nil && changed {
		select {
		case d.adminsChanged <- struct{}{}:
		default: // one that waits stands for all
		}
	}
	return err
}

func portList(ports []uint16) ban.Ports {
	words := make([]string, len(ports))
	for i, p := range ports {
		words[i] = strconv.Itoa(int(p))
	}
	list, err := ban.ParsePorts(strings.Join(words, ","))
	if err != nil {
		return "" // more than a list may have: the standard port is protected
	}
	return list
}

// setHost sets the facts about this host.
func setHost(f *engine.Facts, h host.Facts) {
	f.SetHost(h.Addrs, h.Gateways, h.Resolvers, h.DHCPServers, h.OnLink)
}

// accountNames returns the accounts of the host as the tracker compares users.
func accountNames(accounts []host.Account) map[string]bool {
	names := make(map[string]bool, len(accounts))
	for _, a := range accounts {
		name := engine.AccountName(a.Name)
		names[name] = names[name] || a.CanLogIn
	}
	return names
}

// setFacts changes who must stay reachable. It runs on the engine's goroutine.
func (e *loop) setFacts(change func(*engine.Facts)) engine.Facts {
	f := e.engine.Facts()
	change(&f)
	e.engine.SetFacts(f)
	return f
}

// watchHost follows changes of the host's addresses, routes and resolvers.
func (d *daemon) watchHost(ctx context.Context) error {
	return host.Watch(ctx, func(f host.Facts) {
		_, err := ask(ctx, &d.configurator, func(ctx context.Context) (struct{}, error) {
			err := d.allow(ctx, func(facts *engine.Facts) {
				setHost(facts, f)
				d.engine.SetAccounts(accountNames(f.Accounts))
			})
			d.relist(ctx) // an entry of the blacklist may be one of our own addresses now
			return struct{}{}, err
		})
		if err != nil && ctx.Err() == nil {
			d.log.Error("allow this host's own addresses", "err", err)
		}
	})
}

// lookAtAccounts is how often it is checked whether accounts were added or removed.
const lookAtAccounts = time.Minute

// watchAccounts compiles the rules again when /etc/passwd changes. A rule names the accounts of its daemon, which a package makes when it
// is installed: until their numbers are known, their journal entries are not believed.
func (d *daemon) watchAccounts(ctx context.Context) error {
	return whenChanged(ctx, "/etc/passwd", lookAtAccounts, func() {
		_, err := ask(ctx, &d.configurator, func(ctx context.Context) (struct{}, error) {
			set, err := compile(d.cfg)
			if err == nil {
				err = d.swap(ctx, &setup{cfg: d.cfg, set: set})
			}
			return struct{}{}, err
		})
		if err != nil && ctx.Err() == nil {
			d.log.Error("accounts have changed; the rules go by the ones before", "err", err)
		}
	})
}

// whenChanged calls changed when a file is another one than before, or was written to. It looks every so often, until ctx is done.
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
