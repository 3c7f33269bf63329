// Package hostwatch follows what the daemon must know of its host while it runs: its addresses, accounts, and from where administrators
// are logged in over SSH.
package hostwatch

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"mef/internal/ban"
	"mef/internal/host"
	"mef/internal/ordered"
	"mef/internal/owner"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
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

const (
	// recentAge is how long an address from which an administrator was logged in counts as such.
	recentAge = 30 * 24 * time.Hour
	// maxRecent bounds these addresses; the oldest go first.
	maxRecent = 256
	// saveRecent is how much later a login must be than the one that is saved to be saved.
	saveRecent = time.Hour
)

// A login is a successful SSH login found in the log.
type login struct {
	user string
	addr netip.Addr
}

// A Guard knows from where administrators are logged in over SSH. Load is for the time before Run; Login may be called from any goroutine.
type Guard struct {
	queue  chan login // bounded: what does not fit is dropped
	recent map[netip.Addr]time.Time
}

// NewGuard returns a Guard that knows of no login.
func NewGuard() *Guard { return &Guard{queue: make(chan login, maxLogins)} }

// Load takes over the text that an earlier run saved, and returns the addresses from which administrators had logged in lately.
func (g *Guard) Load(text string) (recent []netip.Addr) {
	_ = json.Unmarshal([]byte(text), &g.recent) // without one, no administrator is known
	return slices.Collect(maps.Keys(g.recent))
}

// Login reports a login that a log has. It does not wait: a login that finds the queue full protects nobody until logind knows it.
func (g *Guard) Login(service, user string, addr netip.Addr) {
	if service != sshService {
		return
	}
	select {
	case g.queue <- login{user, addr}:
	default:
	}
}

// Admins are addresses of administrators.
type Admins struct {
	Live, Recent []netip.Addr // with a session now; with one within a month
	SSHPorts     ban.Ports    // of the SSH server; empty: not known, because nobody is logged in
}

// A Client is whom a Guard works for. Its functions return the error of ctx.
type Client struct {
	Groups func(ctx context.Context) ([]string, error) // whose members are administrators
	Apply  func(ctx context.Context, a Admins) error
	Save   func(text string) // for Load in the next run
	Log    *slog.Logger
}

// Run follows the sessions until ctx is done.
func (g *Guard) Run(ctx context.Context, c Client) error {
	changed := make(chan struct{}, 1)
	var watch errgroup.Group
	watch.Go(func() error {
		err := host.WatchSessions(ctx, func() { owner.Wake(changed) })
		if err != nil {
			c.Log.Warn("live SSH sessions are found by the log alone", "err", err)
		}
		return nil
	})
	s := &sessions{logins: map[login]bool{}, recent: g.recent, saved: maps.Clone(g.recent)}
	look := time.NewTimer(0)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return watch.Wait()
		case l := <-g.queue:
			if len(s.logins) >= maxLogins && !s.logins[l] {
				continue
			}
			s.logins[l] = true
			look.Reset(lookAtMost - time.Since(s.looked))
		case <-changed:
			look.Reset(lookAtMost - time.Since(s.looked))
		case <-look.C:
			if s.protect(ctx, c) != nil {
				return watch.Wait()
			}
			if len(s.logins) > 0 {
				look.Reset(lookAgain)
			}
		}
	}
}

// sessions are what a Guard knows. They belong to the goroutine of Run.
type sessions struct {
	logins  map[login]bool // that logind does not know, or not yet, with an open connection when last looked
	looked  time.Time
	ports   []uint16
	portsAt time.Time
	peers   map[netip.Addr]bool
	recent  map[netip.Addr]time.Time // from where administrators were logged in, and when last
	saved   map[netip.Addr]time.Time // of recent, what is saved
}

// protect looks at the live sessions and applies them. The error is that of ctx.
func (k *sessions) protect(ctx context.Context, c Client) error {
	groups, err := c.Groups(ctx)
	if err != nil {
		return err
	}
	k.looked = time.Now()
	k.look(host.Sessions(), func(user string) bool { return host.Administers(user, groups) }, host.SSHPorts, host.Peers)
	k.note(k.looked)
	if text, changed := k.toSave(); changed {
		c.Save(text)
	}
	return c.Apply(ctx, Admins{slices.Collect(maps.Keys(k.peers)), slices.Collect(maps.Keys(k.recent)), portList(k.ports)})
}

// note records the live sessions, and forgets what is too old or too many.
func (k *sessions) note(now time.Time) {
	if k.recent == nil {
		k.recent = make(map[netip.Addr]time.Time)
	}
	for a := range k.peers {
		k.recent[a] = now
	}
	maps.DeleteFunc(k.recent, func(_ netip.Addr, at time.Time) bool { return now.Sub(at) > recentAge })
	if len(k.recent) > maxRecent {
		addrs := slices.Collect(maps.Keys(k.recent))
		ordered.Sort(addrs, func(a, b netip.Addr) int { return k.recent[a].Compare(k.recent[b]) })
		for _, a := range addrs[:len(addrs)-maxRecent] {
			delete(k.recent, a)
		}
	}
}

// toSave returns the recent logins as text, and whether they have to be saved.
func (k *sessions) toSave() (text string, changed bool) {
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
func (k *sessions) look(sessions []host.Session, admin func(user string) bool, sshPorts func() []uint16,
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
		// From here on logind reports its end.
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
