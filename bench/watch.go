package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A watcher listens to the kernel's nftables notifications and notes when each address entered a set of bans. The kernel
// sends them when a transaction has taken effect, whoever made it.
type watcher struct {
	conn *netlink.Conn
	want func(table, set string) bool

	mu      sync.Mutex
	seen    map[netip.Addr]time.Time
	lost    bool          // the kernel had more to say than the socket could hold
	changed chan struct{} // closed and replaced whenever seen grows
}

// buffer holds the notifications of 100,000 elements and more.
const buffer = 512 << 20

func newWatcher(want func(table, set string) bool) (*watcher, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	if err != nil {
		return nil, fmt.Errorf("listen to nftables: %w", err)
	}
	if err := conn.SetReadBuffer(buffer); err != nil {
		return nil, fmt.Errorf("listen to nftables: %w", err)
	}
	w := &watcher{conn: conn, want: want, seen: map[netip.Addr]time.Time{}, changed: make(chan struct{})}
	go w.listen()
	return w, nil
}

func (w *watcher) close() { w.conn.Close() }

// listen runs until the socket is closed.
func (w *watcher) listen() {
	for {
		msgs, err := w.conn.Receive()
		at := time.Now()
		if errors.Is(err, unix.ENOBUFS) {
			w.note(nil, at, true)
			continue
		}
		if err != nil {
			return
		}
		var addrs []netip.Addr
		for _, msg := range msgs {
			if msg.Header.Type == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWSETELEM && len(msg.Data) > 4 {
				addrs = append(addrs, w.elements(msg.Data[4:])...) // after struct nfgenmsg
			}
		}
		w.note(addrs, at, false)
	}
}

// note remembers that addrs were told at a time.
func (w *watcher) note(addrs []netip.Addr, at time.Time, lost bool) {
	if len(addrs) == 0 && !lost {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, addr := range addrs {
		if _, ok := w.seen[addr]; !ok { // the first time counts: a later one is an extension
			w.seen[addr] = at
		}
	}
	w.lost = w.lost || lost
	close(w.changed)
	w.changed = make(chan struct{})
}

// elements returns the addresses that a message adds to a wanted set.
func (w *watcher) elements(data []byte) []netip.Addr {
	var table, set string
	var addrs []netip.Addr
	attrs, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return nil
	}
	for attrs.Next() {
		switch attrs.Type() {
		case unix.NFTA_SET_ELEM_LIST_TABLE:
			table = attrs.String()
		case unix.NFTA_SET_ELEM_LIST_SET:
			set = attrs.String()
		case unix.NFTA_SET_ELEM_LIST_ELEMENTS:
			attrs.Nested(func(list *netlink.AttributeDecoder) error {
				for list.Next() {
					list.Nested(func(elem *netlink.AttributeDecoder) error {
						if addr, ok := element(elem); ok {
							addrs = append(addrs, addr)
						}
						return nil
					})
				}
				return nil
			})
		}
	}
	if !w.want(table, set) {
		return nil
	}
	return addrs
}

// element returns the address that a set element begins with; the end of an interval is none.
func element(elem *netlink.AttributeDecoder) (addr netip.Addr, ok bool) {
	for elem.Next() {
		switch elem.Type() {
		case unix.NFTA_SET_ELEM_FLAGS:
			if flags := elem.Bytes(); len(flags) == 4 && binary.BigEndian.Uint32(flags)&unix.NFT_SET_ELEM_INTERVAL_END != 0 {
				return netip.Addr{}, false
			}
		case unix.NFTA_SET_ELEM_KEY:
			elem.Nested(func(key *netlink.AttributeDecoder) error {
				for key.Next() {
					if key.Type() == unix.NFTA_DATA_VALUE {
						addr, ok = netip.AddrFromSlice(key.Bytes())
					}
				}
				return nil
			})
		}
	}
	return addr, ok
}

// wait returns when addr entered the kernel, or false if it does not until deadline.
func (w *watcher) wait(addr netip.Addr, deadline time.Time) (time.Time, bool) {
	var at time.Time
	ok := w.until(deadline, func() (ok bool) {
		at, ok = w.seen[addr]
		return ok
	})
	return at, ok
}

// waitCount waits until n addresses were told since the last reset, and returns how many were.
func (w *watcher) waitCount(n int, deadline time.Time) int {
	count := 0
	w.until(deadline, func() bool {
		count = len(w.seen)
		return count >= n
	})
	return count
}

// until waits until done, which is called with the lock held, or the deadline.
func (w *watcher) until(deadline time.Time, done func() bool) bool {
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	for {
		w.mu.Lock()
		ok, changed := done(), w.changed
		w.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-changed:
		case <-timer.C:
			return false
		}
	}
}

// reset forgets everything seen.
func (w *watcher) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen, w.lost = map[netip.Addr]time.Time{}, false
}

// times returns when the addresses of interest were told, in order, and whether notifications were lost.
func (w *watcher) times(of func(netip.Addr) bool) (times []time.Time, lost bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for addr, at := range w.seen {
		if of(addr) {
			times = append(times, at)
		}
	}
	slices.SortFunc(times, time.Time.Compare)
	return times, w.lost
}
