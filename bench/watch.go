package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
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
	sets    []set         // that had elements
	lost    bool          // the kernel sent more notifications than the socket could hold
	changed chan struct{} // closed and replaced whenever seen grows
}

// A set is one of nftables.
type set struct {
	family      byte // of its table, as in struct nfgenmsg
	table, name string
}

// buffer is the size of the socket's buffer: enough for the notifications of more than 100,000 elements.
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
				addrs = append(addrs, w.elements(msg.Data)...)
			}
		}
		w.note(addrs, at, false)
	}
}

// note records that addrs were notified at a time.
func (w *watcher) note(addrs []netip.Addr, at time.Time, lost bool) {
	if len(addrs) == 0 && !lost {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, addr := range addrs {
		if _, ok := w.seen[addr]; !ok { // only the first time counts: a later one is an extension
			w.seen[addr] = at
		}
	}
	w.lost = w.lost || lost
	close(w.changed)
	w.changed = make(chan struct{})
}

// elements returns the addresses that a message adds to a wanted set.
func (w *watcher) elements(data []byte) []netip.Addr {
	s := set{family: data[0]}
	var addrs []netip.Addr
	attrs, err := netlink.NewAttributeDecoder(data[4:]) // after struct nfgenmsg
	if err != nil {
		return nil
	}
	for attrs.Next() {
		switch attrs.Type() {
		case unix.NFTA_SET_ELEM_LIST_TABLE:
			s.table = attrs.String()
		case unix.NFTA_SET_ELEM_LIST_SET:
			s.name = attrs.String()
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
	if !w.want(s.table, s.name) {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Contains(w.sets, s) {
		w.sets = append(w.sets, s)
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

// waitCount waits until n addresses were notified since the last reset, and returns how many were.
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

// banned returns the addresses seen, and the sets that they are in.
func (w *watcher) banned() ([]netip.Addr, []set) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Collect(maps.Keys(w.seen)), slices.Clone(w.sets)
}

// times returns the times at which the addresses of interest were notified, in order, and whether notifications were lost.
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

// An asker reads single elements of sets, which costs the kernel almost nothing, whereas a watcher makes it send a notification for each
// element of a transaction before the transaction ends.
type asker struct {
	conn *netlink.Conn
	sets []set
}

func newAsker(sets []set) (*asker, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("ask nftables: %w", err)
	}
	return &asker{conn, sets}, nil
}

func (a *asker) close() { a.conn.Close() }

// holds reports whether one of the sets has the address.
func (a *asker) holds(addr netip.Addr) (bool, error) {
	for _, s := range a.sets {
		attrs := netlink.NewAttributeEncoder()
		attrs.String(unix.NFTA_SET_ELEM_LIST_TABLE, s.table)
		attrs.String(unix.NFTA_SET_ELEM_LIST_SET, s.name)
		attrs.Nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(list *netlink.AttributeEncoder) error {
			list.Nested(unix.NFTA_LIST_ELEM, func(elem *netlink.AttributeEncoder) error {
				elem.Nested(unix.NFTA_SET_ELEM_KEY, func(key *netlink.AttributeEncoder) error {
					key.Bytes(unix.NFTA_DATA_VALUE, addr.AsSlice())
					return nil
				})
				return nil
			})
			return nil
		})
		data, err := attrs.Encode()
		if err != nil {
			return false, err
		}
		_, err = a.conn.Execute(netlink.Message{
			Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETSETELEM, Flags: netlink.Request},
			Data:   append([]byte{s.family, unix.NFNETLINK_V0, 0, 0}, data...),
		})
		if err == nil {
			return true, nil
		} else if !errors.Is(err, unix.ENOENT) {
			return false, fmt.Errorf("ask for %s in table %s, set %s: %w", addr, s.table, s.name, err)
		}
	}
	return false, nil
}

// await waits for the addresses, one after the other, and returns the time at which the last was found. After the first ones (sample), an
// address changes that time only if it was missing at first. found is the number of addresses found before the deadline.
func (a *asker) await(addrs []netip.Addr, deadline time.Time) (at time.Time, found int, err error) {
	for i, addr := range addrs {
		for late := false; ; late = true {
			there, err := a.holds(addr)
			if err != nil {
				return at, i, err
			}
			if there {
				if i < sample || late {
					at = time.Now()
				}
				break
			}
			if time.Now().After(deadline) {
				return at, i, nil
			}
			time.Sleep(time.Millisecond)
		}
	}
	return at, len(addrs), nil
}

// sample is the number of addresses after which only missing ones change the time that await returns.
const sample = 200
