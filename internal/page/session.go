package page

import (
	"crypto/rand"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"mef/internal/pagechild"
	"mef/internal/pagechild/password"
)

// How long a session lasts, and how long it may be idle. Sessions end as well when mefpage does, and when the password file changes.
const (
	sessionTime = 12 * time.Hour
	idleTime    = time.Hour
)

// The most sessions in all and of one user; the one that was idle for longest makes room. maxThrottled is how many sources of wrong passwords
// are remembered.
const (
	maxSessions  = 500
	maxPerUser   = 20
	maxThrottled = 10000
)

// What one source may try: loginBurst passwords, then one every loginPause. waiting is how many logins wait while one is checked.
const (
	loginBurst = 5
	loginPause = 10 * time.Second
	waiting    = 8
)

// A session is one login.
type session struct {
	user, role string
	token      string // of forms
	began      time.Time
	used       time.Time
}

func (s *session) over(now time.Time) bool {
	return now.Sub(s.began) >= sessionTime || now.Sub(s.used) >= idleTime
}

// sessions are the logins by cookie. They are safe for concurrent use.
type sessions struct {
	mu      sync.Mutex
	byToken map[string]*session
}

// begin returns the cookie of a new session.
func (s *sessions) begin(user, role string, now time.Time) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.byToken, func(_ string, one *session) bool { return one.over(now) })
	s.evict(maxPerUser, func(one *session) bool { return one.user == user })
	s.evict(maxSessions, func(*session) bool { return true })
	cookie := rand.Text()
	s.byToken[cookie] = &session{user: user, role: role, token: rand.Text(), began: now, used: now}
	return cookie
}

// evict ends the session that was idle for longest if there are as many as most among those of a kind.
func (s *sessions) evict(most int, of func(*session) bool) {
	n, oldest := 0, ""
	for cookie, one := range s.byToken {
		if of(one) {
			n++
			if oldest == "" || one.used.Before(s.byToken[oldest].used) {
				oldest = cookie
			}
		}
	}
	if n >= most {
		delete(s.byToken, oldest)
	}
}

// find returns the session of a cookie.
func (s *sessions) find(cookie string, now time.Time) (session, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	one, ok := s.byToken[cookie]
	if !ok || one.over(now) {
		delete(s.byToken, cookie)
		return session{}, false
	}
	one.used = now
	return *one, true
}

func (s *sessions) end(cookie string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byToken, cookie)
}

// A doorman checks passwords, one at a time.
type doorman struct {
	users []pagechild.User
	turn  chan struct{} // holds as many as wait
	one   sync.Mutex

	mu    sync.Mutex
	tries map[netip.Prefix]*rate.Limiter
}

func newDoorman(users []pagechild.User) *doorman {
	return &doorman{users: users, turn: make(chan struct{}, waiting), tries: make(map[netip.Prefix]*rate.Limiter)}
}

// refusal is why a password was not checked, or not right; empty if it was.
type refusal string

const (
	wrongPassword refusal = "The name or the password is wrong."
	tooMany       refusal = "Too many attempts from your network. Wait a minute, then try again."
	tooBusy       refusal = "Too many logins at the same time. Try again."
)

// check returns the user with a name and a password.
func (d *doorman) check(from netip.Addr, name, pass string, now time.Time) (pagechild.User, refusal) {
	if !d.limiter(from).AllowN(now, 1) {
		return pagechild.User{}, tooMany
	}
	select {
	case d.turn <- struct{}{}:
		defer func() { <-d.turn }()
	default:
		return pagechild.User{}, tooBusy
	}
	d.one.Lock()
	defer d.one.Unlock()
	hash, found := password.Dummy, pagechild.User{}
	if i := slices.IndexFunc(d.users, func(u pagechild.User) bool { return u.Name == name }); i >= 0 {
		found, hash = d.users[i], d.users[i].Hash
	}
	if ok, err := password.Check(hash, pass); err != nil || !ok || found.Name == "" {
		return pagechild.User{}, wrongPassword
	}
	return found, ""
}

// limiter returns what limits the attempts of an address, or of its /64.
func (d *doorman) limiter(from netip.Addr) *rate.Limiter {
	bits := 64
	if from.Is4() {
		bits = 32
	}
	prefix, _ := from.Prefix(bits)
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.tries[prefix]
	if l == nil {
		if len(d.tries) >= maxThrottled {
			clear(d.tries) // the sum of all is limited by doorman.one
		}
		l = rate.NewLimiter(rate.Every(loginPause), loginBurst)
		d.tries[prefix] = l
	}
	return l
}
