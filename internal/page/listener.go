package page

import (
	"cmp"
	"context"
	"crypto/tls"
	"net"
	"net/netip"
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
)

// A peer is who sits at the other end of a connection, as the kernel knows it.
type peer struct {
	key  string // what limits count by
	addr netip.Addr
	unix bool
	user string // at a unix socket
	role string // at a unix socket; empty: none
}

// A listener accepts a bounded number of connections from each peer. Further ones are closed.
type listener struct {
	net.Listener
	settings *pagechild.Settings
	names    map[int]string // of users
	tls      *tls.Config    // nil: plain HTTP

	mu    sync.Mutex
	conns map[string]int
	total int
}

// Accept returns the next connection for which there is room.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		p := l.peerOf(c)
		if !l.take(p.key) {
			c.Close()
			continue
		}
		return &conn{Conn: c, peer: p, release: sync.OnceFunc(func() { l.release(p.key) })}, nil
	}
}

func (l *listener) take(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= maxConns || l.conns[key] >= maxPeerConn {
		return false
	}
	l.total++
	l.conns[key]++
	return true
}

func (l *listener) release(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.conns[key]--; l.conns[key] <= 0 {
		delete(l.conns, key)
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
