package dictionary

import (
	"math/bits"
	"slices"
)

// A protected name is that of a user who can log in.
type protected struct {
	text    string
	letters uint64 // a bit for each character by hash
}

// protect adds a name to those that NearTo compares with.
func (d *Dictionary) protect(text string) {
	if !d.stale {
		d.protected = append(d.protected, protected{text, letters(text)})
		d.generation++
	}
}

// refresh makes the list of protected names anew.
func (d *Dictionary) refresh() {
	if !d.stale {
		return
	}
	d.stale = false
	d.generation++
	d.protected = nil
	for e := range d.succeeded.All() {
		d.protected = append(d.protected, protected{e.Text, letters(e.Text)})
	}
	accounts := make([]string, 0, len(d.accounts))
	for a, canLogIn := range d.accounts {
		if canLogIn {
			accounts = append(accounts, a)
		}
	}
	slices.Sort(accounts)
	for _, a := range accounts {
		d.protected = append(d.protected, protected{a, letters(a)})
	}
}

// NearTo returns the name of a user that e may be a typing error of, "" if there is none.
func (d *Dictionary) NearTo(e *Entry) string {
	d.refresh()
	if e.generation != d.generation {
		e.generation, e.near = d.generation, ""
		mask := letters(e.Text)
		for i := range d.protected {
			p := &d.protected[i]
			if bits.OnesCount64(p.letters^mask) > 2*maxEdits || p.text == e.Text || e.near != "" && e.near <= p.text {
				continue
			}
			if near(p.text, e.Text) {
				e.near = p.text // the first by name, whatever the order in which they became known
			}
		}
	}
	return e.near
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

// maxUser is how many bytes a user name has in an event at most.
const maxUser = 64

// near reports whether b is within maxEdits edits of a. Names so short that nothing of them would be left are never near.
func near(a, b string) bool {
	if max(len(a), len(b))-min(len(a), len(b)) > maxEdits || len(a) > maxUser || len(b) > maxUser || max(len(a), len(b)) <= maxEdits {
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
