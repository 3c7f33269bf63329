// Package reputation decides from the reports of many servers which addresses are attackers, so that nobody can have an innocent address listed
// by making up reporters.
//
// A server is called a reporter here. How much its reports count is its trust, a number from 0 to 1:
//
//   - An anchor, which the operator has chosen, has the trust 1. Without anchors nothing is ever listed.
//   - Everyone else begins with 0.05 and earns more by reports that other trusted networks confirm later. A report of an address that is listed
//     already earns nothing, so that copying the list does not help.
//   - Trust is lost by reports that nobody confirms, and halved by each that was wrong.
//
// The trust of the reporters of an address is added up, where each network and each autonomous system (AS) adds at most a fixed amount, and each
// report counts half after 72 hours. The address is listed when the sum is at least 3, from three systems and three networks, and two systems
// have a reporter whose trust was earned. It is unlisted at half of that.
//
// Reporters who know that an address is benign can contest its listing, and its owner can appeal. Own reporters are hosts of one operator: they
// share bans among themselves at once, in a list that others do not get.
//
// All time is passed in, in whole hours, and all arithmetic is that of whole numbers: a Book that is fed the same calls has the same content. A
// Book is not safe for use by several goroutines.
package reputation

import (
	"cmp"
	"errors"
	"math"
	"net/netip"
	"slices"
	"time"
)

// An Hour is a time in hours since 1970.
type Hour int32

// HourOf returns the hour of a time.
func HourOf(t time.Time) Hour { return Hour(t.Unix() / 3600) }

// Time returns the beginning of an hour.
func (h Hour) Time() time.Time { return time.Unix(int64(h)*3600, 0).UTC() }

const (
	day  Hour = 24
	week Hour = 7 * day
)

// The rules of trust and of listing.
const (
	newTrust      = unit / 20     // of a reporter that has earned nothing
	established   = 3 * unit / 10 // trust from which a reporter can confirm others
	fullAge       = 14 * day      // before it, earned trust counts in part
	halfCredit    = 20 * unit     // credit that makes half of the trust that can be earned
	creditsDay    = 5             // credits a reporter gets in a day at most
	confirmed     = unit          // trust in other systems that confirms a report
	doubtUnproven = unit / 100    // for a report that nobody confirmed in a week
	doubtWrong    = unit          // for one that was wrong
	doubtNever    = unit / 5      // for one of an address that is never listed, from the third on

	capNet    = unit         // mass that a network adds at most
	capSystem = 3 * unit / 2 // mass that a system adds at most
	weakNet   = 3 * unit / 10
	capWeak   = unit // mass that all networks below weakNet add together at most

	threshold  = 3 * unit
	minSystems = 3
	minNets    = 3
	minTrusted = 2 // systems with an established reporter

	minListed   = Hour(6)
	quarantine  = week     // after a contest only an anchor can have an address listed again
	refuteIn    = 3 * day  // then the reporters of a contested address were wrong
	appealEvery = 30 * day // self-service removals of an address
	ownFor      = day      // how long a ban of an own host is shared
	ownQuota    = 200      // new addresses that an own host shares in an hour
	dayQuota    = 2000     // new addresses that a reporter reports in a day
	maxClaims   = 256      // reporters that are kept of an address; the least trusted goes first
	sweepEvery  = Hour(6)
)

// Errors of reports, votes and appeals: why they have no effect.
var (
	ErrUnknown  = errors.New("unknown reporter")
	ErrRevoked  = errors.New("the reporter was revoked")
	ErrNever    = errors.New("the address is never listed")
	ErrQuota    = errors.New("too many addresses for one day")
	ErrFull     = errors.New("the server holds as many addresses as it may")
	ErrTime     = errors.New("the time is not within the last week")
	ErrUnlisted = errors.New("the address is not listed")
	ErrAppealed = errors.New("the address was removed by an appeal in the last 30 days")
)

// Options are what a Book needs.
type Options struct {
	Never   func(netip.Addr) bool // addresses that are never listed; the same at the same place of a replay, see Recheck
	MaxKeys int                   // addresses that are held at most; 0 means 4,000,000
}

// A Role is what a reporter is to the operator of the server.
type Role string

// Roles.
const (
	Member Role = "member" // anyone
	Anchor Role = "anchor" // trusted by the operator
	Own    Role = "own"    // an anchor that is a host of the operator, and shares its bans with the others at once
)

// A Reporter is a server that reports.
type Reporter struct {
	ID      string
	Role    Role
	System  string // its autonomous system, or what stands for it
	Net     string // its network
	Since   Hour
	Revoked bool
	Credit  int64 // what it has earned, in millionths
	Doubt   int64 // what it has lost
	Never   int   // reports of addresses that are never listed

	Day, Credits, Reported int // the current day, and what it got and reported in it
	OwnHour, OwnShared     int // the current hour, and the addresses it shared in it
	NameDay, Named         int // a day, and the new user names that it reported in it

	system, net int
	trust       int64 // in this hour
}

func (r *Reporter) anchor() bool { return r.Role == Anchor || r.Role == Own }

// Trust returns how much its reports count, from 0 to 1.
func (r *Reporter) Trust() float64 { return float64(r.trust) / unit }

// A claim is what one reporter reports of an address.
type claim struct {
	By           int // index of the reporter
	First, Last  Hour
	Categories   uint16
	Early        bool // reported before the address was ever listed
	Credited     bool
	Corroborated bool
	Judged       bool // counted as unproven
	Shared       bool // within the quota of an own host
}

// A vote is one of a reporter for an address.
type vote struct {
	By int
	At Hour
}

// A record is what is known of an address, or of a network of IPv6.
type record struct {
	Claims     []claim // in order of their reporters
	Votes      []vote
	Listed     bool
	Ever       bool // was listed before
	ListedAt   Hour
	Contested  Hour  // when a contest succeeded, 0: never
	Accused    []int // reporters who are wrong unless an anchor refutes the contest
	Appealed   Hour
	NoOwnUntil Hour // an own host has lifted its ban

	own   bool // in the list of own hosts
	dirty bool
	// No claim was of less trust than least when it was computed, in the hour leastAt.
	least   int64
	leastAt Hour
}

// find returns where the claim of a reporter is, or belongs.
func (rec *record) find(by int) (int, bool) {
	return slices.BinarySearchFunc(rec.Claims, by, func(c claim, by int) int { return cmp.Compare(c.By, by) })
}

// A Book holds what was reported, and decides what is listed.
type Book struct {
	opt       Options
	now       Hour
	sweep     Hour
	reporters []*Reporter
	byID      map[string]int
	names     map[string]int // numbers of systems and networks
	systemOf  []int          // by the number of a network
	records   map[netip.Prefix]*record
	dirty     []netip.Prefix
	changes   []Change
	userNames map[int64]*nameTable // by the week of their salt

	days72, days60, doubt decay
	sums                  sums
}

// sums are scratch space of one evaluation.
type sums struct{ systems, nets, weak, trusted tally }

func (s *sums) clear() {
	for _, t := range []*tally{&s.systems, &s.nets, &s.weak, &s.trusted} {
		t.clear()
	}
}

// A tally adds up amounts by number.
type tally struct {
	sum  []int64
	seen []bool
	used []int // numbers with an amount
}

func (t *tally) clear() {
	for _, n := range t.used {
		t.sum[n], t.seen[n] = 0, false
	}
	t.used = t.used[:0]
}

func (t *tally) add(n int, amount int64) {
	if n >= len(t.sum) {
		t.sum = append(t.sum, make([]int64, n+1-len(t.sum))...)
		t.seen = append(t.seen, make([]bool, n+1-len(t.seen))...)
	}
	if !t.seen[n] {
		t.seen[n] = true
		t.used = append(t.used, n)
	}
	t.sum[n] += amount
}

// of returns the amount of a number.
func (t *tally) of(n int) int64 {
	if n >= len(t.sum) {
		return 0
	}
	return t.sum[n]
}

// A List is one of the lists that a Book makes.
type List string

// Lists.
const (
	Public   List = "public" // attackers, as everybody's reports show
	OwnHosts List = "own"    // bans of the operator's own hosts
)

// A Change is an address that was added to a list or removed from it.
type Change struct {
	List    List
	Prefix  netip.Prefix
	Removed bool
	At      Hour
	Why     string
}

// New returns an empty Book.
func New(opt Options) *Book {
	if opt.MaxKeys == 0 {
		opt.MaxKeys = 4_000_000
	}
	return &Book{opt: opt, byID: make(map[string]int), names: make(map[string]int), records: make(map[netip.Prefix]*record), userNames: make(map[int64]*nameTable),
		days72: newDecay(72), days60: newDecay(int(60 * day)), doubt: newDecay(100)}
}

// Key returns the prefix that stands for an address: the address itself, and of IPv6 its network of 64 bits.
func Key(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	p, _ := addr.Prefix(bits) // zero of a zero address
	return p
}

// name returns the number of a system or network.
func (b *Book) name(s string) int {
	n, ok := b.names[s]
	if !ok {
		n = len(b.names)
		b.names[s] = n
	}
	return n
}

// Now returns the hour to which the Book was advanced.
func (b *Book) Now() Hour { return b.now }

// Enrol adds a reporter. An ID that is known keeps what it was.
func (b *Book) Enrol(r Reporter) {
	if _, ok := b.byID[r.ID]; ok {
		return
	}
	b.byID[r.ID] = len(b.reporters)
	b.add(&r)
}

// Move changes the system of a reporter, which was not known before.
func (b *Book) Move(id, system string) error {
	i, r, err := b.reporter(id)
	if err != nil {
		return err
	}
	r.System = system
	b.place(r)
	b.renewNames()
	for key, rec := range b.records {
		if _, found := rec.find(i); found {
			b.touch(key, rec)
		}
	}
	return nil
}

func (b *Book) add(r *Reporter) {
	b.place(r)
	b.reporters = append(b.reporters, r)
	b.setTrust(r)
}

// place numbers the system and the network of a reporter.
func (b *Book) place(r *Reporter) {
	r.system, r.net = b.name("system "+r.System), b.name("net "+r.System+" "+r.Net)
	for len(b.systemOf) <= r.net {
		b.systemOf = append(b.systemOf, 0)
	}
	b.systemOf[r.net] = r.system
}

// setTrust computes the trust of a reporter for this hour.
func (b *Book) setTrust(r *Reporter) {
	switch {
	case r.Revoked:
		r.trust = 0
	case r.anchor():
		r.trust = unit
	default:
		age := min(max(b.now-r.Since, 0), fullAge)
		earned := r.Credit * unit / (r.Credit + halfCredit) * int64(age) / int64(fullAge)
		r.trust = b.doubt.of(newTrust+(unit-newTrust)*earned/unit, r.Doubt/(unit/100))
	}
}

// Reporter returns a copy of a reporter.
func (b *Book) Reporter(id string) (Reporter, bool) {
	i, ok := b.byID[id]
	if !ok {
		return Reporter{}, false
	}
	return *b.reporters[i], true
}

// Reporters returns copies of all reporters, in the order of their enrolment.
func (b *Book) Reporters() []Reporter {
	all := make([]Reporter, len(b.reporters))
	for i, r := range b.reporters {
		all[i] = *r
	}
	return all
}

// reporter returns a reporter that may report.
func (b *Book) reporter(id string) (int, *Reporter, error) {
	i, ok := b.byID[id]
	if !ok {
		return 0, nil, ErrUnknown
	}
	if b.reporters[i].Revoked {
		return 0, nil, ErrRevoked
	}
	return i, b.reporters[i], nil
}

// Report adds a report: the categories in which a reporter saw an address attack, and the hour of the last attack. Adding one twice
// changes nothing. The error says why a report has no effect.
func (b *Book) Report(id string, addr netip.Addr, categories uint16, at Hour) error {
	i, r, err := b.reporter(id)
	switch {
	case err != nil:
		return err
	case at > b.now+1 || at < b.now-week:
		return ErrTime
	case b.never(addr):
		if r.Never++; r.Never >= 3 {
			r.Doubt += doubtNever
		}
		return ErrNever
	}
	key := Key(addr)
	rec := b.records[key]
	if rec != nil {
		if n, found := rec.find(i); found {
			c := &rec.Claims[n]
			if at > c.Last {
				c.Shared = b.share(r)
			}
			c.Last, c.Categories = max(c.Last, at), c.Categories|categories
			b.touch(key, rec)
			return nil
		}
	}
	if b.newDay(r); r.Reported >= dayQuota {
		return ErrQuota
	}
	if rec == nil {
		if len(b.records) >= b.opt.MaxKeys && r.trust < established {
			return ErrFull
		}
		rec = new(record)
		b.records[key] = rec
	}
	r.Reported++
	if len(rec.Claims) >= maxClaims && !b.makeRoom(rec, r) {
		return nil // the reporters that are kept are all trusted at least as much
	}
	n, _ := rec.find(i)
	rec.Claims = slices.Insert(rec.Claims, n, claim{By: i, First: b.now, Last: at, Categories: categories, Early: !rec.Ever, Shared: b.share(r)})
	b.touch(key, rec)
	return nil
}

// newDay begins the counts of a reporter again on a new day.
func (b *Book) newDay(r *Reporter) {
	if today := int(b.now / day); r.Day != today {
		r.Day, r.Credits, r.Reported = today, 0, 0
	}
}

// share reports whether an own host may share one more address in this hour, and counts it.
func (b *Book) share(r *Reporter) bool {
	if r.Role != Own {
		return false
	}
	if r.OwnHour != int(b.now) {
		r.OwnHour, r.OwnShared = int(b.now), 0
	}
	r.OwnShared++
	return r.OwnShared <= ownQuota
}

// makeRoom removes the claim of the least trusted reporter, if it is trusted less than r.
func (b *Book) makeRoom(rec *record, r *Reporter) bool {
	if rec.leastAt == b.now && r.trust <= rec.least {
		return false
	}
	trust := func(c claim) int64 { return b.reporters[c.By].trust }
	least := slices.MinFunc(rec.Claims, func(x, y claim) int { return cmp.Or(cmp.Compare(trust(x), trust(y)), cmp.Compare(y.By, x.By)) })
	rec.least, rec.leastAt = trust(least), b.now
	if trust(least) >= r.trust {
		return false
	}
	rec.Claims = slices.DeleteFunc(rec.Claims, func(c claim) bool { return c.By == least.By })
	return true
}

// Benign adds the vote of a reporter that an address is benign. That of an own host ends the bans of own hosts.
func (b *Book) Benign(id string, addr netip.Addr) error {
	i, r, err := b.reporter(id)
	if err != nil {
		return err
	}
	key := Key(addr)
	rec := b.records[key]
	if rec == nil {
		return ErrUnlisted // and nothing is kept of the address
	}
	if at := slices.IndexFunc(rec.Votes, func(v vote) bool { return v.By == i }); at >= 0 {
		rec.Votes[at].At = b.now
	} else if len(rec.Votes) < maxClaims {
		rec.Votes = append(rec.Votes, vote{i, b.now})
	}
	if r.Role == Own {
		rec.NoOwnUntil = b.now + ownFor
		for c := range rec.Claims {
			rec.Claims[c].Shared = false
		}
	}
	b.touch(key, rec)
	return nil
}

// Appeal removes an address for whoever uses it. It has an effect once in 30 days; until then, it takes twice the mass to have it listed again.
func (b *Book) Appeal(addr netip.Addr) error {
	key := Key(addr)
	rec := b.records[key]
	switch {
	case rec == nil || !rec.Listed:
		return ErrUnlisted
	case rec.Appealed != 0 && b.now < rec.Appealed+appealEvery:
		return ErrAppealed
	}
	rec.Appealed = b.now
	b.unlist(key, rec, "its owner has appealed")
	b.touch(key, rec)
	return nil
}

// Clear is the decision of the operator that the reports of an address are wrong: it is not listed for a week, and its reporters lose trust.
func (b *Book) Clear(addr netip.Addr) error {
	key := Key(addr)
	rec := b.records[key]
	if rec == nil {
		return ErrUnlisted
	}
	b.contest(key, rec, "the operator has removed it")
	b.punish(rec)
	b.touch(key, rec)
	return nil
}

// Revoke ends what a reporter may do, and removes everything that it did.
func (b *Book) Revoke(id string) error {
	i, _, err := b.reporter(id)
	if err != nil {
		return err
	}
	b.reporters[i].Revoked = true
	b.reporters[i].trust = 0
	for key, rec := range b.records {
		before := len(rec.Claims) + len(rec.Votes)
		rec.Claims = slices.DeleteFunc(rec.Claims, func(c claim) bool { return c.By == i })
		rec.Votes = slices.DeleteFunc(rec.Votes, func(v vote) bool { return v.By == i })
		if len(rec.Claims)+len(rec.Votes) == before {
			continue
		}
		if m := b.weigh(rec); rec.Listed && !m.lists(threshold) {
			b.unlist(key, rec, "a reporter was revoked")
		}
		b.touch(key, rec)
	}
	b.revokeNames(i)
	b.Settle()
	return nil
}

// never reports whether an address is never listed.
func (b *Book) never(addr netip.Addr) bool {
	addr = addr.Unmap()
	return !addr.IsValid() || addr.Zone() != "" || b.opt.Never != nil && b.opt.Never(addr)
}

// Recheck has the addresses of a network evaluated: what Options.Never says about them has changed.
func (b *Book) Recheck(network netip.Prefix) {
	for key, rec := range b.records {
		if network.Overlaps(key) {
			b.touch(key, rec)
		}
	}
}

// touch has a record evaluated by the next Settle.
func (b *Book) touch(key netip.Prefix, rec *record) {
	if !rec.dirty {
		rec.dirty = true
		b.dirty = append(b.dirty, key)
	}
}

// Advance moves the Book's time forward. It never goes back.
func (b *Book) Advance(to Hour) {
	if to <= b.now {
		return
	}
	passed := int64(to - b.now)
	first := b.now == 0
	b.now = to
	b.forgetNames()
	for _, r := range b.reporters {
		if !first {
			r.Credit, r.Doubt = b.days60.of(r.Credit, passed), b.days60.of(r.Doubt, passed)
		}
		b.setTrust(r)
	}
	if b.now >= b.sweep+sweepEvery {
		b.sweep = b.now
		for key, rec := range b.records {
			b.touch(key, rec)
		}
	}
	b.Settle()
}

// Settle evaluates what has changed.
func (b *Book) Settle() {
	for _, key := range b.dirty {
		if rec := b.records[key]; rec != nil {
			rec.dirty = false
			b.evaluate(key, rec)
		}
	}
	b.dirty = b.dirty[:0]
}

// Changes returns what has changed in the lists since the last call, in no certain order. An address can change more than once.
func (b *Book) Changes() []Change {
	c := b.changes
	b.changes = nil
	return c
}

// A Verdict is what the Book decides about an address.
type Verdict struct {
	Listed     bool
	Score      int // 0 to 100
	Categories uint16
	Reporters  int
	Since      Hour // when it was listed
	Until      Hour // when it is unlisted at the latest unless it is reported again
	Contested  bool
}

// Verdict returns what is decided about an address.
func (b *Book) Verdict(addr netip.Addr) Verdict {
	rec := b.records[Key(addr)]
	if rec == nil {
		return Verdict{}
	}
	v := Verdict{Listed: rec.Listed, Since: rec.ListedAt, Reporters: len(rec.Claims), Contested: b.quarantined(rec)}
	v.Score = int(math.Round(100 * (1 - math.Exp(-float64(b.weigh(rec).mass)/unit/2))))
	for _, c := range rec.Claims {
		v.Categories |= c.Categories
		v.Until = max(v.Until, c.Last+week)
	}
	return v
}

// Each calls f with every entry of a list, in no certain order.
func (b *Book) Each(list List, f func(key netip.Prefix, categories uint16)) {
	for key, rec := range b.records {
		if list == Public && rec.Listed || list == OwnHosts && rec.own {
			var cats uint16
			for _, c := range rec.Claims {
				cats |= c.Categories
			}
			f(key, cats)
		}
	}
}

// Open returns the addresses whose listing is contested, with the hour at which their reporters lose trust.
func (b *Book) Open() map[netip.Prefix]Hour {
	open := make(map[netip.Prefix]Hour)
	for key, rec := range b.records {
		if len(rec.Accused) > 0 {
			open[key] = rec.Contested + refuteIn
		}
	}
	return open
}

// Len returns how many addresses the Book holds.
func (b *Book) Len() int { return len(b.records) }
