// Package nfnl talks to the netfilter part of the kernel by nfnetlink: nf_tables and connection tracking.
//
// A Conn lasts: closing a socket after a deletion waits for the kernel to free what was deleted, which takes milliseconds. A Tx is a
// transaction of nf_tables, written in one system call; with it the 100,000 elements of a large list take effect at once. Dumps are read
// with large buffers, and again when something changed meanwhile. The libraries lose elements of long lists or cannot do the latter.
package nfnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// sendBuffer is how large a transaction may be, in bytes: it is one message to the kernel.
	sendBuffer = 32 << 20

	// receiveBuffer is how much one read takes. The kernel fills at most 32 KiB in a dump, and far less if it is offered less.
	receiveBuffer = 64 << 10

	// dumpTries is how often a dump is begun again because something changed meanwhile.
	dumpTries = 5
)

// A Conn is a lasting connection, for one goroutine at a time. It is opened again after an error.
type Conn struct {
	netns   int
	port    uint32 // our address, by which the watcher knows our own changes
	room    int    // of a transaction, in bytes
	commits uint32 // transactions that took effect, each of which is a generation of nf_tables
	nl      *netlink.Conn
	refuse  func(message []byte) error // see Refuse
}

// Dial opens a connection in the network namespace of a file descriptor, 0 for the caller's.
func Dial(netns int) (*Conn, error) {
	c := &Conn{netns: netns, port: rand.Uint32() | 1<<31, room: sendBuffer} // ports given by the kernel begin with the process number
	return c, c.open()
}

// open opens the connection if it is closed.
func (c *Conn) open() error {
	if c.nl != nil {
		return nil
	}
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{
		NetNS:             c.netns,
		PID:               c.port,
		MessageBufferSize: receiveBuffer,
	})
	if err != nil {
		return Explain(fmt.Errorf("open nf_tables: %w", err))
	}
	// Else an error would repeat the request, up to 64 KiB. (The kernel's extended words cannot be had beside this: the library
	// looks for them behind the repeated request.)
	if err := nl.SetOption(netlink.CapAcknowledge, true); err != nil && !errors.Is(err, unix.ENOPROTOOPT) {
		nl.Close()
		return fmt.Errorf("open nf_tables: %w", err)
	}
	// Where we may not have that much (user namespaces), transactions are split.
	if err := nl.SetWriteBuffer(c.room); err != nil {
		nl.Close()
		return fmt.Errorf("open nf_tables: %w", err)
	}
	c.nl = nl
	return nil
}

// Close closes the connection. Its next use opens it again.
func (c *Conn) Close() error {
	if c.nl == nil {
		return nil
	}
	err := c.nl.Close()
	c.nl = nil
	return err
}

// Port returns the address of the connection, by which our own changes are known among the notifications.
func (c *Conn) Port() uint32 { return c.port }

// NetNS returns the file descriptor that was given to Dial.
func (c *Conn) NetNS() int { return c.netns }

// Commits returns how many transactions took effect, each of which is a generation of nf_tables.
func (c *Conn) Commits() uint32 { return c.commits }

// Closed reports whether the connection was closed, as after an error.
func (c *Conn) Closed() bool { return c.nl == nil }

// SetRoom bounds transactions, in bytes, as a user namespace does. The connection is opened again.
func (c *Conn) SetRoom(n int) {
	c.Close()
	c.room = n
}

// Sever closes the connection without its knowing, as a fault would.
func (c *Conn) Sever() {
	if c.nl != nil {
		c.nl.Close()
	}
}

// Refuse makes requests fail for whose messages refuse returns an error, as on a kernel that lacks what they ask for. It is for tests.
func (c *Conn) Refuse(refuse func(message []byte) error) { c.refuse = refuse }

// refused returns the error of Refuse.
func (c *Conn) refused(message []byte) error {
	if c.refuse == nil {
		return nil
	}
	return c.refuse(message)
}

// SetDeadline bounds how long reading may take. The zero time is no bound.
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.open(); err != nil {
		return err
	}
	return c.nl.SetReadDeadline(t)
}

// A Tx is a transaction of nf_tables: messages that take effect together or not at all. They are written one after the other into the buffer
// that the kernel gets, because there may be a hundred thousand bans in them.
type Tx struct {
	Buf    Attrs  // whole messages but for the last one's length, which End fills in; the first opens the batch
	last   int    // where the last message begins
	LastID uint32 // of the sets that the transaction makes
}

// Add appends a message about an object of the inet family.
func (t *Tx) Add(typ int, flags netlink.HeaderFlags, a Attrs) {
	t.Begin(typ, flags)
	t.Buf = append(t.Buf, a...)
	t.End()
}

// Begin begins a message about an object of the inet family. Its attributes are to be appended to Buf.
func (t *Tx) Begin(typ int, flags netlink.HeaderFlags) {
	if len(t.Buf) == 0 {
		t.bracket(unix.NFNL_MSG_BATCH_BEGIN)
	}
	t.header(unix.NFNL_SUBSYS_NFTABLES<<8|uint16(typ), flags, unix.NFPROTO_INET, 0)
}

// End ends the message that was begun.
func (t *Tx) End() { binary.NativeEndian.PutUint32(t.Buf[t.last:], uint32(len(t.Buf)-t.last)) }

// bracket appends the message that opens or closes the batch.
func (t *Tx) bracket(typ uint16) {
	t.header(typ, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	t.End()
}

// header appends a struct nlmsghdr, without its length, and a struct nfgenmsg.
func (t *Tx) header(typ uint16, flags netlink.HeaderFlags, family, resource byte) {
	t.last = len(t.Buf)
	t.Buf = binary.NativeEndian.AppendUint32(t.Buf, 0)
	t.Buf = binary.NativeEndian.AppendUint16(t.Buf, typ)
	t.Buf = binary.NativeEndian.AppendUint16(t.Buf, uint16(netlink.Request|flags))
	t.Buf = append(t.Buf, make([]byte, 8)...) // number and sender, which the kernel ignores
	t.Buf = append(t.Buf, family, unix.NFNETLINK_V0, 0, resource)
}

// acknowledge asks for an answer to the last message.
func (t *Tx) acknowledge() {
	flags := t.Buf[t.last+6:]
	binary.NativeEndian.PutUint16(flags, binary.NativeEndian.Uint16(flags)|uint16(netlink.Acknowledge))
}

// Commit carries out a transaction. After an error nothing of it holds.
func (c *Conn) Commit(t *Tx) error {
	if len(t.Buf) == 0 {
		return nil
	}
	if err := errors.Join(c.refused(t.Buf), c.open()); err != nil {
		return err
	}
	// Errors always come back; one acknowledgement, of the last message, means that there were none.
	t.acknowledge()
	t.bracket(unix.NFNL_MSG_BATCH_END)
	err := c.send(t.Buf)
	if err == nil {
		_, err = c.nl.Receive()
	}
	if err != nil {
		c.Close() // more errors may wait to be read
		return Explain(err)
	}
	c.commits++
	return nil
}

// send hands messages to the kernel as they are; the library would copy them twice.
func (c *Conn) send(b []byte) error {
	raw, err := c.nl.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Write(func(fd uintptr) (done bool) {
		sent = unix.Sendto(int(fd), b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		return sent != unix.EAGAIN
	})
	if err == nil && sent != nil {
		err = os.NewSyscallError("sendto", sent)
	}
	return err
}

// A Query asks for objects.
type Query struct {
	Type   uint16 // of the message, its subsystem included
	Family byte
	Attrs  Attrs
}

// Tables is a query of nf_tables, such as unix.NFT_MSG_GETRULE, about tables of a family, or unix.NFPROTO_UNSPEC for all.
func Tables(typ int, family byte, a Attrs) Query {
	return Query{unix.NFNL_SUBSYS_NFTABLES<<8 | uint16(typ), family, a}
}

func (q Query) message(flags netlink.HeaderFlags) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(q.Type), Flags: netlink.Request | flags},
		Data:   append([]byte{q.Family, unix.NFNETLINK_V0, 0, 0}, q.Attrs...),
	}
}

// Get asks for one object and returns its attributes, or an error that wraps ENOENT.
func (c *Conn) Get(q Query) ([]byte, error) {
	if err := c.refused(q.Attrs); err != nil {
		return nil, err
	}
	if err := c.ask(q.message(0)); err != nil {
		return nil, err
	}
	msgs, err := c.nl.Receive()
	if err == nil && len(msgs) == 0 {
		err = unix.ENOENT
	}
	if err != nil {
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EOPNOTSUPP) {
			c.Close() // no answer to the question: more may wait to be read
		}
		return nil, Explain(err)
	}
	return Payload(msgs[0]), nil
}

// Do sends a request that is no part of a transaction, such as a deletion of a conntrack entry, and waits for the answer.
func (c *Conn) Do(q Query) error {
	if err := c.refused(q.Attrs); err != nil {
		return err
	}
	return c.sent(func() error {
		_, err := c.nl.Execute(q.message(netlink.Acknowledge))
		return err
	})
}

// sent calls send, and calls it again with a new connection if the present one was closed before the kernel got anything.
func (c *Conn) sent(send func() error) error {
	if err := c.open(); err != nil {
		return err
	}
	err := send()
	var op *netlink.OpError
	if errors.As(err, &op) && strings.HasPrefix(op.Op, "send") && errors.Is(err, unix.EBADF) {
		c.Close()
		if err = c.open(); err == nil {
			err = send()
		}
	}
	return err
}

// ask sends a question, and closes the connection if that fails.
func (c *Conn) ask(m netlink.Message) error {
	err := c.sent(func() error {
		_, err := c.nl.SendMessages([]netlink.Message{m})
		return err
	})
	if err != nil {
		c.Close()
	}
	return Explain(err)
}

// ErrChanging is returned when what was to be read kept changing meanwhile.
var ErrChanging = errors.New("nf_tables kept changing while it was read")

// Dump asks for many objects and calls fn for the family and the attributes of each, which are valid until it returns. If something
// changes meanwhile, it begins again: restart has fn's owner forget what it got.
func (c *Conn) Dump(q Query, restart func(), fn func(family byte, attrs []byte)) error {
	for range dumpTries {
		restart()
		whole, err := c.DumpOnce(q, fn)
		if err != nil || whole {
			return err
		}
	}
	return ErrChanging
}

// DumpOnce is Dump without beginning again; whole is false if something changed meanwhile.
func (c *Conn) DumpOnce(q Query, fn func(family byte, attrs []byte)) (whole bool, err error) {
	if err := c.ask(q.message(netlink.Dump)); err != nil {
		return false, err
	}
	whole = true
	for m, err := range c.nl.ReceiveIter() {
		if errors.Is(err, unix.EINTR) {
			whole = false
			break
		}
		if err != nil {
			if !errors.Is(err, unix.ENOENT) {
				c.Close()
			}
			return false, Explain(err)
		}
		if m.Header.Flags&netlink.DumpInterrupted != 0 {
			whole = false
		}
		if whole && len(m.Data) >= 4 {
			fn(m.Data[0], Payload(m))
		}
	}
	return whole, nil
}

// Generation returns the number of the last transaction in the namespace, whosever it was. It is never 0.
func (c *Conn) Generation() (uint32, error) {
	b, err := c.Get(Tables(unix.NFT_MSG_GETGEN, unix.NFPROTO_INET, nil))
	return Uint32(Find(b, unix.NFTA_GEN_ID)), err
}

// Payload returns the attributes of a message, which follow the four bytes of its nfgenmsg.
func Payload(m netlink.Message) []byte {
	if len(m.Data) < 4 {
		return nil
	}
	return m.Data[4:]
}

// Explain adds what an operator can do about an error.
func Explain(err error) error {
	switch {
	case errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%w: writing nftables needs CAP_NET_ADMIN; run as root, or grant it in the service "+
			"(AmbientCapabilities=CAP_NET_ADMIN) or to the container (--cap-add NET_ADMIN)", err)
	case errors.Is(err, syscall.EPROTONOSUPPORT), errors.Is(err, syscall.EOPNOTSUPP), errors.Is(err, syscall.EAFNOSUPPORT):
		return fmt.Errorf("%w: this kernel lacks nf_tables or its inet family; load the modules nf_tables and nf_tables_inet, "+
			"or use a kernel that has them", err)
	}
	return err
}
