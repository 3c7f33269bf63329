package nftset

import (
	"golang.org/x/sys/unix"

	"mef/internal/netlink/nfnl"
)

// A conn reads and writes tables of the inet family.
type conn struct{ *nfnl.Conn }

// dial opens a connection in a network namespace, 0 for the caller's.
func dial(netns int) (*conn, error) {
	c, err := nfnl.Dial(netns)
	return &conn{c}, err
}

// A tx is a transaction.
type tx struct{ nfnl.Tx }

func (c *conn) commit(t *tx) error { return c.Commit(&t.Tx) }

func (c *conn) get(typ int, a nfnl.Attrs) ([]byte, error) {
	return c.Get(nfnl.Tables(typ, unix.NFPROTO_INET, a))
}

func (c *conn) dump(typ int, a nfnl.Attrs, restart func(), fn func([]byte)) error {
	return c.Dump(nfnl.Tables(typ, unix.NFPROTO_INET, a), restart, func(_ byte, attrs []byte) { fn(attrs) })
}
