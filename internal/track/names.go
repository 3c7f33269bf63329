package track

import (
	"math/bits"
	"slices"
	"strings"
	"time"
)

// The dictionary holds the names that are tried. A name that unrelated networks try, that the daemon says does not exist and that
// nobody has ever logged in with is hot: whoever tries it from an unknown address is a guesser. A name that exists or has
// succeeded, or that could be a typing error of such a name, is never hot, however often it is tried.
//
// Names that one network alone has tried come and go; those that several have tried stay, so that a flood of random names does
// not push them out.
type names struct {
	index     map[string]*name
	tried     nameList // by one network so far, the one tried first in front
	demanded  nameList // by several
	succeeded nameList // users of this host, by their latest success

	accounts map[string]bool // names that exist on this host; true: they can log in
	canaries map[string]bool
	starter  map[string]bool

	protected  []protectedName // those that can log in, for near
	generation uint32          // of protected
	stale      bool            // protected has to be made anew

	dirty []*name
	gone  []string // stored names that were removed
}

const (
	maxTried    = 16_384
	maxDemanded = 8_192
	manySources = 5 // of one network within a day are demand as well

	fortnight = 14 * day

	// hotNetworks is how many other networks must have tried a name that does not exist within two to four weeks for it to be hot, and
	// contestedNetworks the same of a name that may exist: its user may have failed in several places.
	hotNetworks       = 2
	contestedNetworks = 4
	// attackedNetworks is how many networks make a name that has logged in here one under attack, so that nothing is forgiven to
	// strangers who try it.
	attackedNetworks = 6
)

// A name is an entry of the dictionary.
type name struct {
	text        string
	networks    [2]uint64 // that tried it, a bit for each by hash: in this fortnight, and in the one before
	period      int32     // number of this fortnight
	tries       uint32
	first, last int64 // tries
	success     int64 // latest; 0: never
	surge       surge

	absent bool // a daemon said that there is no such user
	flags  uint8

	near       string // a user's name that is within two edits
	generation uint32 // of near

	list         *nameList
	newer, older *name
}

// A protectedName is the name of somebody who can log in.
type protectedName struct {
	text    string
	letters uint64 // a bit for each character by hash
}

// A nameList is a list of names by age.
type nameList struct {
	newest, oldest *name
	n              int
}

func (l *nameList) add(n *name) {
	n.list, n.older, n.newer = l, l.newest, nil
	if l.newest != nil {
		l.newest.newer = n
	} else {
		l.oldest = n
	}
	l.newest = n
	l.n++
}

func (l *nameList) remove(n *name) {
	if n.newer != nil {
		n.newer.older = n.older
	} else {
		l.newest = n.older
	}
	if n.older != nil {
		n.older.newer = n.newer
	} else {
		l.oldest = n.newer
	}
	n.newer, n.older, n.list = nil, nil, nil
	l.n--
}

func (n *name) move(to *nameList) {
	n.list.remove(n)
	to.add(n)
}

func newNames() names { return names{index: map[string]*name{}} }

// configure sets what is known of names beforehand.
func (d *names) configure(cfg *Config) {
	d.accounts = cfg.Accounts
	d.canaries, d.starter = map[string]bool{}, map[string]bool{}
	for _, c := range cfg.Canaries {
		d.canaries[AccountName(c)] = true
	}
	if cfg.StarterNames {
		for s := range strings.FieldsSeq(starterNames) {
			d.starter[s] = true
		}
	}
	d.stale = true
}

// AccountName returns what users are compared by: their name without the domain, in lower case. EXAMPLE\alice, alice@example.net and
// Alice are one account.
func AccountName(user string) string {
	account := user[strings.LastIndexByte(user, '\\')+1:]
	if i := strings.IndexByte(account, '@'); i > 0 {
		account = account[:i]
	}
	return strings.ToLower(account)
}

// try notes that a network tried a name, and returns its entry. newSource: by a source that had not tried it.
func (d *names) try(text string, network uint64, absent, newSource bool, now int64) *name {
	n := d.index[text]
	if n == nil {
		if d.tried.n >= maxTried {
			d.remove(d.tried.oldest)
		}
		n = &name{text: strings.Clone(text), first: now}
		d.index[n.text] = n
		d.tried.add(n)
	}
	n.roll(now)
	n.networks[0] |= network
	n.last = now
	n.absent = absent
	if newSource {
		n.surge.add(now, nameScale())
	}
	switch {
	case n.list == &d.succeeded:
	case bits.OnesCount64(n.networks[0]|n.networks[1]) > 1 || n.surge.cur >= manySources || n.list == &d.demanded:
		if n.list != &d.demanded && d.demanded.n >= maxDemanded {
			d.remove(d.demanded.oldest)
		}
		n.move(&d.demanded)
	}
	d.touch(n)
	return n
}

// roll begins a new fortnight.
func (n *name) roll(now int64) {
	period := int32(now / fortnight)
	switch {
	case period == n.period+1:
		n.networks = [2]uint64{0, n.networks[0]}
	case period > n.period:
		n.networks = [2]uint64{}
	default:
		return
	}
	n.period = period
}

// others returns how many networks besides one have tried the name.
func (n *name) others(network uint64) int {
	return bits.OnesCount64((n.networks[0] | n.networks[1]) &^ network)
}

// succeed notes that a user of the name logged in.
func (d *names) succeed(text string, most int, now int64) *name {
	n := d.index[text]
	if n == nil {
		n = &name{text: strings.Clone(text)}
		d.index[n.text] = n
		d.succeeded.add(n)
		d.protect(n.text)
	} else if n.list != &d.succeeded {
		n.move(&d.succeeded)
		d.protect(n.text)
	} else {
		n.move(&d.succeeded)
	}
	n.success = now
	for d.succeeded.n > most {
		d.remove(d.succeeded.oldest)
	}
	d.touch(n)
	return n
}

func (d *names) remove(n *name) {
	if n.list == &d.succeeded {
		d.stale = true
	}
	n.list.remove(n)
	delete(d.index, n.text)
	if n.flags&stored != 0 {
		d.gone = append(d.gone, n.text)
	}
	n.flags = listed // if it is in dirty, it is passed over
}

// touch marks a name as changed. One that a single network has tried is not kept over a restart: floods would fill the disk.
func (d *names) touch(n *name) {
	if n.list == &d.tried {
		return
	}
	if n.flags&dirty == 0 {
		n.flags |= dirty
		d.dirty = append(d.dirty, n)
	}
}

// protect adds a name to those that near looks among.
func (d *names) protect(text string) {
	if !d.stale {
		d.protected = append(d.protected, protectedName{text, letters(text)})
		d.generation++
	}
}

// refresh makes the list of protected names anew.
func (d *names) refresh() {
	if !d.stale {
		return
	}
	d.stale = false
	d.generation++
	d.protected = nil
	for n := d.succeeded.oldest; n != nil; n = n.newer {
		d.protected = append(d.protected, protectedName{n.text, letters(n.text)})
	}
	accounts := make([]string, 0, len(d.accounts))
	for a, canLogIn := range d.accounts {
		if canLogIn {
			accounts = append(accounts, a)
		}
	}
	slices.Sort(accounts)
	for _, a := range accounts {
		d.protected = append(d.protected, protectedName{a, letters(a)})
	}
}

// nearTo returns the name of a user that n may be a typing error of, "" if there is none.
func (d *names) nearTo(n *name) string {
	d.refresh()
	if n.generation != d.generation {
		n.generation, n.near = d.generation, ""
		mask := letters(n.text)
		for i := range d.protected {
			p := &d.protected[i]
			if bits.OnesCount64(p.letters^mask) > 2*maxEdits || p.text == n.text || n.near != "" && n.near <= p.text {
				continue
			}
			if near(p.text, n.text) {
				n.near = p.text // the first by name, whatever the order in which they became known
			}
		}
	}
	return n.near
}

// letters returns which characters a name has. Each edit changes two of them at most.
func letters(s string) (mask uint64) {
	for i := range len(s) {
		mask |= 1 << (s[i] % 64)
	}
	return mask
}

// maxEdits is how many characters of a name may be added, left out or mistaken.
const maxEdits = 2

// near reports whether b is within maxEdits edits of a. Names so short that nothing of them would be left are never near.
func near(a, b string) bool {
	if abs(len(a)-len(b)) > maxEdits || len(a) > maxUser || len(b) > maxUser || max(len(a), len(b)) <= maxEdits {
		return false
	}
	var room [maxUser + 1]uint8
	row := room[:len(b)+1]
	for j := range row {
		row[j] = uint8(j)
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = uint8(i + 1)
		best := row[0]
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
			best = min(best, row[j+1])
		}
		if best > maxEdits {
			return false
		}
	}
	return row[len(b)] <= maxEdits
}

const maxUser = 64 // bytes of a user name in an event

func abs(n int) int { return max(n, -n) }

// A Name is an entry of the dictionary as people see it.
type Name struct {
	Name      string    `json:"name"`
	Tries     int       `json:"tries"`
	Networks  int       `json:"networks"` // that tried it within two to four weeks; more than 30 are not told apart well
	First     time.Time `json:"first"`
	Last      time.Time `json:"last"`
	Hot       bool      `json:"hot"`
	Protected string    `json:"protected,omitempty"` // why it is never hot
	Origin    string    `json:"origin"`              // learned, starter, canary, user
}

// Names returns the dictionary: the names in most demand first, at most limit, 0 for all. Entries that begin with prefix only.
func (t *Tracker) Names(prefix string, limit int, at time.Time) []Name {
	d := &t.names
	d.refresh()
	var out []Name
	seen := map[string]bool{}
	add := func(n *name, text string) {
		if seen[text] || !strings.HasPrefix(text, prefix) {
			return
		}
		seen[text] = true
		out = append(out, t.showName(n, text, at.UnixNano()))
	}
	for _, n := range d.index {
		if n.list != &d.succeeded || n.tries > 0 || prefix != "" {
			add(n, n.text)
		}
	}
	for c := range d.canaries {
		add(nil, c)
	}
	for s := range d.starter {
		add(nil, s)
	}
	slices.SortFunc(out, func(a, b Name) int {
		if a.Networks != b.Networks {
			return b.Networks - a.Networks
		} else if a.Tries != b.Tries {
			return b.Tries - a.Tries
		}
		return strings.Compare(a.Name, b.Name)
	})
	if limit > 0 {
		out = out[:min(len(out), limit)]
	}
	return out
}

func (t *Tracker) showName(n *name, text string, now int64) Name {
	d := &t.names
	out := Name{Name: text, Origin: "learned"}
	if n == nil {
		n = &name{text: text} // for near
	} else {
		n.roll(now)
	}
	out.Tries, out.Networks = int(n.tries), n.others(0)
	out.First, out.Last = moment(n.first), moment(n.last)
	if d.starter[text] {
		out.Origin = "starter"
	}
	switch _, exists := d.accounts[text]; {
	case n.success > 0:
		out.Protected, out.Origin = "logged in "+moment(n.success).Format(time.DateOnly), "user"
	case exists:
		out.Protected, out.Origin = "exists on this host", "user"
	case d.canaries[text]:
		out.Hot, out.Origin = true, "canary"
	default:
		if near := d.nearTo(n); near != "" {
			out.Protected = "may be a typing error of " + near
		}
	}
	if out.Protected == "" && (d.starter[text] || n.absent && out.Networks >= hotNetworks) {
		out.Hot = true
	}
	return out
}
