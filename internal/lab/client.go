//go:build linux

package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/textproto"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// ErrDenied is wrapped by the errors of logins that the server answered with a refusal.
var ErrDenied = errors.New("user name or password refused")

// A Client is a host in the internet, at one address of the world's client networks.
type Client struct {
	At   *Namespace
	From netip.Addr
}

// Client returns the client at an address such as 203.0.113.7 or 2001:db8:bad0::7.
func (w *World) Client(from string) Client { return Client{w.Internet, netip.MustParseAddr(from)} }

// Server returns the server's address in the client's family.
func (c Client) Server() netip.Addr {
	if c.From.Is4() {
		return Server4
	}
	return Server6
}

// Dial connects to a port of the server. The connection's deadline passes when ctx is done. Its Read and Write return the first
// error of either again and again, and ECONNRESET after a reset. The kernel reports a reset only once, perhaps to a Write whose error
// is ignored; a later Read looks like the end of the stream.
func (c Client) Dial(ctx context.Context, port int) (net.Conn, error) {
	return c.DialAddr(ctx, netip.AddrPortFrom(c.Server(), uint16(port)))
}

// DialAddr is Dial to any address.
func (c Client) DialAddr(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	dialer := net.Dialer{
		LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.From, 0)),
		Control:   freebind,
	}
	var conn net.Conn
	err := c.At.Do(func() (err error) {
		conn, err = dialer.DialContext(ctx, "tcp", to.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })
	return &clientConn{Conn: conn}, nil
}

// A clientConn is a TCP connection that remembers its first error.
type clientConn struct {
	net.Conn

	mu    sync.Mutex
	first error // nil until Read or Write fails
}

func (c *clientConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	return n, c.sticky(err)
}

func (c *clientConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	return n, c.sticky(err)
}

// sticky returns nil for nil, and the first error otherwise.
func (c *clientConn) sticky(err error) error {
	if err == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first == nil {
		c.first = err
		// Another goroutine's call may have been given the reset and not have recorded it yet.
		if (errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE)) && c.isReset() {
			c.first = &net.OpError{Op: "read", Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: syscall.ECONNRESET}
		}
	}
	return c.first
}

// isReset reports whether the kernel has no connection any more. After a peer's orderly end it has one half.
func (c *clientConn) isReset() bool {
	raw, err := c.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return false
	}
	const stateClose = 7 // TCP_CLOSE of linux/tcp.h
	var info *unix.TCPInfo
	outer := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	return outer == nil && err == nil && info.State == stateClose
}

// freebind lets a socket use an address that belongs to the host by a route alone (IP_FREEBIND, ip(7)).
func freebind(_, _ string, raw syscall.RawConn) error {
	var err error
	if outer := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1) }); outer != nil {
		return outer
	}
	return err
}

// An Outcome is the result of an attempt to connect.
type Outcome string

// The outcomes.
const (
	Reached  Outcome = "reached"
	Refused  Outcome = "refused"
	TimedOut Outcome = "timed out" // what a ban looks like from outside
)

// Probe connects to a port of the server and disconnects at once. Over veth an answer takes well under a millisecond.
func (c Client) Probe(ctx context.Context, port int, timeout time.Duration) (Outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := c.Dial(ctx, port)
	switch {
	case err == nil:
		return Reached, conn.Close()
	case errors.Is(err, syscall.ECONNREFUSED):
		return Refused, nil
	case silent(err):
		return TimedOut, nil
	}
	return "", err
}

// CutOff reports whether a ban may have caused a client's error: the server was silent until the client's context was done, or
// mefdaemon destroyed the server's end of the connection and the reset arrived, as it does where only incoming packets are dropped.
func CutOff(err error) bool { return silent(err) || errors.Is(err, syscall.ECONNRESET) }

// silent reports whether an error of a client means that the server was silent until the client's context was done.
func silent(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// SSH logs in by password, one attempt on one connection, and runs a command if it is not empty. It returns what the command
// printed.
func (c Client) SSH(ctx context.Context, port int, user, password, command string) (string, error) {
	conn, err := c.Dial(ctx, port)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	shell, channels, requests, err := ssh.NewClientConn(conn, conn.RemoteAddr().String(), &ssh.ClientConfig{
		User:            user,
		Auth:            []ssh.AuthMethod{ssh.Password(password)},
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), // nothing is between client and server
	})
	if err != nil {
		if strings.Contains(err.Error(), "unable to authenticate") { // the package has no error value for it
			return "", fmt.Errorf("ssh login as %s: %w", user, ErrDenied)
		}
		return "", fmt.Errorf("ssh login as %s: %w", user, err)
	}
	client := ssh.NewClient(shell, channels, requests)
	defer client.Close()
	if command == "" {
		return "", nil
	}
	session, err := client.NewSession()
	if err != nil {
		return "", fmt.Errorf("ssh session of %s: %w", user, err)
	}
	defer session.Close()
	out, err := session.Output(command)
	return string(out), err
}

// IMAP logs in and out again (RFC 9051, sections 6.2.3 and 6.1.3).
func (c Client) IMAP(ctx context.Context, user, password string) error {
	conn, err := c.Dial(ctx, IMAPPort)
	if err != nil {
		return err
	}
	defer conn.Close()
	text := textproto.NewConn(conn)
	if _, err := text.ReadLine(); err != nil {
		return fmt.Errorf("imap greeting: %w", err)
	}
	if err := imapCommand(text, "a", "LOGIN %s %s", strconv.Quote(user), strconv.Quote(password)); err != nil {
		return fmt.Errorf("imap login as %s: %w", user, err)
	}
	return imapCommand(text, "b", "LOGOUT")
}

// imapCommand sends a tagged command and reads up to its tagged answer.
func imapCommand(text *textproto.Conn, tag, format string, args ...any) error {
	if err := text.PrintfLine(tag+" "+format, args...); err != nil {
		return err
	}
	for {
		line, err := text.ReadLine()
		if err != nil {
			return err
		}
		answer, tagged := strings.CutPrefix(line, tag+" ")
		switch {
		case !tagged:
		case strings.HasPrefix(answer, "OK"):
			return nil
		default:
			return fmt.Errorf("%w: %q", ErrDenied, line)
		}
	}
}

// FTP logs in and disconnects (RFC 959, section 5.4).
func (c Client) FTP(ctx context.Context, user, password string) error {
	return c.FTPAt(ctx, FTPPort, user, password)
}

// FTPAt is FTP at another port.
func (c Client) FTPAt(ctx context.Context, port int, user, password string) error {
	conn, err := c.Dial(ctx, port)
	if err != nil {
		return err
	}
	defer conn.Close()
	reader := textproto.NewReader(bufio.NewReader(conn))
	if _, _, err := reader.ReadResponse(220); err != nil {
		return fmt.Errorf("ftp greeting: %w", err)
	}
	fmt.Fprintf(conn, "USER %s\r\n", user)
	if _, _, err := reader.ReadResponse(331); err != nil {
		return fmt.Errorf("ftp user %s: %w", user, err)
	}
	fmt.Fprintf(conn, "PASS %s\r\n", password)
	_, _, err = reader.ReadResponse(230)
	var answer *textproto.Error
	if errors.As(err, &answer) && answer.Code == 530 {
		return fmt.Errorf("ftp login as %s: %w: %q", user, ErrDenied, answer.Msg)
	}
	return err
}
