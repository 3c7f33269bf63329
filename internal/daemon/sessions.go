package daemon

import (
	"context"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"mef/internal/ban"
	"mef/internal/event"
	"mef/internal/exempt"
	"mef/internal/host"
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
}

// seen passes a login on to the guard. The engine does not wait: a login that finds the queue full protects nobody until logind
// knows it.
func (e *loop) seen(ev *event.Event) {
	if ev.Kind != event.Success || ev.Service != sshService || !ev.Addr.IsValid() {
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
	k := &guard{logins: map[login]bool{}}
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
	return d.do(ctx, func() { d.heedSessions(k) })
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

// heedSessions takes in what the guard found. Bans in force stay as they are.
func (e *loop) heedSessions(k *guard) {
	addrs := make([]netip.Addr, 0, len(k.peers))
	for a := range k.peers {
		addrs = append(addrs, a)
	}
	e.admins = len(addrs)
	e.setFacts(func(f *exempt.Facts) {
		f.Sessions = hosts(addrs)
		if text := portList(k.ports); text != "" {
			f.SSHPorts = text
		}
	})
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
