// Package limit bounds what strangers can have a server do: how often each network asks, and how many connections it holds.
//
// A network is a /24 of IPv4 or a /56 of IPv6. Everything has a fixed size, so that many networks cannot fill the memory.
package limit

import (
	"hash/maphash"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Network returns the network that stands for an address.
func Network(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := 24
	if addr.Is6() {
		bits = 56
	}
	p, _ := addr.Prefix(bits) // zero of a zero address
	return p
}

const (
	slots  = 1 << 16
	probes = 4 // slots in which a network may be
	tick   = 100 * time.Microsecond
)

// A Rate bounds the requests of each network. Any goroutine may use it, and nothing waits.
//
// A slot has the time at which the bucket of one network is full again, in ticks since the beginning, below a tag of the network. A slot whose bucket
// is full can be taken over. When all slots of a network are taken by others, its requests are allowed.
type Rate struct {
	seed  maphash.Seed
	began time.Time
	each  uint64 // ticks that a request costs
	burst uint64 // ticks
	of    []atomic.Uint64
}

const (
	timeBits = 44
	timeMask = 1<<timeBits - 1
)

// NewRate returns a Rate of some requests a second, with a burst. Times are compared with now, which is the time of the first request.
func NewRate(perSecond, burst int, now time.Time) *Rate {
	each := uint64(time.Second/tick) / uint64(perSecond)
	return &Rate{seed: maphash.MakeSeed(), began: now.Add(-time.Second), each: each, burst: each * uint64(burst), of: make([]atomic.Uint64, slots)}
}

// Allow reports whether a network may have one more request at a time, and counts it.
func (r *Rate) Allow(addr netip.Addr, now time.Time) bool {
	raw := Network(addr).Addr().As16()
	key := maphash.Bytes(r.seed, raw[:8]) // of IPv4, the network is further behind
	if addr.Unmap().Is4() {
		key = maphash.Bytes(r.seed, raw[8:])
	}
	tag := key &^ timeMask
	at := uint64(max(now.Sub(r.began), 0) / tick)
	for i := range uint64(probes) {
		slot := &r.of[(key+i)%slots]
		for {
			held := slot.Load()
			full := held & timeMask
			if held-full != tag && full > at {
				break // of another network
			}
			if full = max(full, at); full+r.each > at+r.burst {
				return false
			}
			if slot.CompareAndSwap(held, tag|(full+r.each)) {
				return true
			}
		}
	}
	return true
}

// A listener bounds the connections that are open at once.
type listener struct {
	net.Listener
	total, each int

	mu   sync.Mutex
	all  int
	open map[netip.Prefix]int
}

// Listener returns a listener that closes at once what exceeds a number of connections in total, or of a network.
func Listener(l net.Listener, total, each int) net.Listener {
	return &listener{Listener: l, total: total, each: each, open: make(map[netip.Prefix]int)}
}

// Accept waits for the next connection within the limits.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from, _ := netip.ParseAddrPort(c.RemoteAddr().String())
		of := Network(from.Addr())
		l.mu.Lock()
		full := l.all >= l.total || l.open[of] >= l.each
		if !full {
			l.all++
			l.open[of]++
		}
		l.mu.Unlock()
		if full {
			_ = c.Close()
			continue
		}
		return &conn{Conn: c, closed: sync.OnceFunc(func() { l.release(of) })}, nil
	}
}

func (l *listener) release(of netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.open[of]--; l.open[of] == 0 {
		delete(l.open, of)
	}
}

type conn struct {
	net.Conn
	closed func()
}

// Close closes the connection.
func (c *conn) Close() error {
	c.closed()
	return c.Conn.Close()
}
