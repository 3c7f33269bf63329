package pagechild

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Dial makes a connection to the daemon: it sends one end of a socket pair over c and returns the other. mefpage needs no path of a socket
// for that, and what the daemon does for such connections does not depend on the user that mefpage runs as.
func Dial(ctx context.Context, c *net.UnixConn) (net.Conn, error) {
	ours, theirs, err := pair(syscall.SOCK_STREAM)
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	deadline, _ := ctx.Deadline()
	if err := errors.Join(c.SetWriteDeadline(deadline)); err != nil {
		ours.Close()
		return nil, err
	}
	if _, _, err := c.WriteMsgUnix([]byte{0}, syscall.UnixRights(int(theirs.Fd())), nil); err != nil {
		ours.Close()
		return nil, fmt.Errorf("connect to mefdaemon: %w", err)
	}
	return ours, nil
}

// pair returns a pair of connected sockets.
func pair(kind int) (*net.UnixConn, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, kind|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "socketpair")
	ours, err := fileConn(os.NewFile(uintptr(fds[0]), "socketpair"))
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// fileConn returns the socket of a file, which it closes.
func fileConn(f *os.File) (*net.UnixConn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("not a unix socket")
	}
	return u, nil
}

// Inherited returns the connection over which mefpage connects to the daemon.
func Inherited() (*net.UnixConn, error) { return fileConn(os.NewFile(ControlFile, "control")) }

// maxConns is how many connections mefpage may have to the daemon at a time. Further ones are closed.
const maxConns = 32

// passed accepts the connections that are sent over a socket.
type passed struct {
	from  *net.UnixConn
	slots chan struct{}
}

func newPassed(from *net.UnixConn) passed { return passed{from, make(chan struct{}, maxConns)} }

// Accept returns the next connection.
func (p passed) Accept() (net.Conn, error) {
	for {
		oob := make([]byte, syscall.CmsgSpace(4))
		n, oobn, _, _, err := p.from.ReadMsgUnix(make([]byte, 1), oob)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return nil, net.ErrClosed // mefpage has ended
		}
		c, err := received(oob[:oobn])
		if err != nil {
			continue // not sent by Dial
		}
		select {
		case p.slots <- struct{}{}:
			return &passedConn{Conn: c, release: sync.OnceFunc(func() { <-p.slots })}, nil
		default:
			c.Close()
		}
	}
}

// received returns the one connection in a control message.
func received(oob []byte) (net.Conn, error) {
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var fds []int
	for i := range messages {
		more, err := syscall.ParseUnixRights(&messages[i])
		if err != nil {
			return nil, err
		}
		fds = append(fds, more...)
	}
	if len(fds) != 1 {
		for _, fd := range fds {
			syscall.Close(fd)
		}
		return nil, errors.New("not one file descriptor")
	}
	if err := syscall.SetNonblock(fds[0], true); err != nil {
		syscall.Close(fds[0])
		return nil, err
	}
	syscall.CloseOnExec(fds[0])
	return fileConn(os.NewFile(uintptr(fds[0]), "passed"))
}

// Close ends Accept.
func (p passed) Close() error { return p.from.SetReadDeadline(time.Unix(1, 0)) }

// Addr returns the address of the socket, which has no name.
func (p passed) Addr() net.Addr { return p.from.LocalAddr() }

type passedConn struct {
	net.Conn
	release func()
}

// Close closes the connection and frees its slot.
func (c *passedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
