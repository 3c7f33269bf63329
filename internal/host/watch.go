//go:build linux

package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// settle is how long Watch waits after a change for those that come with it: an interface that comes up brings dozens.
	settle       = 200 * time.Millisecond
	settleWithin = 5 * time.Second

	// rereadEvery is how often Watch looks unasked: nobody reports when a file changes hands.
	rereadEvery = time.Minute
)

// Watch calls changed with the new facts whenever they differ from the last ones, once for changes that come together, and
// once at the beginning. It watches the network namespace of its caller. It blocks until ctx is done and then returns nil.
func Watch(ctx context.Context, changed func(Facts)) error {
	const groups = 1<<(unix.RTNLGRP_IPV4_IFADDR-1) | 1<<(unix.RTNLGRP_IPV6_IFADDR-1) |
		1<<(unix.RTNLGRP_IPV4_ROUTE-1) | 1<<(unix.RTNLGRP_IPV6_ROUTE-1)
	nl, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: groups})
	if err != nil {
		return fmt.Errorf("watch addresses and routes: %w", err)
	}
	defer context.AfterFunc(ctx, func() { nl.Close() })()
	defer nl.Close()
	last, err := Read(ctx)
	if err != nil {
		return quietly(ctx, err)
	}
	changed(last)
	for {
		if err := await(nl); err != nil || ctx.Err() != nil {
			return quietly(ctx, fmt.Errorf("watch addresses and routes: %w", err))
		}
		now, err := Read(ctx)
		if err != nil {
			return quietly(ctx, err)
		}
		if !now.Equal(last) {
			last = now
			changed(now)
		}
	}
}

// await returns when something changed and nothing more came for a moment, or when it is time to look anyway.
func await(nl *netlink.Conn) error {
	nl.SetReadDeadline(time.Now().Add(rereadEvery))
	_, err := nl.Receive()
	// The routes of a router never stop changing, hence the second bound.
	for end := time.Now().Add(settleWithin); err == nil && time.Now().Before(end); _, err = nl.Receive() {
		nl.SetReadDeadline(time.Now().Add(settle))
	}
	// Time is up, or messages were lost: either way it is time to read.
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, unix.ENOBUFS) {
		return nil
	}
	return err
}

// quietly returns err unless it comes from the end of ctx.
func quietly(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
