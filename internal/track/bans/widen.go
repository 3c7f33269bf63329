package bans

import (
	"slices"

	"mef/internal/ban"
	"mef/internal/track/netkey"
)

const (
	widenAt    = 3  // whole networks of the next narrower width that are banned, the new one included
	scatterAt  = 12 // networks of 64 bits in which something is banned, in a /48 at large
	maxMembers = 32 // banned networks remembered per wider network: enough for both limits
)

// A member is a banned network within a wider one. Of a banned address it is the network of 64 bits around it.
type member struct {
	net   netkey.Key
	whole bool // all of it is banned
	until int64
}

// memberOf returns the member that a banned prefix is in the networks around it.
func memberOf(k netkey.Key) (net netkey.Key, whole bool) {
	if k.Bits > 64 {
		return k.Widen(64), false
	}
	return k, true
}

// join enters a banned network into the wider ones around it.
func (h *Active) join(k netkey.Key, until, now int64) {
	n := member{until: until}
	n.net, n.whole = memberOf(k)
	for _, bits := range netkey.Widths {
		if bits >= int(n.net.Bits) {
			continue
		}
		wide := n.net.Widen(bits)
		in := slices.DeleteFunc(h.members[wide], func(m member) bool {
			if m.net == n.net && m.until > now {
				n.whole = n.whole || m.whole
				n.until = max(n.until, m.until)
				return true
			}
			return m.until <= now
		})
		if len(in) < maxMembers {
			in = append(in, n)
		}
		h.members[wide] = in
	}
}

// leave removes a network whose ban does not hold any more.
func (h *Active) leave(k netkey.Key) {
	net, _ := memberOf(k)
	for _, bits := range netkey.Widths {
		if bits >= int(net.Bits) {
			continue
		}
		wide := net.Widen(bits)
		if in := slices.DeleteFunc(h.members[wide], func(m member) bool { return m.net == net }); len(in) > 0 {
			h.members[wide] = in
		} else {
			delete(h.members, wide)
		}
	}
}

// Wider appends the networks around an IPv6 network that bans could be widened to: when enough networks of the next narrower width in them
// are banned. self is 1 if k is to be counted as banned, which it is when a ban of it is about to be decided, otherwise 0. Known is 0.
func (h *Active) Wider(buf []ban.Wider, k netkey.Key, self int, now int64) []ban.Wider {
	narrower, banned := k, self // banned: whether narrower is, or will be
	for _, bits := range netkey.Widths {
		if bits >= int(k.Bits) {
			continue
		}
		wide := k.Widen(bits)
		w := ban.Wider{Prefix: wide.Prefix(), Banned: banned, Limit: widenAt}
		scattered := self
		for _, m := range h.members[wide] {
			if m.net == narrower || m.net == k || m.until <= now {
				continue
			}
			if m.net.Bits == narrower.Bits && m.whole {
				w.Banned++
			}
			if m.net.Bits == 64 {
				scattered++
			}
		}
		if w.Banned < widenAt && scattered >= scatterAt {
			w.Banned, w.Limit = scattered, scatterAt
		}
		if narrower, banned = wide, 0; w.Reached() {
			banned = 1
		}
		buf = append(buf, w)
	}
	return buf
}
