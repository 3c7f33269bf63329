package page

import (
	"cmp"
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"mef/internal/pagechild"
)

// Connections at a time: in all, and of one address, network of IPv6, or local user.
const (
	maxConns    = 256
	maxPeerConn = 24
	maxBlocked  = 6 // of one address at the page for blocked customers
)

// A peer is who sits at the other end of a connection, as the kernel knows it.
type peer struct {
	key  string // what limits count by
	addr netip.Addr
	unix bool
	user string // at a unix socket
	role string // at a unix socket; empty: none
}

// A listener accepts a bounded number of connections from each peer. Further ones are closed. At the page for blocked customers, whose clients
// are suspects, a new connection takes the place of the oldest one when there is no room: a customer needs his for a moment only.
type listener struct {
	net.Listener
	settings *pagechild.Settings
	names    map[int]string // of users
	tls      *tls.Config    // nil: plain HTTP
	blocked  bool           // the page for blocked customers

	mu    sync.Mutex
	conns map[string]int
	total int
	open  []*conn // of blocked, the oldest first
}

// Accept returns the next connection for which there is room.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		p := l.peerOf(c)
		if l.blocked {
			l.makeRoom(p.key)
		}
		if !l.take(p.key) {
			c.Close()
			continue
		}
		made := &conn{Conn: c, peer: p}
		made.release = sync.OnceFunc(func() { l.release(made) })
		if l.blocked {
			l.mu.Lock()
			l.open = append(l.open, made)
			l.mu.Unlock()
		}
		return made, nil
	}
}

// makeRoom closes the oldest connection if there is no room for another one of a peer that may have one more.
func (l *listener) makeRoom(key string) {
	var oldest *conn
	l.mu.Lock()
	if l.total >= maxConns && len(l.open) > 0 && l.conns[key] < maxBlocked {
		oldest = l.open[0]
	}
	l.mu.Unlock()
	if oldest != nil {
		oldest.Close()
	}
}

func (l *listener) take(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	most := maxPeerConn
	if l.blocked {
		most = maxBlocked
	}
	if l.total >= maxConns || l.conns[key] >= most {
		return false
	}
	l.total++
	l.conns[key]++
	return true
}

func (l *listener) release(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.conns[c.peer.key]--; l.conns[c.peer.key] <= 0 {
		delete(l.conns, c.peer.key)
	}
	if i := slices.Index(l.open, c); i >= 0 {
		l.open = slices.Delete(l.open, i, i+1)
	}
}

type conn struct {
	net.Conn
	peer    peer
	release func()
}

// Close closes the connection and makes room for another.
func (c *conn) Close() error {
	defer c.release()
	return c.Conn.Close()
}

type peerKey struct{}

func peerOf(ctx context.Context) peer {
	p, _ := ctx.Value(peerKey{}).(peer)
	return p
}

// peerOf returns who is at the other end of a connection.
func (l *listener) peerOf(c net.Conn) peer {
	u, ok := c.(*net.UnixConn)
	if !ok {
		addr := addrOf(c.RemoteAddr())
		prefix, _ := addr.Prefix(map[bool]int{true: 32, false: 64}[addr.Is4()])
		return peer{key: prefix.String(), addr: addr}
	}
	p := peer{unix: true, key: "unknown"}
	raw, err := u.SyscallConn()
	if err != nil {
		return p
	}
	var cred *unix.Ucred
	var groups []uint32
	if err := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		groups = peerGroups(int(fd))
	}); err != nil || cred == nil {
		return p
	}
	id := strconv.FormatUint(uint64(cred.Uid), 10)
	p.key, p.user = "uid "+id, cmp.Or(l.names[int(cred.Uid)], "uid-"+id)
	if cred.Uid == 0 {
		p.role = "operator"
	}
	for _, gid := range append(groups, cred.Gid) {
		p.role = pagechild.Greater(p.role, l.settings.Groups[int(gid)])
	}
	return p
}

// peerGroups returns the supplementary groups of the process that made a connection (SO_PEERGROUPS, Linux 4.13).
func peerGroups(fd int) []uint32 {
	const soPeerGroups = 59
	groups := make([]uint32, 1024)
	size := uint32(len(groups) * 4)
	if _, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, soPeerGroups,
		uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0); errno != 0 {
		return nil
	}
	return groups[:size/4]
}

func addrOf(a net.Addr) netip.Addr {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}
