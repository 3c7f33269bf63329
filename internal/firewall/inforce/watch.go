package inforce

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"mef/internal/netlink/nfnl"
)

// A Watch receives what the kernel reports about nf_tables.
type Watch struct{ c *netlink.Conn }

// NewWatch begins to receive. The caller closes the Watch.
func NewWatch() (*Watch, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{Groups: 1 << (unix.NFNLGRP_NFTABLES - 1), MessageBufferSize: 64 << 10})
	if err != nil {
		return nil, fmt.Errorf("watch nf_tables: %w", err)
	}
	return &Watch{c}, nil
}

// Close ends it.
func (w *Watch) Close() error { return w.c.Close() }

// Deleted returns nil once our table was deleted, or may have been, because reports were lost; and an error when ctx is done.
func (w *Watch) Deleted(ctx context.Context) error {
	if err := w.c.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = w.c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		messages, err := w.c.Receive()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, unix.ENOBUFS):
			return nil
		case err != nil:
			return fmt.Errorf("watch nf_tables: %w", err)
		}
		for _, m := range messages {
			if m.Header.Type != unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_DELTABLE || len(m.Data) < 4 {
				continue
			}
			if nfnl.Text(nfnl.Find(nfnl.Payload(m), unix.NFTA_TABLE_NAME)) == ourName {
				return nil
			}
		}
	}
}
