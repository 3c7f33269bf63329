package lists

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/exempt"
	"mef/internal/lists/names"
	"mef/internal/prefixset"
)

// An Allow is what the allow list comes to at a moment.
type Allow struct {
	Set   prefixset.Set
	Items []Item // what Set is made of, in the order of the files, then those added by command
}

// An Item is one entry of the allow list with its addresses.
type Item struct {
	Text, Source string
	Set          prefixset.Set
}

// An added is an entry that somebody added by command. The saved state keeps it.
type added struct {
	Author string     `json:"author,omitempty"`
	Note   string     `json:"note,omitempty"`
	Since  time.Time  `json:"since"`
	Until  *time.Time `json:"until,omitempty"` // nil: until it is deleted
	Fleet  string     `json:"fleet,omitempty"` // of an entry on all own hosts: where it was added, ID of the host, or here
}

// here is where an entry was added on this host that holds on all own hosts.
const here = "here"

func (a added) over(now time.Time) bool { return a.Until != nil && !a.Until.After(now) }

const (
	maxAdded = 10_000 // entries added by command
)

// Update brings the allow list up to now: it removes entries whose time is over, and has new DNS names looked up. It returns the removed
// entries, how many DNS names are left out because there are too many, and the notes to be saved.
func (l *Lists) Update(now time.Time) (ended []control.Entry, namesLeftOut int, notes map[string]string) {
	notes = make(map[string]string)
	var next time.Time
	for text, a := range l.added {
		if a.over(now) {
			notes[noteAllow+text] = ""
			delete(l.added, text)
			ended = append(ended, control.Entry{List: AllowList, Entry: text, Author: a.Author, Note: a.Note})
		} else if a.Until != nil && (next.IsZero() || a.Until.Before(next)) {
			next = *a.Until
		}
	}
	l.expiry.Stop()
	if !next.IsZero() {
		l.expiry.Reset(next.Sub(now))
	}
	namesLeftOut = l.names.Want(l.dnsNames())
	l.noteNames(notes)
	return ended, namesLeftOut, notes
}

// Allow returns what the allow list comes to.
func (l *Lists) Allow() Allow {
	answers := l.names.Answers()
	var out Allow
	var ranges []prefixset.Range
	item := func(text, source string) {
		e := conf.Entry{Text: text}
		it := Item{Text: text, Source: source}
		if prefixes, ok := e.Prefixes(); ok {
			it.Set = prefixset.New(prefixes...)
		} else {
			it.Set = hosts(answers[foldName(text)].Addrs)
		}
		out.Items = append(out.Items, it)
		ranges = append(ranges, it.Set.Ranges()...)
	}
	l.allow.entries(func(_ *listFile, e *conf.Entry) bool { item(e.Text, e.Pos.String()); return true })
	for _, text := range slices.Sorted(maps.Keys(l.added)) {
		item(text, fmt.Sprintf("%s by %s", control.ByCommand, l.added[text].Author))
	}
	out.Set = prefixset.FromRanges(ranges)
	return out
}

// dnsNames returns the DNS names of the allow list, in lower case and without the dot at the end.
func (l *Lists) dnsNames() (list []string) {
	name := func(e *conf.Entry) {
		if _, ok := e.Prefixes(); !ok {
			list = append(list, foldName(e.Text))
		}
	}
	l.allow.entries(func(_ *listFile, e *conf.Entry) bool { name(e); return true })
	for text := range l.added {
		name(&conf.Entry{Text: text})
	}
	return list
}

func foldName(name string) string { return strings.TrimSuffix(strings.ToLower(name), ".") }

// saveEveryName is how old a saved answer may be that is still the same.
const saveEveryName = time.Hour

// noteNames adds the last good answers that are not saved yet, so that they count after a restart without a resolver.
func (l *Lists) noteNames(notes map[string]string) {
	answers := l.names.Answers()
	for name, a := range answers {
		if len(a.Addrs) == 0 {
			continue
		}
		note := noteName + name
		var saved names.Answer
		_ = json.Unmarshal([]byte(l.saved[note]), &saved) // nothing is saved yet
		if slices.Equal(saved.Addrs, a.Addrs) && a.At.Sub(saved.At) < saveEveryName {
			continue
		}
		if text, err := json.Marshal(names.Answer{Addrs: a.Addrs, At: a.At}); err == nil {
			notes[note], l.saved[note] = string(text), string(text)
		}
	}
	for note := range l.saved {
		if _, wanted := answers[strings.TrimPrefix(note, noteName)]; !wanted {
			notes[note] = ""
			delete(l.saved, note)
		}
	}
}

// Add adds an entry by command, in the place of one with the same text. The caller applies the list, and saves the notes.
func (l *Lists) Add(req control.AllowRequest) (entry control.Entry, notes map[string]string, err error) {
	text, err := spell(req)
	if err != nil {
		return control.Entry{}, nil, err
	}
	if _, again := l.added[text]; !again && len(l.added) >= maxAdded {
		return control.Entry{}, nil, refuse("there are already %d added entries; delete some, or use a file in %s", maxAdded, l.allow.path)
	}
	a := added{Author: req.Author, Note: req.Note, Since: time.Now(), Fleet: req.Origin}
	if req.Fleet {
		a.Fleet = here
	}
	if req.For > 0 {
		until := a.Since.Add(req.For)
		a.Until = &until
	}
	saved, err := json.Marshal(a)
	if err != nil {
		return control.Entry{}, nil, err
	}
	l.added[text] = a
	return l.showAdded(text, a), map[string]string{noteAllow + text: string(saved)}, nil
}

// Delete removes an entry that was added by command. The caller applies the list, and saves the notes.
func (l *Lists) Delete(req control.AllowRequest) (entry control.Entry, notes map[string]string, err error) {
	req.Force = true // an entry that is there may go
	text, err := spell(req)
	if err != nil {
		return control.Entry{}, nil, err
	}
	a, there := l.added[text]
	if !there {
		return control.Entry{}, nil, l.notAdded(text)
	}
	delete(l.added, text)
	return l.showAdded(text, a), map[string]string{noteAllow + text: ""}, nil
}

// Shared returns the entries that own hosts have added here: the one of that ID, or all others.
func (l *Lists) Shared(id string) (entries []string) {
	for text, a := range l.added {
		if a.Fleet != "" && a.Fleet != here && (id == "" || a.Fleet == id) {
			entries = append(entries, text)
		}
	}
	return entries
}

// Entry returns how an entry that was added by command is shown now, if it is still there.
func (l *Lists) Entry(text string) (entry control.Entry, there bool) {
	a, there := l.added[text]
	return l.showAdded(text, a), there
}

// spell returns the entry of a request in its one spelling.
func spell(req control.AllowRequest) (string, error) {
	list, errs := conf.ParseList("", []byte(req.Entry))
	switch {
	case len(errs) > 0:
		return "", refuse("%s", strings.TrimPrefix(errs[0].Error(), errs[0].Pos.String()+": "))
	case len(list) != 1:
		return "", refuse("%q is not an entry; write an address, network, range or host name", req.Entry)
	case req.For != 0 && req.For < time.Second:
		return "", refuse("an entry lasts at least a second, not %v", req.For)
	case len(req.Note) > control.MaxNote:
		return "", refuse("the note is longer than %d bytes", control.MaxNote)
	}
	prefixes, ok := list[0].Prefixes()
	if !ok {
		return foldName(list[0].Text), nil
	}
	if i := slices.IndexFunc(prefixes, exempt.TooWide); i >= 0 && !req.Force {
		return "", refuse("%s is wider than /16 (IPv6: /32), and no address in it would ever be banned: use --force to allow it nevertheless", prefixes[i])
	}
	if len(prefixes) == 1 && prefixes[0].IsSingleIP() {
		return prefixes[0].Addr().String(), nil
	}
	if len(prefixes) == 1 {
		return prefixes[0].String(), nil
	}
	all := prefixset.New(prefixes...).Ranges()[0]
	return fmt.Sprintf("%s-%s", all.First, all.Last), nil
}

// notAdded reports why an entry cannot be deleted.
func (l *Lists) notAdded(text string) (err error) {
	err = refuse("%s is not an entry of the allow list; see mefctl allow list", text)
	l.allow.entries(func(_ *listFile, e *conf.Entry) bool {
		spelled, wrong := spell(control.AllowRequest{Entry: e.Text, Force: true})
		if wrong != nil || spelled != text {
			return true
		}
		err = refuse("%s is an entry of %s; remove it there", text, e.Pos)
		return false
	})
	return err
}

func (l *Lists) showAdded(text string, a added) control.Entry {
	e := control.Entry{List: AllowList, Entry: text, Source: control.ByCommand, Author: a.Author, Note: a.Note, Since: &a.Since, Until: a.Until, Fleet: a.Fleet != ""}
	entry := conf.Entry{Text: text}
	if _, ok := entry.Prefixes(); !ok {
		e.Resolved = showName(l.names.Answers(), text)
	}
	return e
}

// showName returns what is known of a DNS name.
func showName(answers map[string]names.Answer, name string) *control.Resolved {
	a, wanted := answers[name]
	if !wanted {
		return &control.Resolved{Error: fmt.Sprintf("ignored: there are more than %d names", names.MaxNames)}
	}
	r := &control.Resolved{At: moment(a.At), Next: moment(a.Next), Error: a.Err}
	for _, addr := range a.Addrs {
		r.Addrs = append(r.Addrs, addr.String())
	}
	if a.Err != "" && len(a.Addrs) > 0 {
		r.Ends = moment(a.Ends())
	}
	if a.More > 0 {
		r.Error = strings.TrimPrefix(fmt.Sprintf("%s; %d more addresses are ignored", r.Error, a.More), "; ")
	}
	return r
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// warnings returns what is wrong with DNS names: those without an address, and those whose last good answer is running out.
func (l *Lists) warnings(now time.Time) (all []string) {
	answers := l.names.Answers()
	for _, name := range slices.Sorted(maps.Keys(answers)) {
		a := answers[name]
		switch left := a.Ends().Sub(now); {
		case a.Err == "":
		case len(a.Addrs) == 0:
			all = append(all, fmt.Sprintf("%s of the allow list has no address: %s", name, a.Err))
		case left < 6*24*time.Hour:
			all = append(all, fmt.Sprintf("%s of the allow list has not been resolved since %s and loses its addresses in %s: %s",
				name, a.At.Format(time.DateTime), left.Round(time.Hour), a.Err))
		}
	}
	return all
}
