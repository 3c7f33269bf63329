package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/exempt"
	"mef/internal/names"
	"mef/internal/prefixset"
	"mef/internal/store"
)

// An added is an allow entry that somebody made by command. mef.db keeps it.
type added struct {
	Author string     `json:"author,omitempty"`
	Note   string     `json:"note,omitempty"`
	Since  time.Time  `json:"since"`
	Until  *time.Time `json:"until,omitempty"` // nil: until it is deleted
}

// maxAdded bounds the entries made by command.
const maxAdded = 10_000

// maxNote is how long a note may be, in bytes.
const maxNote = 1000

func (a added) over(now time.Time) bool { return a.Until != nil && !a.Until.After(now) }

// endAdded forgets the entries that are over, and has the next end told.
func (d *daemon) endAdded(now time.Time) {
	l := &d.lists
	notes := make(map[string]string)
	var next time.Time
	for text, a := range l.added {
		if a.over(now) {
			notes[noteAllow+text] = ""
			delete(l.added, text)
			d.records.Add(control.Record{Time: now, Event: "allow-end", Prefix: text, Author: a.Author, Note: a.Note, Reason: "its time is over"})
		} else if a.Until != nil && (next.IsZero() || a.Until.Before(next)) {
			next = *a.Until
		}
	}
	l.expiry.Stop()
	if !next.IsZero() {
		l.expiry.Reset(next.Sub(now))
	}
	d.saveNotes(notes)
}

func (d *daemon) saveNotes(notes map[string]string) {
	if len(notes) > 0 {
		d.saver.Save(store.Update{Notes: notes})
	}
}

// Allow adds an entry to the allow list. It returns once the kernel lets its addresses through and their bans are lifted; a DNS
// name has none yet then.
func (d *daemon) Allow(ctx context.Context, req control.AllowRequest) (control.Entry, error) {
	text, err := allowable(req)
	if err != nil {
		return control.Entry{}, err
	}
	a := added{Author: req.Author, Note: req.Note, Since: time.Now()}
	if req.For > 0 {
		until := a.Since.Add(req.For)
		a.Until = &until
	}
	saved, err := json.Marshal(a)
	if err != nil {
		return control.Entry{}, err
	}
	entry, err := ask(ctx, &d.keeper, func(ctx context.Context) (control.Entry, error) {
		if _, again := d.lists.added[text]; !again && len(d.lists.added) >= maxAdded {
			return control.Entry{}, refuse("%d entries are added already; delete some, or use a file in %s", maxAdded, d.cfg.Paths.WhitelistDir)
		}
		d.lists.added[text] = a
		d.saveNotes(map[string]string{noteAllow + text: string(saved)})
		err := d.fulfil(ctx, applyLists)
		return d.lists.showAdded(text, a), err
	})
	if err != nil {
		return control.Entry{}, err
	}
	d.flush(ctx)
	d.records.Add(control.Record{Time: a.Since, Event: "allow", Prefix: text, Until: a.Until, Author: a.Author, Note: a.Note})
	return entry, nil
}

// allowable returns the entry of a request in its one spelling.
func allowable(req control.AllowRequest) (string, error) {
	list, errs := conf.ParseList("", []byte(req.Entry))
	switch {
	case len(errs) > 0:
		return "", refuse("%s", strings.TrimPrefix(errs[0].Error(), errs[0].Pos.String()+": "))
	case len(list) != 1:
		return "", refuse("%q is no entry; write one address, network, range or host name", req.Entry)
	case req.For != 0 && req.For < time.Second:
		return "", refuse("an entry lasts a second at least, not %v", req.For)
	case len(req.Note) > maxNote:
		return "", refuse("the note is longer than %d bytes", maxNote)
	}
	prefixes, ok := list[0].Prefixes()
	if !ok {
		return foldName(list[0].Text), nil
	}
	if i := slices.IndexFunc(prefixes, exempt.TooWide); i >= 0 && !req.Force {
		return "", refuse("%s is wider than /16 (IPv6: /32), and nobody in it would ever be banned: use --force if it is meant", prefixes[i])
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

// Disallow takes back an entry that was added by command.
func (d *daemon) Disallow(ctx context.Context, req control.AllowRequest) (control.Entry, error) {
	req.Force = true // an entry that is there may go
	text, err := allowable(req)
	if err != nil {
		return control.Entry{}, err
	}
	entry, err := ask(ctx, &d.keeper, func(ctx context.Context) (control.Entry, error) {
		a, there := d.lists.added[text]
		if !there {
			return control.Entry{}, d.lists.notAdded(text)
		}
		entry := d.lists.showAdded(text, a)
		delete(d.lists.added, text)
		d.saveNotes(map[string]string{noteAllow + text: ""})
		return entry, d.fulfil(ctx, applyLists)
	})
	if err != nil {
		return control.Entry{}, err
	}
	d.flush(ctx)
	d.records.Add(control.Record{Time: time.Now(), Event: "allow-end", Prefix: text, Author: req.Author})
	return entry, nil
}

// notAdded says why an entry cannot be taken back.
func (l *listKeeper) notAdded(text string) error {
	for _, e := range entriesOf(l.white) {
		if spelled, err := allowable(control.AllowRequest{Entry: e.Text, Force: true}); err == nil && spelled == text {
			return refuse("%s stands in %s; take it out there", text, e.Pos)
		}
	}
	return refuse("%s is no entry of the allow list; mefctl allow list shows them", text)
}

// Names of the lists in answers.
const (
	listAllow = "whitelist"
	listBlock = "blacklist"
)

// Lists returns the lists: both, or the one of that name.
func (d *daemon) Lists(ctx context.Context, only string) (control.Lists, error) {
	if only != "" && only != listAllow && only != listBlock {
		return control.Lists{}, refuse("no list %q; there are %s and %s", only, listAllow, listBlock)
	}
	return ask(ctx, &d.keeper, func(ctx context.Context) (control.Lists, error) {
		// Programs that read JSON want lists, if empty ones.
		out := control.Lists{Files: []control.ListFile{}, Entries: []control.Entry{}}
		l := &d.lists
		if only != listBlock {
			l.show(&out, listAllow, d.cfg.Paths.WhitelistDir, l.whiteErr, l.white)
			for _, text := range slices.Sorted(maps.Keys(l.added)) {
				out.Entries = append(out.Entries, l.showAdded(text, l.added[text]))
			}
		}
		if only != listAllow {
			begin := len(out.Entries)
			l.show(&out, listBlock, d.cfg.Paths.BlacklistDir, l.blackErr, l.black)
			protected, err := query(ctx, d.loop, d.neverListed)
			if err != nil {
				return out, err
			}
			l.explainBlock(out.Entries[begin:], protected)
		}
		return out, nil
	})
}

// show adds the files of a list.
func (l *listKeeper) show(out *control.Lists, list, dir, dirErr string, files []conf.ListFile) {
	if dirErr != "" {
		out.Files = append(out.Files, control.ListFile{List: list, Path: dir, Errors: []string{dirErr}})
	}
	for _, f := range files {
		shown := control.ListFile{List: list, Path: f.Path, Size: f.Size, Modified: f.Modified, Entries: len(f.Entries)}
		for _, err := range f.Errors {
			shown.Errors = append(shown.Errors, err.Error())
		}
		out.Files = append(out.Files, shown)
		answers := l.names.Answers()
		for _, e := range f.Entries {
			entry := control.Entry{List: list, Entry: e.Text, Source: e.Pos.String(), Note: e.Note}
			if _, ok := e.Prefixes(); !ok && list == listAllow {
				entry.Resolved = showName(answers, foldName(e.Text))
			}
			out.Entries = append(out.Entries, entry)
		}
	}
}

// tooMany is why an entry is left out with which nothing else is wrong: the entries before it have lists.MaxBlocked networks.
const tooMany = "left out: there is room for 100,000 networks, which the entries before it have"

// explainBlock says of the entries of the blacklist files, in order, why they ban nobody.
func (l *listKeeper) explainBlock(shown []control.Entry, protected prefixset.Set) {
	full := false
	for i, e := range entriesOf(l.black) {
		full = full || e.Pos == l.full
		if shown[i].Error = blockError(e, protected); full && shown[i].Error == "" {
			shown[i].Error = tooMany
		}
	}
}

// blockError says why an entry of a blacklist bans nobody, "" if there is somebody whom it bans.
func blockError(e conf.Entry, protected prefixset.Set) string {
	prefixes, ok := e.Prefixes()
	switch {
	case !ok:
		return "a name is not resolved here: names can be made to mean anybody"
	case slices.ContainsFunc(prefixes, exempt.TooWide):
		return "wider than /16 (IPv6: /32): left out"
	case prefixset.New(prefixes...).Subtract(protected).Len() == 0:
		return "never banned: the allow list has it, this host needs it, or no host elsewhere can have it"
	}
	return ""
}

func (l *listKeeper) showAdded(text string, a added) control.Entry {
	e := control.Entry{List: listAllow, Entry: text, Source: control.ByCommand, Author: a.Author, Note: a.Note, Since: &a.Since, Until: a.Until}
	if prefix := conf.Addrs([]conf.Entry{{Text: text}}); prefix.Equal(prefixset.Set{}) {
		e.Resolved = showName(l.names.Answers(), text)
	}
	return e
}

// showName says how a DNS name fares.
func showName(answers map[string]names.Answer, name string) *control.Resolved {
	a, wanted := answers[name]
	if !wanted {
		return &control.Resolved{Error: fmt.Sprintf("left out: there are more than %d names", names.MaxNames)}
	}
	r := &control.Resolved{At: moment(a.At), Next: moment(a.Next), Error: a.Err}
	for _, addr := range a.Addrs {
		r.Addrs = append(r.Addrs, addr.String())
	}
	if a.Err != "" && len(a.Addrs) > 0 {
		r.Ends = moment(a.Ends())
	}
	if a.More > 0 {
		r.Error = strings.TrimPrefix(fmt.Sprintf("%s; %d more addresses do not count", r.Error, a.More), "; ")
	}
	return r
}

// warnNames returns what is wrong with the names: those without an address, and those whose last good answer is running out.
func (l *listKeeper) warnNames(now time.Time) (all []string) {
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
