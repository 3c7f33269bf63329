package dictionary

import (
	"maps"
	"slices"
	"strings"

	"mef/internal/ordered"
)

// Share sets which names hosts elsewhere see attacked; nil: none are known. Such a name counts as one that other networks have tried here, and
// so it is hot only if it does not exist here and is not near a name that does.
func (d *Dictionary) Share(attacked func(name string) bool) {
	d.shared = attacked
	d.sharing++
}

// Shared reports whether hosts elsewhere see the name of e attacked. It asks once for each name.
func (d *Dictionary) Shared(e *Entry) bool {
	if d.shared == nil {
		return false
	}
	if e.sharing != d.sharing {
		e.sharing, e.shared = d.sharing, d.shared(e.Text)
	}
	return e.shared
}

// Attackable returns the names that may be reported as attacked, at most limit, those that most networks try first: the service reports them as unknown,
// and two networks have tried them, one of them within a week. They do not exist here, nobody has ever logged in with one, and none may be a typing error of
// a name that does. Canaries and the names that attacks have in common are left out.
func (d *Dictionary) Attackable(limit int, now int64) []string {
	d.refresh()
	var found []*Entry
	for e := range d.demanded.All() {
		if !e.Absent || e.Success > 0 || now-e.last > fortnight/2 || d.canaries[e.Text] || d.starter[e.Text] {
			continue
		}
		if e.roll(now); e.Others(0) < HotNetworks {
			continue
		}
		if _, exists := d.accounts[e.Text]; !exists && d.NearTo(e) == "" {
			found = append(found, e)
		}
	}
	ordered.Sort(found, func(a, b *Entry) int {
		if a.Others(0) != b.Others(0) {
			return b.Others(0) - a.Others(0)
		}
		return strings.Compare(a.Text, b.Text)
	})
	names := make([]string, min(len(found), limit))
	for i := range names {
		names[i] = found[i].Text
	}
	return names
}

// Users returns the names that exist on this host or have logged in, in order.
func (d *Dictionary) Users() []string {
	names := slices.Collect(maps.Keys(d.accounts))
	for e := range d.succeeded.All() {
		names = append(names, e.Text)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
