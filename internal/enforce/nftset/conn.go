package nftset

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"syscall"

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

// A conn is a lasting connection to nf_tables. Opening one for each transaction would cost milliseconds: closing a socket
// after a deletion waits for an RCU grace period.
type conn struct {
	netns   int
	port    uint32 // our address, by which the watcher knows our own changes
	room    int    // of a transaction, in bytes
	commits uint32 // transactions that took effect, each of which is a generation of nf_tables
	nl      *netlink.Conn
}

// dial opens a connection in a network namespace, 0 for the caller's.
func dial(netns int) (*conn, error) {
	c := &conn{netns: netns, port: rand.Uint32() | 1<<31, room: sendBuffer} // ports given by the kernel begin with the process number
	return c, c.open()
}

// open opens the connection if it is closed.
func (c *conn) open() error {
	if c.nl != nil {
		return nil
	}
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{
		NetNS:             c.netns,
		PID:               c.port,
		MessageBufferSize: receiveBuffer,
	})
	if err != nil {
		return explain(fmt.Errorf("open nf_tables: %w", err))
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

func (c *conn) close() error {
	if c.nl == nil {
		return nil
	}
	err := c.nl.Close()
	c.nl = nil
	return err
}

// A tx is a transaction: messages that take effect together or not at all. They are written one after the other into the buffer
// that the kernel gets, because there may be a hundred thousand bans in them.
type tx struct {
	buf    attrs  // whole messages but for the last one's length, which end fills in; the first opens the batch
	last   int    // where the last message begins
	lastID uint32 // of the sets that the transaction makes
}

// add appends a message about an object of the inet family.
func (t *tx) add(typ int, flags netlink.HeaderFlags, a attrs) {
	t.begin(typ, flags)
	t.buf = append(t.buf, a...)
	t.end()
}

// begin begins a message about an object of the inet family. Its attributes are to be appended to buf.
func (t *tx) begin(typ int, flags netlink.HeaderFlags) {
	if len(t.buf) == 0 {
		t.bracket(unix.NFNL_MSG_BATCH_BEGIN)
	}
	t.header(unix.NFNL_SUBSYS_NFTABLES<<8|uint16(typ), flags, unix.NFPROTO_INET, 0)
}

// end ends the message that was begun.
func (t *tx) end() { binary.NativeEndian.PutUint32(t.buf[t.last:], uint32(len(t.buf)-t.last)) }

// bracket appends the message that opens or closes the batch.
func (t *tx) bracket(typ uint16) {
	t.header(typ, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	t.end()
}

// header appends a struct nlmsghdr, without its length, and a struct nfgenmsg.
func (t *tx) header(typ uint16, flags netlink.HeaderFlags, family, resource byte) {
	t.last = len(t.buf)
	t.buf = binary.NativeEndian.AppendUint32(t.buf, 0)
	t.buf = binary.NativeEndian.AppendUint16(t.buf, typ)
	t.buf = binary.NativeEndian.AppendUint16(t.buf, uint16(netlink.Request|flags))
	t.buf = append(t.buf, make([]byte, 8)...) // number and sender, which nobody looks at
	t.buf = append(t.buf, family, unix.NFNETLINK_V0, 0, resource)
}

// acknowledge asks for an answer to the last message.
func (t *tx) acknowledge() {
	flags := t.buf[t.last+6:]
	binary.NativeEndian.PutUint16(flags, binary.NativeEndian.Uint16(flags)|uint16(netlink.Acknowledge))
}

// commit carries out a transaction. After an error nothing of it holds.
func (c *conn) commit(t *tx) error {
	if len(t.buf) == 0 {
		return nil
	}
	if err := c.open(); err != nil {
		return err
	}
	// Errors always come back; one acknowledgement, of the last message, tells that there were none.
	t.acknowledge()
	t.bracket(unix.NFNL_MSG_BATCH_END)
	err := c.send(t.buf)
	if err == nil {
		_, err = c.nl.Receive()
	}
	if err != nil {
		c.close() // more errors may wait to be read
		return explain(err)
	}
	c.commits++
	return nil
}

// send hands messages to the kernel as they are; the library would copy them twice.
func (c *conn) send(b []byte) error {
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

// message is a question to nf_tables.
func message(typ int, flags netlink.HeaderFlags, a attrs) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | typ),
			Flags: netlink.Request | flags,
		},
		Data: append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, a...),
	}
}

// get asks for one object and returns its attributes, or an error that wraps ENOENT.
func (c *conn) get(typ int, a attrs) ([]byte, error) {
	if err := c.open(); err != nil {
		return nil, err
	}
	_, err := c.nl.SendMessages([]netlink.Message{message(typ, 0, a)})
	if err != nil {
		c.close()
		return nil, explain(err)
	}
	msgs, err := c.nl.Receive()
	if err == nil && len(msgs) == 0 {
		err = unix.ENOENT
	}
	if err != nil {
		if !errors.Is(err, unix.ENOENT) {
			c.close()
		}
		return nil, explain(err)
	}
	return payload(msgs[0]), nil
}

// dump asks for many objects and calls fn for the attributes of each, which are valid until it returns. If something changes
// meanwhile, it begins again: restart tells fn's owner to forget what it heard.
func (c *conn) dump(typ int, a attrs, restart func(), fn func([]byte)) error {
	for range dumpTries {
		restart()
		whole, err := c.dumpOnce(typ, a, fn)
		if err != nil || whole {
			return err
		}
	}
	return errors.New("read nf_tables: it kept changing while it was read")
}

func (c *conn) dumpOnce(typ int, a attrs, fn func([]byte)) (whole bool, err error) {
	if err := c.open(); err != nil {
		return false, err
	}
	if _, err := c.nl.SendMessages([]netlink.Message{message(typ, netlink.Dump, a)}); err != nil {
		c.close()
		return false, explain(err)
	}
	whole = true
	for m, err := range c.nl.ReceiveIter() {
		if errors.Is(err, unix.EINTR) {
			whole = false
			break
		}
		if err != nil {
			if !errors.Is(err, unix.ENOENT) {
				c.close()
			}
			return false, explain(err)
		}
		if m.Header.Flags&netlink.DumpInterrupted != 0 {
			whole = false
		}
		if whole {
			fn(payload(m))
		}
	}
	return whole, nil
}

// generation returns the number of the last transaction in the namespace, whosever it was. It is never 0.
func (c *conn) generation() (uint32, error) {
	b, err := c.get(unix.NFT_MSG_GETGEN, nil)
	return getUint32(find(b, unix.NFTA_GEN_ID)), err
}

// payload returns the attributes of a message, which follow the four bytes of its nfgenmsg.
func payload(m netlink.Message) []byte {
	if len(m.Data) < 4 {
		return nil
	}
	return m.Data[4:]
}

// explain adds what an operator can do about an error.
func explain(err error) error {
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
