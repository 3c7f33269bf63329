package history

import (
	"net/netip"
	"sync"
	"time"

	"mef/internal/control"
)

const (
	// everyRecord is of how many attempts a second the labels and attackers are counted one by one. In a storm, one of oneOf stands for as many; the
	// series stay exact.
	everyRecord = 2000
	oneOf       = 16
	// inboxSize is how many attempts are gathered before their labels are counted, and inboxLimit how many may wait: the labels of others are not
	// counted.
	inboxSize  = 256
	inboxLimit = 4096
	// maxSums is how many services and families have a sum of their own in an inbox.
	maxSums = 2 * maxSeries
)

// An inbox has the attempts that are not counted yet. The one that reports an attempt never waits for the disk, or for a query.
type inbox struct {
	mu      sync.Mutex
	at      int64 // Unix time of the sums
	sums    []sum // exact
	last    int   // of the sums, the latest that was used
	sampled []sample
	second  int64 // the latest
	records int64 // attempts in it
}

// A sum is what happened to a service from addresses of a family.
type sum struct {
	service string
	family  int
	counts  [kinds]uint64
}

// A sample is an attempt whose labels are counted.
type sample struct {
	addr                netip.Addr
	rule, service, user string
	score               float64
	n                   uint64 // attempts for which it stands
	at                  int64  // Unix time in nanoseconds
}

// Attempt counts a failure, probe or login. It never waits, and keeps no pointer.
func (r *Recorder) Attempt(a *control.Attempt, now time.Time) {
	if !a.Addr.IsValid() || a.Event == "listed" {
		return
	}
	in := &r.inbox
	in.mu.Lock()
	defer in.mu.Unlock()
	if at := now.Unix(); at != in.at {
		r.countNow()
		if len(in.sums) == 0 {
			in.at = at
		}
	}
	s := in.sum(a.Service, family(a.Addr))
	if a.Event == "success" {
		s.counts[logins]++
		return
	}
	n := uint64(max(a.New, 0))
	if a.Event == "probe" {
		n = uint64(max(a.Count, 1))
	}
	s.counts[attempts] += n
	if a.Targeted {
		s.counts[targeted] += n
	}
	if n = in.stands(n, now.Unix()); n == 0 {
		return
	}
	if len(in.sampled) >= inboxSize {
		r.countNow()
	}
	if len(in.sampled) < inboxLimit {
		in.sampled = append(in.sampled, sample{addr: a.Addr, rule: a.Rule, service: a.Service, user: a.User, score: a.Score, n: n, at: now.UnixNano()})
	}
}

// stands returns for how many attempts n of them stand whose labels are counted; 0: they are not counted.
func (in *inbox) stands(n uint64, second int64) uint64 {
	if in.second != second {
		in.second, in.records = second, 0
	}
	switch in.records++; {
	case in.records <= everyRecord:
		return n
	case in.records%oneOf == 0:
		return n * oneOf
	}
	return 0
}

// sum returns the sum of a service and family.
func (in *inbox) sum(service string, family int) *sum {
	if in.last < len(in.sums) {
		if s := &in.sums[in.last]; s.service == service && s.family == family {
			return s
		}
	}
	for i := range in.sums {
		if s := &in.sums[i]; s.family == family && (s.service == service || s.service == "" && len(in.sums) >= maxSums) {
			in.last = i
			return s
		}
	}
	if len(in.sums) >= maxSums-families {
		service = "" // the last two are of all others
	}
	in.sums, in.last = append(in.sums, sum{service: service, family: family}), len(in.sums)
	return &in.sums[in.last]
}

// countNow counts what is in the inbox, whose lock the caller has, unless that would have to wait.
func (r *Recorder) countNow() {
	if !r.mu.TryLock() {
		return
	}
	defer r.mu.Unlock()
	if minutes.start(time.Unix(r.inbox.at, 0)) <= r.now { // otherwise the minute before is to be saved first
		r.empty()
	}
}

// collect counts what is in the inbox. The caller has the lock of the Recorder.
func (r *Recorder) collect() {
	in := &r.inbox
	in.mu.Lock()
	at, any := time.Unix(in.at, 0), len(in.sums) > 0
	in.mu.Unlock()
	if !any {
		return
	}
	if minutes.start(at) > r.now {
		r.flush(at)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	r.empty()
}

// empty counts what is in the inbox. The caller has both locks.
func (r *Recorder) empty() {
	in := &r.inbox
	for i := range in.sums {
		s := &in.sums[i]
		r.live.second(in.at).Attempts += s.counts[attempts]
		for kind, n := range s.counts {
			r.count(kind, s.service, s.family, n)
		}
	}
	for i := range in.sampled {
		s := &in.sampled[i]
		r.live.attempt(s)
		r.hourTops.came.count(s.addr, labels{ports: r.ports[s.rule], service: s.service, name: s.user}, s.n, 0, s.at/1e9)
	}
	clear(in.sums)
	clear(in.sampled)
	in.sums, in.sampled = in.sums[:0], in.sampled[:0]
	if cap(in.sampled) > 2*inboxSize {
		in.sampled = nil
	}
}

func family(a netip.Addr) int {
	if a.Is6() {
		return 1
	}
	return 0
}
