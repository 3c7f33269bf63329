package inforce

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"mef/internal/netlink/nfnl"
)

// nft(8) takes a second to list ten thousand rules; a few netlink dumps take milliseconds, and every status needs them.

// Ready returns an error unless the kernel has nf_tables and lets us speak to it.
func Ready() error {
	c, err := nfnl.Dial(0)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err = c.Generation(); err != nil {
		return fmt.Errorf("connect to nf_tables: %w", err)
	}
	return nil
}

// query asks for objects of the family of our table.
func query(typ int, a nfnl.Attrs) nfnl.Query { return nfnl.Tables(typ, unix.NFPROTO_INET, a) }

// fingerprintTries is how often the table is read again because something changed meanwhile, each time after a longer pause.
const (
	fingerprintTries = 12
	fingerprintPause = 5 * time.Millisecond
)

// Fingerprint returns two digests of our table, both "" if there is none: of everything that the kernel reports about it, including the
// numbers that it gives to each object, so that it stays the same exactly as long as nobody changes the table; and frame, of all but the
// elements of sets, which takes no longer with very large sets.
func Fingerprint() (all, frame string, err error) { return fingerprint(true) }

func fingerprint(elements bool) (all, frame string, err error) {
	c, err := nfnl.Dial(0)
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	for try := range fingerprintTries {
		time.Sleep(time.Duration(try) * fingerprintPause)
		h := sha256.New()
		sets, whole, err := digestTable(c, h)
		if err != nil {
			return "", "", fmt.Errorf("read table %s: %w", Table, err)
		}
		if whole && sets == nil {
			return "", "", nil
		}
		frame = hex.EncodeToString(h.Sum(nil))
		if whole && elements {
			whole, err = digestElements(c, h, sets)
		}
		if err != nil {
			return "", "", fmt.Errorf("read table %s: %w", Table, err)
		}
		if whole {
			return hex.EncodeToString(h.Sum(nil)), frame, nil
		}
	}
	return "", "", fmt.Errorf("read table %s: %w", Table, nfnl.ErrChanging)
}

// digestTable writes what the kernel reports about our table, and returns the names of its sets that no packets fill, nil if there is no table.
// whole is false if it changed meanwhile.
func digestTable(c *nfnl.Conn, h hash.Hash) (sets []string, whole bool, err error) {
	var chains []string
	whole, err = dump(c, query(unix.NFT_MSG_GETCHAIN, tableName()), func(b []byte) {
		if isOurs(b) {
			h.Write(b)
			chains = append(chains, nfnl.Text(nfnl.Find(b, unix.NFTA_CHAIN_NAME)))
		}
	})
	if whole && err == nil {
		whole, err = digestChains(c, h, chains)
	}
	if err != nil || !whole {
		return nil, whole, err
	}
	if len(chains) > 0 {
		sets = []string{}
	}
	whole, err = dump(c, query(unix.NFT_MSG_GETSET, tableName()), func(b []byte) {
		name, flags := nfnl.Find(b, unix.NFTA_SET_NAME), nfnl.Find(b, unix.NFTA_SET_FLAGS)
		switch {
		case !isOurs(b):
		case len(flags) == 4 && binary.BigEndian.Uint32(flags)&unix.NFT_SET_EVAL != 0: // packets fill it
			h.Write(name)
		default:
			h.Write(b)
			sets = append(sets, nfnl.Text(name))
		}
	})
	return sets, whole, err
}

// readers is how many connections read chains at a time: the kernel answers each on a CPU of its own.
const readers = 2

// digestChains writes the digest of the rules of each chain. The kernel begins each read of a dump with the first rule: a dump of all rules takes
// four times as long for twice as many.
func digestChains(c *nfnl.Conn, h hash.Hash, chains []string) (whole bool, err error) {
	sums, parts := make([][]byte, len(chains)), make([]bool, len(chains))
	connections := []*nfnl.Conn{c}
	for len(connections) < min(readers, len(chains)) { // opened here: another thread may be in another namespace
		c, err := nfnl.Dial(c.NetNS())
		if err != nil {
			return false, err
		}
		defer c.Close()
		connections = append(connections, c)
	}
	var next atomic.Int64
	var g errgroup.Group
	for _, c := range connections {
		g.Go(func() (err error) {
			for n := int(next.Add(1)) - 1; n < len(chains) && err == nil; n = int(next.Add(1)) - 1 {
				of, sum := tableName(), sha256.New()
				of.Text(unix.NFTA_RULE_CHAIN, chains[n])
				parts[n], err = dump(c, query(unix.NFT_MSG_GETRULE, of), func(b []byte) { sum.Write(b) })
				sums[n] = sum.Sum(nil)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil || slices.Contains(parts, false) {
		return false, err
	}
	for _, sum := range sums {
		h.Write(sum)
	}
	return true, nil
}

// isOurs reports whether an object is of our table: in every message, the first attribute names the table.
func isOurs(b []byte) bool { return nfnl.Text(nfnl.Find(b, unix.NFTA_TABLE_NAME)) == ourName }

// digestElements writes the elements of sets.
func digestElements(c *nfnl.Conn, h hash.Hash, sets []string) (whole bool, err error) {
	for _, set := range sets {
		of := tableName()
		of.Text(unix.NFTA_SET_ELEM_LIST_SET, set)
		whole, err := dump(c, query(unix.NFT_MSG_GETSETELEM, of), func(b []byte) { h.Write(b) })
		if err != nil || !whole {
			return whole, err
		}
	}
	return true, nil
}

// DeleteTable removes our table, if there is one. It does not need nft(8), which may have been removed since it loaded the table.
func DeleteTable() error {
	c, err := nfnl.Dial(0)
	if err != nil {
		return err
	}
	defer c.Close()
	var t nfnl.Tx
	t.Add(unix.NFT_MSG_DELTABLE, 0, tableName())
	if err := c.Commit(&t); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete table %s: %w", Table, err)
	}
	return nil
}

// ourName is what our table is called.
const ourName = "mef"

// tableName returns the attribute that names our table, of which tables, chains, rules and sets have the same number.
func tableName() (a nfnl.Attrs) {
	a.Text(unix.NFTA_TABLE_NAME, ourName)
	return a
}

// dump calls fn for the attributes of each object of a dump; there are none of what does not exist. whole is false if something changed
// meanwhile.
func dump(c *nfnl.Conn, q nfnl.Query, fn func([]byte)) (whole bool, err error) {
	whole, err = c.DumpOnce(q, func(_ byte, attrs []byte) { fn(attrs) })
	if errors.Is(err, unix.ENOENT) {
		return true, nil
	}
	return whole, err
}

// holds reports whether nf_tables has a chain whose table has a name and whose own name begins so. What cannot be read is not there.
func holds(table, chain string) (found bool) {
	c, err := nfnl.Dial(0)
	if err != nil {
		return false
	}
	defer c.Close()
	_, _ = dump(c, nfnl.Tables(unix.NFT_MSG_GETCHAIN, unix.NFPROTO_UNSPEC, nil), func(b []byte) {
		found = found || nfnl.Text(nfnl.Find(b, unix.NFTA_CHAIN_TABLE)) == table && strings.HasPrefix(nfnl.Text(nfnl.Find(b, unix.NFTA_CHAIN_NAME)), chain)
	})
	return found
}
