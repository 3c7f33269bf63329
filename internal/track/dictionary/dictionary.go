// Package dictionary has the user names that are tried, and by how many networks.
//
// A name that unrelated networks try, that the service reports as unknown and with which nobody has ever logged in is hot: whoever tries it
// from an unknown address is a guesser. A name that exists or has succeeded, or that may be a typing error of such a name, is never hot,
// however often it is tried.
//
// Names that only one network has tried come and go; those that several have tried stay, so that a flood of random names does not push
// them out.
package dictionary

import (
	"iter"
	"math/bits"
	"strings"
	"time"
	"unicode/utf8"

	"mef/internal/track/bounded"
	"mef/internal/track/surge"
)

// A Dictionary is the table of names. Make one with New.
type Dictionary struct {
	index     map[string]*Entry
	lately    [256]*Entry // some of index that were found last: attackers try few names, again and again
	tried     list        // by one network so far, the one tried first in front
	demanded  list        // by several
	succeeded list        // users of this host, by their latest success

	accounts map[string]bool // names that exist on this host; true: they can log in
	canaries map[string]bool
	starter  map[string]bool

	protected  []protected // those that can log in, for NearTo
	generation uint32      // of protected
	stale      bool        // protected has to be made anew
	configured uint32      // how often the facts have been set

	shared  func(name string) bool // nil: none
	sharing uint32                 // how often shared was set

	dirty []*Entry
	gone  []string // stored names that were removed
}

const (
	maxTried    = 16_384
	maxDemanded = 8_192
	manySources = 5 // of one network within a day are demand as well

	day       = 24 * time.Hour
	fortnight = int64(14 * day)

	// HotNetworks is how many other networks must have tried a name that does not exist within two to four weeks for it to be hot.
	HotNetworks = 2

	// attackSources is how many sources trying one user name within a day are an attack on that user.
	attackSources = 20
)

// pace is how the sources of a name count: a name that is always attacked, such as root, is nothing new.
func pace() surge.Scale { return surge.Scale{Window: day, Least: 7, Pace: 7 * day} }

// An Entry is a name of the dictionary.
type Entry struct {
	Text    string
	Tries   uint32
	Success int64 // latest login; 0: never
	Absent  bool  // a service reported that there is no such user

	networks    [2]uint64 // that tried it, a bit for each by hash: in this fortnight, and in the one before
	period      int32     // number of this fortnight
	first, last int64     // tries
	surge       surge.Surge

	flags uint8

	near       string // a user's name that is within two edits
	generation uint32 // of near
	configured uint32 // of Facts
	Facts
	shared  bool
	sharing uint32 // of shared

	bounded.Age[Entry]
	list *list
}

const (
	dirty  = 1 << iota // changed since the last Changes
	stored             // part of an earlier Changes, so its removal must be reported
)

// Facts are what is known of a name beforehand.
type Facts struct {
	Exists, CanLogIn bool // on this host
	Canary           bool // the operator has named it as one that nobody uses
	Starter          bool // attacks on any server try it
}

type list = bounded.Ages[Entry, *Entry]

func (e *Entry) move(to *list) {
	if e.list == to {
		to.Renew(e)
		return
	}
	e.list.Remove(e)
	e.enter(to)
}

func (e *Entry) enter(l *list) {
	e.list = l
	l.Add(e)
}

// New returns an empty dictionary.
func New() Dictionary { return Dictionary{index: map[string]*Entry{}} }

// Configure sets what is known of names beforehand: the accounts of this host (true: they can log in), names that nobody uses, and
// whether the names that attacks have in common are hot from the start.
func (d *Dictionary) Configure(accounts map[string]bool, canaries []string, withStarter bool) {
	d.accounts = accounts
	d.canaries, d.starter = map[string]bool{}, map[string]bool{}
	for _, c := range canaries {
		d.canaries[AccountName(c)] = true
	}
	if withStarter {
		for s := range strings.FieldsSeq(starterNames) {
			d.starter[s] = true
		}
	}
	d.stale = true
	d.configured++
}

// AccountName returns what users are compared by: their name without the domain and blanks around it, in lower case. EXAMPLE\alice,
// alice@example.net and Alice are one account.
func AccountName(user string) string {
	if isAccount(user) {
		return user
	}
	user = strings.TrimSpace(user)
	account := user[strings.LastIndexByte(user, '\\')+1:]
	if i := strings.IndexByte(account, '@'); i > 0 {
		account = account[:i]
	}
	return strings.ToLower(strings.TrimSpace(account))
}

// isAccount reports whether a name is one that AccountName returns as it is: most are.
func isAccount(user string) bool {
	for i := range len(user) {
		if c := user[i]; c <= ' ' || c == '@' || c == '\\' || 'A' <= c && c <= 'Z' || c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// Get returns the entry of a name, nil if there is none.
func (d *Dictionary) Get(text string) *Entry {
	last := len(text) - 1
	if last < 0 {
		return nil
	}
	at := &d.lately[(len(text)*41+int(text[0])*13+int(text[last/2])*5+int(text[last]))%len(d.lately)]
	if e := *at; e != nil && e.list != nil && e.Text == text {
		return e
	}
	e := d.index[text]
	if e != nil {
		*at = e
	}
	return e
}

// Len returns how many names there are.
func (d *Dictionary) Len() int { return len(d.index) }

// Account reports whether a name exists on this host, and whether its user can log in.
func (d *Dictionary) Account(text string) (canLogIn, exists bool) {
	canLogIn, exists = d.accounts[text]
	return canLogIn, exists
}

// Try notes that a network tried a name, and returns its entry, with its facts. e is the entry before, nil if there is none. network is a bit
// that stands for the network; newSource: by a source that had not tried it.
func (d *Dictionary) Try(text string, e *Entry, network uint64, absent, newSource bool, now int64) *Entry {
	if e == nil {
		if d.tried.Len() >= maxTried {
			d.remove(d.tried.Oldest())
		}
		e = &Entry{Text: strings.Clone(text), first: now}
		d.index[e.Text] = e
		e.enter(&d.tried)
	}
	if e.configured != d.configured {
		e.configured = d.configured
		e.Facts = Facts{Canary: d.canaries[text], Starter: d.starter[text]}
		e.CanLogIn, e.Exists = d.Account(text)
	}
	e.roll(now)
	e.networks[0] |= network
	e.last = now
	e.Absent = absent
	if newSource {
		e.surge.Add(now, pace())
	}
	switch {
	case e.list == &d.succeeded:
	case e.Others(0) > 1 || e.surge.Current() >= manySources || e.list == &d.demanded:
		if e.list != &d.demanded && d.demanded.Len() >= maxDemanded {
			d.remove(d.demanded.Oldest())
		}
		e.move(&d.demanded)
	}
	d.touch(e)
	return e
}

// roll begins a new fortnight.
func (e *Entry) roll(now int64) {
	period := int32(now / fortnight)
	switch {
	case period == e.period+1:
		e.networks = [2]uint64{0, e.networks[0]}
	case period > e.period:
		e.networks = [2]uint64{}
	default:
		return
	}
	e.period = period
}

// Others returns how many networks besides one have tried the name.
func (e *Entry) Others(network uint64) int {
	return bits.OnesCount64((e.networks[0] | e.networks[1]) &^ network)
}

// Sources returns how many sources have tried the name within a day.
func (e *Entry) Sources(now int64) int { return e.surge.Sources(now, pace()) }

// Attack returns how many sources have tried the name within a day if they are an attack on it, and how many are usual.
func (e *Entry) Attack(now int64) (sources, usual int) {
	return e.surge.Attack(now, pace(), attackSources), e.surge.Usual()
}

// Attacked returns the names that are under attack, with the number of sources. It changes nothing.
func (d *Dictionary) Attacked(now int64) iter.Seq2[string, int] {
	return func(yield func(string, int) bool) {
		for _, l := range []*list{&d.demanded, &d.succeeded} {
			for e := range l.All() {
				aside := e.surge // looking must not change what later decisions add up
				if !aside.Begun() {
					continue
				}
				if n := aside.Attack(now, pace(), attackSources); n > 0 && !yield(e.Text, n) {
					return
				}
			}
		}
	}
}

// Succeed notes that a user of the name logged in. At most so many such names are kept.
func (d *Dictionary) Succeed(text string, most int, now int64) {
	e := d.index[text]
	switch {
	case e == nil:
		e = &Entry{Text: strings.Clone(text)}
		d.index[e.Text] = e
		e.enter(&d.succeeded)
		d.protect(e.Text)
	case e.list != &d.succeeded:
		e.move(&d.succeeded)
		d.protect(e.Text)
	default:
		e.move(&d.succeeded)
	}
	e.Success = now
	for d.succeeded.Len() > most {
		d.remove(d.succeeded.Oldest())
	}
	d.touch(e)
}

func (d *Dictionary) remove(e *Entry) {
	if e.list == &d.succeeded {
		d.stale = true
	}
	e.list.Remove(e)
	e.list = nil
	delete(d.index, e.Text)
	if e.flags&stored != 0 {
		d.gone = append(d.gone, e.Text)
	}
	e.flags = 0
}

// touch marks a name as changed. A name that a single network has tried is not kept over a restart: floods would fill the disk.
func (d *Dictionary) touch(e *Entry) {
	if e.list == &d.tried {
		return
	}
	if e.flags&dirty == 0 {
		e.flags |= dirty
		d.dirty = append(d.dirty, e)
	}
}

// SetBack notes that the clock has been set back to now.
func (d *Dictionary) SetBack(now int64) {
	for _, e := range d.index {
		e.last, e.Success = min(e.last, now), min(e.Success, now)
		e.surge.SetBack(now)
	}
}
