package server

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"mef/internal/cloud/reputation"
	"mef/internal/cloud/wire"
)

// Own hosts have one score together: each sends the failures that led to no ban there, and an address whose failures add up is banned by all. The
// server adds them up, because it hears all hosts and each of them would need to hear all others. The sum is that of a single host: each failure
// has 10 points, which halve every two weeks, and 100 ban for a day. One host adds at most half of that, so that it can have nobody banned.
const (
	point         = 1000 // points are counted in thousandths
	failurePoints = 10 * point
	scoreLimit    = 100 * point
	scoreOfHost   = scoreLimit / 2
	scoreLeast    = 5 * point / 2 // below which it is forgotten
	scoreBan      = 24 * time.Hour
	halfLife      = 14 * 24    // hours
	userFor       = 30 * 24    // hours for which a user is known
	askAgain      = 24         // hours
	maxSuspects   = 50_000     // that are kept
	newSuspects   = 2000       // of a host in an hour
	decayOfHour   = 4286116256 // 2^32 * 2^(-1/halfLife)
	maxSuspecting = 256        // hosts that are kept of one
)

// A suspect is an address (of IPv6, a network of 64 bits) that failed to log in at own hosts.
type suspect struct {
	Hour   int64            `json:"hour"`            // of the points
	Points map[string]int64 `json:"points"`          // by host
	Asked  int64            `json:"asked,omitempty"` // the hour in which hosts were asked for users
	User   int64            `json:"user,omitempty"`  // the hour until which users log in from there
	By     string           `json:"by,omitempty"`    // the host that reports so
}

// decay halves points every two weeks. All servers of a log compute the same.
func decay(points, hours int64) int64 {
	if hours >= 64*halfLife {
		return 0
	}
	factor, power := uint64(1)<<32, uint64(decayOfHour)
	for ; hours > 0; hours >>= 1 {
		if hours&1 != 0 {
			factor = factor * power >> 32
		}
		power = power * power >> 32
	}
	return int64(uint64(points) * factor >> 32)
}

// pass has time pass, and returns the sum.
func (s *suspect) pass(hour int64) (sum int64) {
	for id, p := range s.Points {
		if hour > s.Hour {
			p = decay(p, hour-s.Hour)
			s.Points[id] = p
		}
		sum += p
	}
	s.Hour = max(s.Hour, hour)
	return sum
}

// suspect counts failures that a host has seen.
func (f *fleet) suspect(id string, in wire.Suspect) {
	key, hour := reputation.Key(in.Addr), f.now.Unix()/3600
	s := f.Suspects[key]
	if s == nil {
		h := f.host(id)
		if h.Suspects >= newSuspects || len(f.Suspects) >= maxSuspects && !f.forgetSuspects() {
			return
		}
		h.Suspects++
		s = &suspect{Hour: hour, Points: make(map[string]int64)}
		f.Suspects[key] = s
	}
	if s.User > hour || len(s.Points) >= maxSuspecting && s.Points[id] == 0 {
		return
	}
	sum := s.pass(hour)
	before := s.Points[id]
	s.Points[id] = min(before+int64(in.Count)*failurePoints, scoreOfHost)
	sum += s.Points[id] - before
	if len(s.Points) < 2 {
		return
	}
	if hour-s.Asked >= askAgain {
		s.Asked = hour
		f.put(&fleetItem{Until: f.now.Add(fleetAsked), Event: wire.FleetEvent{ID: f.newID("ask"), Kind: wire.FleetAsk, Prefix: key}})
	}
	if sum < scoreLimit {
		return
	}
	f.put(&fleetItem{Until: f.now.Add(scoreBan), Event: wire.FleetEvent{ID: f.newID("score"), Kind: wire.FleetBan, Prefix: key, Rule: "score",
		Category: in.Category, Hosts: len(s.Points), Count: int((sum + failurePoints/2) / failurePoints)}})
	for host := range s.Points { // as a host keeps of a score that has banned
		s.Points[host] = s.Points[host] * 3 / 4
	}
}

// newID returns an ID for what the server itself decides.
func (f *fleet) newID(what string) string {
	return what + "-" + strconv.FormatUint(f.next+1, 10)
}

// user notes that users log in at a host from an address: its failures do not add up, and what they led to ends.
func (f *fleet) user(id string, addr netip.Addr) {
	key := reputation.Key(addr)
	s := f.Suspects[key]
	if s == nil {
		return // of an address that nobody suspects, nothing is kept
	}
	s.By, s.User, s.Points = id, f.now.Unix()/3600+userFor, make(map[string]int64)
	for _, it := range f.Items {
		if it.Event.Kind == wire.FleetBan && it.Event.Origin == "" && it.Event.Prefix == key && it.Lifted == "" {
			it.Lifted = id
			f.put(&fleetItem{Until: f.now.Add(fleetLifted), Event: wire.FleetEvent{ID: f.newID("user"), Kind: wire.FleetWithdraw, Prefix: key}})
			return
		}
	}
}

// forgetSuspects makes room: it forgets the older half of those that only one host has seen. It reports whether there were any.
func (f *fleet) forgetSuspects() bool {
	var hours []int64
	for _, s := range f.Suspects {
		if len(s.Points) == 1 {
			hours = append(hours, s.Hour)
		}
	}
	if len(hours) == 0 {
		return false
	}
	slices.SortFunc(hours, cmp.Compare)
	middle, most := hours[len(hours)/2], len(hours)/2+1
	keys := make([]netip.Prefix, 0, len(hours))
	for key, s := range f.Suspects {
		if len(s.Points) == 1 && s.Hour <= middle {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, netip.Prefix.Compare) // all servers of a log forget the same
	for _, key := range keys[:min(len(keys), most)] {
		delete(f.Suspects, key)
	}
	return true
}

// passSuspects forgets suspects that have done nothing for long.
func (f *fleet) passSuspects() {
	hour := f.now.Unix() / 3600
	for key, s := range f.Suspects {
		if s.pass(hour) < scoreLeast && s.User <= hour {
			delete(f.Suspects, key)
		}
	}
}

// acquit forgets the failures from a prefix: an operator has lifted its ban.
func (f *fleet) acquit(p netip.Prefix) {
	if s := f.Suspects[reputation.Key(p.Addr())]; s != nil {
		s.Points = make(map[string]int64)
	}
}

// unsuspect forgets what a host that was revoked has reported of suspects.
func (f *fleet) unsuspect(id string) {
	for _, s := range f.Suspects {
		if delete(s.Points, id); s.By == id {
			s.By, s.User = "", 0
		}
	}
}
