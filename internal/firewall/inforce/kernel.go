package inforce

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"mef/internal/firewall/nft"
)

// nft(8) takes a second to list ten thousand rules; a few netlink dumps take milliseconds, and every status needs them.

// dumpTries is how often a dump is begun again because something changed meanwhile.
const dumpTries = 5

// nfConn opens a connection to nf_tables, in the caller's network namespace. The error says what is missing.
func nfConn() (*netlink.Conn, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{MessageBufferSize: 64 << 10})
	if err != nil {
		return nil, fmt.Errorf("open nf_tables: %w", err)
	}
	return c, nil
}

// Ready returns an error unless the kernel has nf_tables and lets us speak to it.
func Ready() error {
	c, err := nfConn()
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Execute(message(unix.NFT_MSG_GETGEN, 0, nil))
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("speak to nf_tables: %w: run as root", err)
	case err != nil:
		return fmt.Errorf("speak to nf_tables: %w: the kernel may lack the module nf_tables", err)
	}
	return nil
}

func message(typ int, flags netlink.HeaderFlags, attrs []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | typ), Flags: netlink.Request | flags},
		Data:   append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, attrs...),
	}
}

// dumps are the kinds of object that a table consists of, but for the elements of its sets.
var dumps = []int{unix.NFT_MSG_GETCHAIN, unix.NFT_MSG_GETRULE, unix.NFT_MSG_GETSET}

// errBusy says that nf_tables kept changing while it was read, as when many addresses are banned.
var errBusy = errors.New("read nf_tables: it kept changing while it was read")

// Fingerprint returns two digests of our table, both "" if there is none: of everything that the kernel reports about it, including the
// numbers that it gives to each object, so that it stays the same exactly as long as nobody changes the table; and frame, of all but the
// elements of sets, which takes no longer with very large sets.
func Fingerprint() (all, frame string, err error) { return fingerprint(true) }

func fingerprint(elements bool) (all, frame string, err error) {
	c, err := nfConn()
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	for range dumpTries {
		h := sha256.New()
		sets, whole, err := digestTable(c, h)
		if err != nil {
			return "", "", fmt.Errorf("read table %s: %w", nft.Table, err)
		}
		if whole && sets == nil {
			return "", "", nil
		}
		frame = hex.EncodeToString(h.Sum(nil))
		if whole && elements {
			whole, err = digestElements(c, h, sets)
		}
		if err != nil {
			return "", "", fmt.Errorf("read table %s: %w", nft.Table, err)
		}
		if whole {
			return hex.EncodeToString(h.Sum(nil)), frame, nil
		}
	}
	return "", "", errBusy
}

// digestTable writes what the kernel reports about our table, and returns the names of its sets, nil if there is no table. whole is
// false if it changed meanwhile.
func digestTable(c *netlink.Conn, h hash.Hash) (sets [][]byte, whole bool, err error) {
	table, err := tableName()
	if err != nil {
		return nil, false, err
	}
	for _, typ := range dumps {
		whole, err := dump(c, message(typ, netlink.Dump, table), func(b []byte) {
			attrs, err := netlink.UnmarshalAttributes(b)
			if err != nil || attribute(attrs, unix.NFTA_TABLE_NAME) != ourName { // in every message, the first attribute names the table
				return
			}
			if sets == nil {
				sets = [][]byte{}
			}
			h.Write(b)
			if typ == unix.NFT_MSG_GETSET {
				sets = append(sets, []byte(attribute(attrs, unix.NFTA_SET_NAME)))
			}
		})
		if err != nil || !whole {
			return sets, whole, err
		}
	}
	return sets, true, nil
}

// digestElements writes the elements of sets.
func digestElements(c *netlink.Conn, h hash.Hash, sets [][]byte) (whole bool, err error) {
	for _, set := range sets {
		of, err := netlink.MarshalAttributes([]netlink.Attribute{
			{Type: unix.NFTA_SET_ELEM_LIST_TABLE, Data: append([]byte(ourName), 0)}, {Type: unix.NFTA_SET_ELEM_LIST_SET, Data: append(set, 0)}})
		if err != nil {
			return false, err
		}
		whole, err := dump(c, message(unix.NFT_MSG_GETSETELEM, netlink.Dump, of), func(b []byte) { h.Write(b) })
		if err != nil || !whole {
			return whole, err
		}
	}
	return true, nil
}

// DeleteTable removes our table, if there is one. It does not need nft(8), which may have been removed since it loaded the table.
func DeleteTable() error {
	c, err := nfConn()
	if err != nil {
		return err
	}
	defer c.Close()
	table, err := tableName()
	if err != nil {
		return err
	}
	_, err = c.SendMessages([]netlink.Message{
		batch(unix.NFNL_MSG_BATCH_BEGIN), message(unix.NFT_MSG_DELTABLE, netlink.Acknowledge, table), batch(unix.NFNL_MSG_BATCH_END)})
	if err == nil {
		_, err = c.Receive()
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete table %s: %w", nft.Table, err)
	}
	return nil
}

// batch returns the message at one end of a transaction.
func batch(typ int) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(typ), Flags: netlink.Request},
		Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES},
	}
}

// ourName is what our table is called.
var ourName = nft.Table[strings.IndexByte(nft.Table, ' ')+1:]

// tableName returns the attribute that names our table, of which tables, chains, rules and sets have the same number.
func tableName() ([]byte, error) {
	return netlink.MarshalAttributes([]netlink.Attribute{{Type: unix.NFTA_TABLE_NAME, Data: append([]byte(ourName), 0)}})
}

func attribute(attrs []netlink.Attribute, typ uint16) string {
	for _, a := range attrs {
		if a.Type == typ {
			return strings.TrimRight(string(a.Data), "\x00")
		}
	}
	return ""
}

// dump calls fn for the attributes of each object of a dump. whole is false if something changed meanwhile.
func dump(c *netlink.Conn, m netlink.Message, fn func([]byte)) (whole bool, err error) {
	if _, err := c.Send(m); err != nil {
		return false, err
	}
	whole = true
	for m, err := range c.ReceiveIter() {
		switch {
		case errors.Is(err, unix.EINTR):
			return false, nil
		case errors.Is(err, unix.ENOENT):
			return whole, nil
		case err != nil:
			return false, err
		}
		if m.Header.Flags&netlink.DumpInterrupted != 0 {
			whole = false
		}
		if len(m.Data) > 4 {
			fn(m.Data[4:]) // behind struct nfgenmsg, which has the generation
		}
	}
	return whole, nil
}

// holds reports whether nf_tables has a chain whose table has a name and whose own name begins so. What cannot be read is not there.
func holds(table, chain string) (found bool) {
	c, err := nfConn()
	if err != nil {
		return false
	}
	defer c.Close()
	m := message(unix.NFT_MSG_GETCHAIN, netlink.Dump, nil)
	m.Data[0] = unix.NFPROTO_UNSPEC
	_, _ = dump(c, m, func(b []byte) {
		attrs, err := netlink.UnmarshalAttributes(b)
		found = found || err == nil && attribute(attrs, unix.NFTA_CHAIN_TABLE) == table && strings.HasPrefix(attribute(attrs, unix.NFTA_CHAIN_NAME), chain)
	})
	return found
}
