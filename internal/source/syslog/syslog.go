// Package syslog receives messages of syslog(3) and of log servers: on a unix socket, over UDP (RFC 5426) and TCP (RFC 6587).
//
// # Trusted senders
//
// A process that can send to a socket can write any message under the name of any program. For a message on a unix socket, the kernel reports which
// user sent it (unix(7), SCM_CREDENTIALS), so that it counts like a journal entry of that user. Over UDP and TCP nothing is known
// of the sender but its address. On loopback every local user can send, so what comes from there is unverified, unless the operator
// declares that it is trusted. The messages of a sender elsewhere are dropped unless it is declared; over UDP, where the address of a packet
// can be forged, it stays unverified.
//
// # When it is too much
//
// A daemon whose syslog(3) blocks stops working, so datagrams are always read, and dropped and counted if the receiver is busy. A
// TCP connection waits.
package syslog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"mef/internal/event"
	"mef/internal/prefixset"
	"mef/internal/sleep"
)

// MaxLine is the length in bytes of the longest message that is handed over whole; what is longer is cut off there.
const MaxLine = 64 << 10

// A Config sets where to listen.
type Config struct {
	Network string // "unix", "udp" or "tcp"
	Address string // a path, or an address with port

	// Senders are trusted addresses. Messages from other addresses than those of this host are dropped otherwise.
	Senders prefixset.Set

	Log *slog.Logger // nil discards
}

// A Status describes a socket.
type Status struct {
	Active   bool
	Reason   string    // why it does not listen
	LastLine time.Time // zero: none yet
	Refused  uint64    // messages and connections of senders that are not declared
}

// A Listener receives messages on one socket.
type Listener struct {
	cfg    Config
	name   string
	out    chan<- *event.Batch
	log    *slog.Logger
	pool   event.Pool
	stream string

	behind bool // the receiver let a batch wait for too long, and has taken none at once since

	mu     sync.Mutex
	status Status
	offset uint64
	lost   int // since the last batch
}

// New returns a Listener that will send to out, which may be shared with other sources.
func New(cfg Config, out chan<- *event.Batch) *Listener {
	l := &Listener{cfg: cfg, name: Name(cfg.Network, cfg.Address), out: out, log: cfg.Log, status: Status{Reason: "not started"}}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	return l
}

// Name returns what Batch.Source is for a socket: "syslog udp:127.0.0.1:5514".
func Name(network, address string) string { return Prefix + network + ":" + address }

// Prefix is what the names of sockets begin with.
const Prefix = "syslog "

// Name returns what Batch.Source is.
func (l *Listener) Name() string { return l.name }

// Status returns a snapshot. It may be called at any time.
func (l *Listener) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status
}

func (l *Listener) setStatus(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.Active, l.status.Reason = err == nil, ""
	if err != nil {
		l.status.Reason = err.Error()
	}
}

// again is how long Run waits before it tries to listen again.
const again = 5 * time.Second

// Run receives messages until ctx is done; it then returns nil. Where it cannot listen, it tries again.
func (l *Listener) Run(ctx context.Context) error {
	// An offset begins anew with each run: the stream's name must be another.
	l.stream = l.name + " " + strconv.FormatInt(time.Now().UnixNano(), 36)
	for ctx.Err() == nil {
		err := l.listen(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			err = errors.New("the socket was closed")
		}
		if l.Status().Reason != err.Error() {
			l.log.Warn("syslog socket", "socket", l.name, "err", err)
		}
		l.setStatus(err)
		sleep.For(ctx, again)
	}
	return nil
}

// listen receives messages until ctx is done or the socket fails.
func (l *Listener) listen(ctx context.Context) error {
	if l.cfg.Network == "tcp" {
		return l.listenTCP(ctx)
	}
	conn, err := l.open(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	l.setStatus(nil)
	return l.datagrams(ctx, conn)
}

// A socket is one for datagrams.
type socket struct {
	net.PacketConn
	raw syscall.RawConn
}

// open opens the socket for datagrams.
func (l *Listener) open(ctx context.Context) (*socket, error) {
	var lc net.ListenConfig
	if l.cfg.Network == "udp" {
		conn, err := lc.ListenPacket(ctx, "udp", l.cfg.Address)
		if err != nil {
			return nil, err
		}
		udp := conn.(*net.UDPConn)
		_ = udp.SetReadBuffer(receiveBuffer) // as much as the kernel allows
		raw, err := udp.SyscallConn()
		return &socket{conn, raw}, err
	}
	if err := removeSocket(l.cfg.Address); err != nil {
		return nil, err
	}
	lc.Control = func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			failed = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1),
				unix.Fchmod(int(fd), 0o666)) // daemons log under their own accounts; the kernel reports which
		})
		return errors.Join(err, failed)
	}
	conn, err := lc.ListenPacket(ctx, "unixgram", l.cfg.Address)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(l.cfg.Address, 0o666); err != nil {
		conn.Close()
		return nil, err
	}
	raw, err := conn.(*net.UnixConn).SyscallConn()
	return &socket{conn, raw}, err
}

// removeSocket removes a socket that an earlier run left. What is no socket stays: the path may be mistyped.
func removeSocket(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is there and no socket", path)
	}
	if conn, err := net.Dial("unixgram", path); err == nil {
		conn.Close()
		return fmt.Errorf("%s: another program listens there", path)
	}
	return os.Remove(path)
}

const (
	receiveBuffer = 1 << 20
	perBatch      = 64          // messages, at most
	patience      = time.Second // how long a busy receiver is waited for before datagrams are dropped
)

// datagrams receives messages, as many at once as wait.
func (l *Listener) datagrams(ctx context.Context, conn *socket) error {
	buf := make([]byte, MaxLine+1)
	oob := make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	for {
		b := l.batch()
		var entries []event.Entry
		var failed error
		var text []byte
		var ends []int
		err := conn.raw.Read(func(fd uintptr) bool {
			for len(ends) < perBatch {
				n, oobn, _, from, err := unix.Recvmsg(int(fd), buf, oob, unix.MSG_DONTWAIT)
				switch {
				case err == unix.EAGAIN:
					return len(ends) > 0
				case err == unix.EINTR:
					continue
				case err != nil:
					failed = err
					return true
				}
				who, ok := l.sender(from, oob[:oobn])
				if !ok || len(ends) > 0 && who.unverified != b.Unverified {
					if ok { // it has another standing than those before: a batch of its own
						l.one(ctx, buf[:n], who)
					}
					continue
				}
				b.Unverified = who.unverified
				entries = append(entries, event.Entry{UID: who.uid})
				text = append(text, buf[:min(n, MaxLine)]...)
				ends = append(ends, len(text))
			}
			return true
		})
		if len(ends) > 0 {
			l.fill(b, text, ends, entries)
			l.send(ctx, b)
		} else {
			b.Release()
		}
		if err = errors.Join(err, failed); err != nil {
			return err
		}
	}
}

// one hands over a message by itself.
func (l *Listener) one(ctx context.Context, message []byte, who sender) {
	b := l.batch()
	b.Unverified = who.unverified
	message = message[:min(len(message), MaxLine)]
	l.fill(b, message, []int{len(message)}, []event.Entry{{UID: who.uid}})
	l.send(ctx, b)
}

// A sender is what is known of the sender of a message.
type sender struct {
	uid        uint32
	unverified bool
}

// sender returns who sent a datagram. It reports false if messages of that sender are not wanted.
func (l *Listener) sender(from unix.Sockaddr, oob []byte) (sender, bool) {
	var addr netip.Addr
	switch from := from.(type) {
	case *unix.SockaddrInet4:
		addr = netip.AddrFrom4(from.Addr)
	case *unix.SockaddrInet6:
		addr = netip.AddrFrom16(from.Addr).Unmap()
	default:
		messages, err := unix.ParseSocketControlMessage(oob)
		if err != nil || len(messages) == 0 {
			return sender{}, false
		}
		cred, err := unix.ParseUnixCredentials(&messages[0])
		if err != nil {
			return sender{}, false
		}
		return sender{uid: cred.Uid}, true
	}
	return l.peer(addr, false)
}

// peer returns what is known of the sender at an address. dialogue: the address cannot be forged.
func (l *Listener) peer(addr netip.Addr, dialogue bool) (sender, bool) {
	addr = addr.Unmap().WithZone("")
	declared := l.cfg.Senders.Contains(addr)
	if !declared && !addr.IsLoopback() {
		l.mu.Lock()
		l.status.Refused++
		l.mu.Unlock()
		return sender{}, false
	}
	return sender{unverified: !declared || !dialogue && !addr.IsLoopback()}, true
}

// batch returns an empty batch of the source.
func (l *Listener) batch() *event.Batch {
	b := l.pool.Get()
	b.Source, b.Stream = l.name, l.stream
	return b
}

// fill puts messages into a batch. text has them one behind the other, up to ends.
func (l *Listener) fill(b *event.Batch, text []byte, ends []int, from []event.Entry) {
	now := time.Now()
	buf := b.Buffer(len(text))
	copy(buf, text)
	entries := b.Entries(len(ends))
	l.mu.Lock()
	defer l.mu.Unlock()
	start := 0
	for i, end := range ends {
		entries[i] = from[i]
		message := parse(buf[start:end:end], &entries[i])
		start = end
		l.offset++
		b.Lines = append(b.Lines, event.Line{Time: now, Text: message, Offset: l.offset, Entry: &entries[i]})
	}
	b.Lost, l.lost = l.lost, 0
	l.status.LastLine = now
}

// send hands a batch of datagrams over, or drops it.
func (l *Listener) send(ctx context.Context, b *event.Batch) {
	wait := patience
	if l.behind {
		wait = 0
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case l.out <- b:
		l.behind = false
		return
	default:
	}
	select {
	case l.out <- b:
		return
	case <-timer.C:
	case <-ctx.Done():
	}
	l.behind = true
	l.mu.Lock()
	l.lost += len(b.Lines) + b.Lost
	l.mu.Unlock()
	b.Release()
}

// Bounds on TCP.
const (
	maxConns = 64
	idle     = time.Hour // after which a connection that sends nothing is closed
)

// listenTCP receives messages over TCP: lines, or messages with their lengths in front (RFC 6587).
func (l *Listener) listenTCP(ctx context.Context) error {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", l.cfg.Address)
	if err != nil {
		return err
	}
	defer listener.Close()
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	l.setStatus(nil)
	var conns errgroup.Group
	conns.SetLimit(maxConns)
	defer func() { _ = conns.Wait() }() // connections end with ctx, or by themselves
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		addr, err := netip.ParseAddrPort(conn.RemoteAddr().String())
		who, ok := l.peer(addr.Addr(), true)
		if err != nil || !ok || !conns.TryGo(func() error { l.conn(ctx, conn, who); return nil }) {
			conn.Close()
		}
	}
}

// conn reads the messages of a connection until it ends. It waits while the receiver is busy.
func (l *Listener) conn(ctx context.Context, conn net.Conn, who sender) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	buf := make([]byte, 0, MaxLine+16)
	skip := false // the rest of a message that was too long
	for {
		_ = conn.SetReadDeadline(time.Now().Add(idle))
		n, err := conn.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		var text []byte
		var ends []int
		rest := buf
		for {
			message, after, ok := cutMessage(rest)
			if !ok {
				break
			}
			rest = after
			if !skip && len(message) > 0 {
				text = append(text, message...)
				ends = append(ends, len(text))
			}
			skip = false
		}
		if len(rest) == cap(buf) { // too long: what there is of it counts, the rest does not
			if !skip {
				text = append(text, rest[:MaxLine]...)
				ends = append(ends, len(text))
			}
			skip, rest = true, nil
		}
		if err != nil && len(rest) > 0 && !skip {
			text = append(text, rest...)
			ends = append(ends, len(text))
		}
		buf = buf[:copy(buf[:cap(buf)], rest)]
		if len(ends) > 0 {
			entries := make([]event.Entry, len(ends))
			for i := range entries {
				entries[i].UID = who.uid
			}
			b := l.batch()
			b.Unverified = who.unverified
			l.fill(b, text, ends, entries)
			select {
			case l.out <- b:
			case <-ctx.Done():
				b.Release()
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// cutMessage takes a message off the front of s: up to a line end, or as long as the number in front of it states. It reports false if it is
// not there whole.
func cutMessage(s []byte) (message, rest []byte, ok bool) {
	n, digits := 0, 0
	for digits < len(s) && digits < 6 && '0' <= s[digits] && s[digits] <= '9' {
		n = 10*n + int(s[digits]-'0')
		digits++
	}
	if digits > 0 && s[0] != '0' && digits+1 < len(s) && s[digits] == ' ' && s[digits+1] == '<' && n <= MaxLine {
		if len(s) < digits+1+n {
			return nil, s, false
		}
		return s[digits+1 : digits+1+n], s[digits+1+n:], true
	}
	end := bytes.IndexByte(s, '\n')
	if end < 0 {
		return nil, s, false
	}
	return s[:end], s[end+1:], true
}
