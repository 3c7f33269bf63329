package control

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os/user"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Connections at a time. Those of root have slots of their own, so that no member of the group can lock the administrator out.
const (
	memberConns = 64
	rootConns   = 128

	// So many clients at a time are answered that there is no slot. Further ones are only disconnected.
	turnedAway   = 64
	turnAwayTime = time.Second // for each
)

// A peer is who sits at the other end of a connection, as the kernel knows it.
type peer struct {
	name string // "alice", or "uid 1000" without a name
	root bool
}

type peerKey struct{}

// author returns the name of the user who sent a request.
func author(r *http.Request) string { return sender(r).name }

func sender(r *http.Request) peer {
	p, _ := r.Context().Value(peerKey{}).(peer)
	return p
}

// A listener hands out a bounded number of connections at a time. Further ones are answered that the daemon is busy, and closed.
type listener struct {
	*net.UnixListener
	members, roots, busy chan struct{}
}

func newListener(l *net.UnixListener) listener {
	return listener{l, make(chan struct{}, memberConns), make(chan struct{}, rootConns), make(chan struct{}, turnedAway)}
}

// Accept returns the next connection for which there is a slot.
func (l listener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		p := peerOf(c)
		slots := l.members
		if p.root {
			slots = l.roots
		}
		select {
		case slots <- struct{}{}:
			return &conn{UnixConn: c, peer: p, release: sync.OnceFunc(func() { <-slots })}, nil
		default:
			l.turnAway(c)
		}
	}
}

// turnAway answers that there are too many connections, without waiting for the client.
func (l listener) turnAway(c *net.UnixConn) {
	select {
	case l.busy <- struct{}{}:
	default:
		c.Close()
		return
	}
	go func() {
		defer func() { <-l.busy }()
		defer c.Close()
		answerBusy(c)
	}()
}

// answerBusy answers a request once it has begun: a client takes an answer that comes before for a fault. It reads what is left of the
// request, because a socket that is closed with data unread takes the answer back.
func answerBusy(c *net.UnixConn) {
	c.SetDeadline(time.Now().Add(turnAwayTime))
	if _, err := c.Read(make([]byte, 4096)); err != nil {
		return
	}
	body := `{"error":"mefdaemon has too many connections; try again, or as root"}` + "\n"
	fmt.Fprintf(c, "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	c.CloseWrite()
	io.Copy(io.Discard, io.LimitReader(c, 1<<20))
}

type conn struct {
	*net.UnixConn
	peer    peer
	release func()
}

// Close closes the connection and frees its slot.
func (c *conn) Close() error {
	defer c.release()
	return c.UnixConn.Close()
}

// peerOf returns the user at the other end of c.
func peerOf(c *net.UnixConn) peer {
	raw, err := c.SyscallConn()
	if err != nil {
		return peer{name: "unknown"}
	}
	var cred *unix.Ucred
	if err := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || cred == nil {
		return peer{name: "unknown"}
	}
	p := peer{root: cred.Uid == 0}
	uid := strconv.FormatUint(uint64(cred.Uid), 10)
	p.name = "uid " + uid
	if u, err := user.LookupId(uid); err == nil {
		p.name = u.Username
	}
	return p
}
