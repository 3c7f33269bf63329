package track

import (
	"slices"

	"mef/internal/event"
)

// Networks that bans are widened to, widest last: when enough networks of the next narrower width in them are banned.
//
// An attacker who owns a /48 has 65,536 networks of 64 bits to hop through; banning them one by one is a race we lose.
var widths = [...]int{64, 56, 48}

const (
	widenAt    = 3  // whole networks of the next narrower width that are banned, the new one included
	scatterAt  = 12 // networks of 64 bits in which something is banned, in a /48 at large
	maxMembers = 32 // banned networks remembered per wider network: enough for both limits
)

// A member is a banned network within a wider one. Of a banned address it is the network of 64 bits around it.
type member struct {
	net   key
	whole bool // all of it is banned
	until int64
}

// memberOf returns the member that a banned prefix is in the networks around it.
func memberOf(k key) (net key, whole bool) {
	if k.bits > 64 {
		return k.widen(64), false
	}
	return k, true
}

// join enters a banned network into the wider ones around it.
func (h *activeBans) join(k key, until, now int64) {
	n := member{until: until}
	n.net, n.whole = memberOf(k)
	for _, bits := range widths {
		if bits >= int(n.net.bits) {
			continue
		}
		wide := n.net.widen(bits)
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
func (h *activeBans) leave(k key) {
	net, _ := memberOf(k)
	for _, bits := range widths {
		if bits >= int(net.bits) {
			continue
		}
		wide := net.widen(bits)
		if in := slices.DeleteFunc(h.members[wide], func(m member) bool { return m.net == net }); len(in) > 0 {
			h.members[wide] = in
		} else {
			delete(h.members, wide)
		}
	}
}

// wider appends the networks around k that bans could be widened to. self is 1 if k is to be counted as banned, which it is when a ban
// of it is about to be decided, else 0.
func (t *Tracker) wider(buf []event.WiderNet, k key, self int, now int64) []event.WiderNet {
	if k.is4() || t.alone(k.prefix().Addr()) {
		return buf
	}
	narrower, banned := k, self // banned: whether narrower is, or will be
	for _, bits := range widths {
		if bits >= int(k.bits) {
			continue
		}
		wide := k.widen(bits)
		w := event.WiderNet{Prefix: wide.prefix(), Banned: banned, Limit: widenAt, Known: t.logins.within[wide]}
		scattered := self
		for _, m := range t.holds.members[wide] {
			if m.net == narrower || m.net == k || m.until <= now {
				continue
			}
			if m.net.bits == narrower.bits && m.whole {
				w.Banned++
			}
			if m.net.bits == 64 {
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
