package dictionary

import (
	"strings"
	"time"

	"mef/internal/ordered"
	"mef/internal/track/record"
)

// A Name is an entry of the dictionary as people see it.
type Name struct {
	Name      string    `json:"name"`
	Tries     int       `json:"tries"`
	Networks  int       `json:"networks"` // that tried it within two to four weeks; counts above 30 are too low
	First     time.Time `json:"first"`
	Last      time.Time `json:"last"`
	Hot       bool      `json:"hot"`
	Protected string    `json:"protected,omitempty"` // why it is never hot
	Origin    string    `json:"origin"`              // learned, starter, community, canary, user
}

// Names returns the dictionary: the names that most networks try first, at most limit, 0 for all. Entries that begin with prefix only.
func (d *Dictionary) Names(prefix string, limit int, now int64) []Name {
	d.refresh()
	var out []Name
	seen := map[string]bool{}
	add := func(e *Entry, text string) {
		if seen[text] || !strings.HasPrefix(text, prefix) {
			return
		}
		seen[text] = true
		out = append(out, d.show(e, text, now))
	}
	for _, e := range d.index {
		if e.list != &d.succeeded || e.Tries > 0 || prefix != "" {
			add(e, e.Text)
		}
	}
	for c := range d.canaries {
		add(nil, c)
	}
	for s := range d.starter {
		add(nil, s)
	}
	ordered.Sort(out, func(a, b Name) int {
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

func (d *Dictionary) show(e *Entry, text string, now int64) Name {
	out := Name{Name: text, Origin: "learned"}
	if e == nil {
		e = &Entry{Text: text} // for NearTo
	} else {
		e.roll(now)
	}
	out.Tries, out.Networks = int(e.Tries), e.Others(0)
	out.First, out.Last = record.Moment(e.first), record.Moment(e.last)
	if d.starter[text] {
		out.Origin = "starter"
	}
	switch _, exists := d.accounts[text]; {
	case e.Success > 0:
		out.Protected, out.Origin = "logged in "+record.Moment(e.Success).Format(time.DateOnly), "user"
	case exists:
		out.Protected, out.Origin = "exists on this host", "user"
	case d.canaries[text]:
		out.Hot, out.Origin = true, "canary"
	default:
		if near := d.NearTo(e); near != "" {
			out.Protected = "may be a typing error of " + near
		}
	}
	switch {
	case out.Protected != "":
	case d.starter[text] || e.Absent && out.Networks >= HotNetworks:
		out.Hot = true
	case e.Absent && !out.Hot && d.Shared(e):
		out.Hot, out.Origin = true, "community"
	}
	return out
}
