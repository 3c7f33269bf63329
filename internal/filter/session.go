package filter

import (
	"hash/maphash"
	"net/netip"
	"time"

	"mef/internal/event"
)

// A daemon may report in one line that it refused a client, and in another which client that was. The lines of a session share a process ID
// or the session name of the daemon, and sessions keeps what is needed to combine the two.
//
// Only lines that anchored patterns of a rule recognized get here, so that no text of a peer leads from one session to another. Entries are
// short-lived, because process IDs are reused.
type sessions struct {
	seed  maphash.Seed
	index []slot    // where in ring sessions are, by their keys; see find
	keys  []uint64  // of the sessions in ring
	ring  []session // grows to maxSessions; then the oldest gives way
	next  int
}

const (
	maxSessions = 4096
	sessionLife = 5 * time.Minute // longer than LoginGraceTime
	maxUser     = 64              // bytes of a user name that are kept
)

// A slot of the index has a place in ring, from 1, in its low bits, and above it bits of the session's key. The zero slot is free.
type slot uint32

const (
	placeBits = 13
	placeMask = 1<<placeBits - 1

	_ = uint(placeMask - maxSessions) // a place must fit
)

func newSlot(place int, key uint64) slot { return slot(uint32(place+1) | uint32(key>>32)&^placeMask) }

// is reports whether the slot may be that of a key.
func (s slot) is(key uint64) bool { return (uint32(s)^uint32(key>>32))&^placeMask == 0 }

func (s slot) place() int { return int(s&placeMask) - 1 }

// A session is what its lines so far have reported.
type session struct {
	seen int64      // when its last line came, in nanoseconds
	addr netip.Addr // invalid if no line named it

	pending bool // an orphan line waits for an address: count, user and unknown are its own
	unknown bool // the orphan line reported that the user does not exist
	userLen uint8
	count   int32
	user    [maxUser]byte
}

// newSessions returns a table without sessions.
func newSessions() *sessions {
	return &sessions{seed: maphash.MakeSeed()}
}

// slot returns where in index the session of a key is, or where it is to be put. A key's place is given by its low bits, or is the next
// one that was free: a map does the same and costs more than everything else that a line of a session needs.
func (t *sessions) slot(key uint64) uint64 {
	if t.index == nil {
		t.index = make([]slot, 2*maxSessions)
	}
	at := key % (2 * maxSessions)
	for t.index[at] != 0 && !(t.index[at].is(key) && t.keys[t.index[at].place()] == key) {
		at = (at + 1) % (2 * maxSessions)
	}
	return at
}

// remove takes a key out of index, and moves up those that its place had pushed on.
func (t *sessions) remove(key uint64) {
	const size = 2 * maxSessions
	free := t.slot(key)
	for at := (free + 1) % size; t.index[at] != 0; at = (at + 1) % size {
		home := t.keys[t.index[at].place()] % size
		if (at-home)%size >= (at-free)%size {
			t.index[free], free = t.index[at], at
		}
	}
	t.index[free] = 0
}

// key returns the key of a rule's session in the lines of one view. Rules of the same name, of whatever Set, share their sessions.
func (t *sessions) key(view int, rule *rule, name []byte) uint64 {
	const spread = 0x9e3779b97f4a7c15 // odd: no bits are lost
	return maphash.Bytes(t.seed, name) ^ (rule.hash+uint64(view))*spread
}

// find returns the session, or nil if it is not known or too old to be the same.
func (t *sessions) find(key uint64, now time.Time) *session {
	i := t.index[t.slot(key)].place()
	if i < 0 || old(t.ring[i].seen, now.UnixNano()) {
		return nil
	}
	return &t.ring[i]
}

// open returns the session, a new one if it is not known.
func (t *sessions) open(key uint64, now time.Time) *session {
	at, seen := t.slot(key), now.UnixNano()
	i := t.index[at].place()
	switch {
	case i >= 0 && !old(t.ring[i].seen, seen):
		t.ring[i].seen = seen
		return &t.ring[i]
	case i >= 0:
	case len(t.ring) < maxSessions:
		i = len(t.ring)
		t.ring = append(t.ring, session{})
		t.keys = append(t.keys, key)
		t.index[at] = newSlot(i, key)
	default:
		i = t.next
		t.next = (t.next + 1) % maxSessions
		t.remove(t.keys[i])
		t.keys[i] = key
		t.index[t.slot(key)] = newSlot(i, key)
	}
	s := &t.ring[i]
	s.seen = seen
	s.end()
	return s
}

// old reports whether a session with its last line then is over.
func old(seen, now int64) bool { return now-seen > int64(sessionLife) }

// orphan makes m, a line that reports a refusal without an address, the failure of the session's address. It reports false if
// that is not known yet.
func (s *session) orphan(m *Match) bool {
	if s.addr.IsValid() {
		m.Addr = s.addr
		return true
	}
	s.pending, s.count, s.unknown = true, int32(m.Count), m.UnknownUser
	s.userLen = uint8(copy(s.user[:], m.User))
	return false
}

// line notes what a line of the session reports and makes it the failure that an orphan line left open. It reports whether
// the line counts.
func (s *session) line(v verdict, m *Match) bool {
	if !m.Addr.IsValid() {
		return v != peer
	}
	s.addr = m.Addr
	pending := s.pending
	s.pending = false
	if pending && (v == peer || v == probe) {
		m.Kind, m.Echo = event.Failure, true
		m.Count = int(s.count)
		m.User, m.UnknownUser, m.ExistingUser = s.user[:s.userLen], s.unknown, false
		s.addr = netip.Addr{} // mostly this is the session's last line, and the process ID will come back
		return true
	}
	return v != peer
}

// end forgets what the lines of a session reported: it ended with a login.
func (s *session) end() {
	s.addr, s.pending, s.unknown, s.userLen, s.count = netip.Addr{}, false, false, 0, 0
}
