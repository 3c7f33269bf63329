//go:build linux

// Package session ends what is left of the connections of banned peers.
//
// A ban drops every packet of a connection, but neither end is notified. A local socket stays established for minutes: a
// half-open login keeps its place in sshd's MaxStartups, and enough of them keep everybody out. A connection tracking entry
// lives on too, and a forwarded session resumes when the ban ends. So the sockets are destroyed, as by "ss -K", and the entries
// deleted, as by "conntrack -D": once a second at most, off the way that bans take. Having nothing to end is no error.
package session

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"mef/internal/ban"
	"mef/internal/prefixset"
	"mef/internal/sleep"
)

// passEvery is how often connections are looked through at most.
const passEvery = time.Second

// maxPending is how many bans wait for the next pass at most. The sessions of further ones are left to time out.
const maxPending = 20_000

// An Ender ends sessions. Its methods may be called from any goroutine.
type Ender struct {
	log  *slog.Logger
	wake chan struct{} // holds one message while something is pending

	mu      sync.Mutex
	pending []ban.Key
	spared  prefixset.Set

	loggedDestroy, loggedTrack bool // belong to Run: that this kernel cannot do it was logged
}

// New returns an Ender, which does nothing before Run.
func New(log *slog.Logger) *Ender {
	return &Ender{log: log, wake: make(chan struct{}, 1)}
}

// Add has the sessions of the peers of verified bans ended soon, but not those of spared addresses. It does not block.
func (e *Ender) Add(keys []ban.Key, spared prefixset.Set) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.spared = spared
	e.pending = append(e.pending, keys[:min(len(keys), maxPending-len(e.pending))]...)
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// Forget has the sessions of peers left alone whose bans were lifted before their turn came. It does not block.
func (e *Ender) Forget(keys []ban.Key) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.pending) == 0 {
		return
	}
	lifted := make(map[ban.Key]bool, len(keys))
	for _, k := range keys {
		lifted[k] = true
	}
	e.pending = slices.DeleteFunc(e.pending, func(k ban.Key) bool { return lifted[k] })
}

// Run ends sessions, in the network namespace of its caller, until ctx is done. It then returns nil.
func (e *Ender) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-e.wake:
		}
		e.mu.Lock()
		p := newPeers(e.pending, e.spared)
		e.pending = nil
		e.mu.Unlock()
		e.pass(p)
		if !sleep.For(ctx, passEvery) {
			return nil
		}
	}
}

func (e *Ender) pass(p peers) {
	sockets, err := destroySockets(p)
	e.report(&e.loggedDestroy, "ending the sockets of banned peers", err)
	entries, err := deleteEntries(p)
	e.report(&e.loggedTrack, "deleting the conntrack entries of banned peers", err)
	if sockets+entries > 0 {
		e.log.Debug("ended sessions of banned peers", "bans", len(p.keys), "sockets", sockets, "conntrack", entries)
	}
}

// endEach ends what ids name, one by one, and returns how many there were and the first error. An error of one does not keep the
// others, unless it will come every time. What is gone already is no error.
func endEach[T any](ids []T, end func(T) error) (n int, first error) {
	for _, id := range ids {
		err := end(id)
		switch {
		case err == nil:
			n++
		case !errors.Is(err, unix.ENOENT):
			first = cmp.Or(first, err)
		}
		if lasting(err) {
			break
		}
	}
	return n, first
}

// lasting reports whether an error will come every time.
func lasting(err error) bool { return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPERM) }

// report logs an error; one that will come every time, once.
func (e *Ender) report(logged *bool, doing string, err error) {
	if err == nil || lasting(err) && *logged {
		return
	}
	*logged = *logged || lasting(err)
	if errors.Is(err, unix.EOPNOTSUPP) {
		e.log.Warn("this kernel cannot do it (CONFIG_INET_DIAG_DESTROY, nf_conntrack_netlink); packets are dropped nevertheless",
			"doing", doing)
		return
	}
	e.log.Warn("ending sessions failed; packets are dropped nevertheless", "doing", doing, "err", err)
}

// peers are the banned addresses, networks and ports.
type peers struct {
	keys   []ban.Key
	ports  map[netip.Prefix][]ban.Ports // by banned prefix
	bits   [2][]int                     // the lengths of the banned prefixes, of IPv4 and IPv6
	spared prefixset.Set
}

func newPeers(keys []ban.Key, spared prefixset.Set) peers {
	p := peers{keys: keys, ports: map[netip.Prefix][]ban.Ports{}, spared: spared}
	for _, k := range keys {
		p.ports[k.Prefix] = append(p.ports[k.Prefix], k.Ports)
		if list := &p.bits[family(k.Prefix.Addr())]; !slices.Contains(*list, k.Prefix.Bits()) {
			*list = append(*list, k.Prefix.Bits())
		}
	}
	return p
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// banned reports whether a connection of addr with our port is banned.
func (p peers) banned(addr netip.Addr, port uint16) bool {
	addr = addr.Unmap()
	for _, bits := range p.bits[family(addr)] {
		prefix, err := addr.Prefix(bits)
		if err != nil {
			continue
		}
		for _, ports := range p.ports[prefix] {
			if ports.Covers(portList(port)) {
				return !p.spared.Contains(addr)
			}
		}
	}
	return false
}

func portList(port uint16) ban.Ports {
	return ban.Ports(strconv.Itoa(int(port)))
}
