package history

import (
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"mef/internal/control"
)

// What is counted over time: for each service and each family of addresses the kinds of events, and the packets that the kernel dropped by cause.
const (
	attempts = iota
	targeted
	logins
	bansMade
	kinds
)

const (
	maxSeries = 32 // services with series of their own; further ones are added up as the last
	families  = 2
	causes    = 4
	oldCells  = (maxSeries+families)*kinds + causes
	cells     = oldCells + maxSeries + families
)

var (
	kindNames   = [kinds]string{control.KindAttempts, control.KindTargeted, control.KindLogins, control.KindBans}
	familyNames = [families]string{"ipv4", "ipv6"}
	causeNames  = [causes]string{"ban", "unverified_ban", "reply", "list"}
)

// otherServices is the name of the series of services that have none of their own.
const otherServices = "other"

// counts are the counters of a minute, an hour or a day.
type counts [cells]uint64

func (c *counts) add(o *counts) {
	for i, n := range o {
		c[i] += n
	}
}

// encode returns the counters, of which those of dropped packets by service and family are kept in a slot of their own: files of earlier versions
// have none.
func (c *counts) encode() (b, dropped []byte) {
	all := make([]byte, 0, len(c)*8)
	for _, n := range c {
		all = binary.BigEndian.AppendUint64(all, n)
	}
	return all[:oldCells*8], all[oldCells*8:]
}

// decode adds what encode returned.
func (c *counts) decode(b, dropped []byte) {
	for i := range c {
		if i == oldCells {
			b = dropped
		}
		if len(b) < 8 {
			continue
		}
		c[i] += binary.BigEndian.Uint64(b)
		b = b[8:]
	}
}

// ofService, ofFamily, ofCause, ofDropsTo and ofDropsIn return where a counter is.
func ofService(service, kind int) int { return service*kinds + kind }
func ofFamily(family, kind int) int   { return (maxSeries+family)*kinds + kind }
func ofCause(cause int) int           { return (maxSeries+families)*kinds + cause }
func ofDropsTo(service int) int       { return oldCells + service }
func ofDropsIn(family int) int        { return oldCells + maxSeries + family }

// serviceNumber returns the number of a service, which it gets when it is first counted.
func (r *Recorder) serviceNumber(name string) int {
	if i := slices.Index(r.services, name); i >= 0 {
		return i
	}
	if len(r.services) == maxSeries-1 || len(name) > 100 || strings.Contains(name, "\n") {
		return maxSeries - 1
	}
	r.services = append(r.services, name)
	r.renamed = true
	return len(r.services) - 1
}

func (r *Recorder) serviceName(i int) string {
	if i < len(r.services) {
		return r.services[i]
	}
	return otherServices
}

// A window is a span of time that is asked about.
type window struct {
	rows   ring  // that have its series
	drops  ring  // that have those of dropped packets
	each   int64 // rows that make a value
	n      int64 // values
	tables ring
	last   int64 // tables
}

// windows are those that may be asked for.
var windows = map[string]window{
	"hour":  {minutes, minuteDrops, 1, 60, hourly, 2},
	"day":   {minutes, minuteDrops, 10, 144, hourly, 25},
	"month": {hours, hourDrops, 1, 31 * 24, daily, 31},
	"year":  {days, dayDrops, 1, 366, daily, 366},
}

// history returns the series of a window that ends now, those that are not zero all the time.
func (r *Recorder) history(name string, now time.Time) (control.History, error) {
	w, ok := windows[name]
	if !ok {
		return control.History{}, control.Refuse("window %q is not hour, day, month or year", name)
	}
	end := w.rows.start(now) + w.rows.step
	if w.rows == minutes {
		end -= w.rows.step // the present minute is not over
	}
	step := w.rows.step * w.each
	start := end - step*w.n
	values := make([][]uint64, cells)
	buf, dropped := make([]byte, w.rows.size), make([]byte, w.drops.size)
	for at := start; at < end; at += w.rows.step {
		var c counts
		if r.file != nil {
			c.decode(w.rows.read(r.file, at, buf), w.drops.read(r.file, at, dropped))
		}
		switch {
		case w.rows == hours && at == r.hour, w.rows == days && at == r.day:
			c.add(&r.minute) // is in no row yet
		}
		for i, n := range c {
			if n > 0 {
				if values[i] == nil {
					values[i] = make([]uint64, w.n)
				}
				values[i][(at-start)/step] += n
			}
		}
	}
	h := control.History{Start: time.Unix(start, 0).UTC(), Step: time.Duration(step) * time.Second, Series: []control.Series{}}
	add := func(kind, of, label string, i int) {
		if values[i] != nil {
			h.Series = append(h.Series, control.Series{Kind: kind, Of: of, Label: label, Values: values[i]})
		}
	}
	for k, kind := range kindNames {
		for s := range maxSeries {
			add(kind, control.OfService, r.serviceName(s), ofService(s, k))
		}
		for f, family := range familyNames {
			add(kind, control.OfFamily, family, ofFamily(f, k))
		}
	}
	for s := range maxSeries {
		add(control.KindDrops, control.OfService, r.serviceName(s), ofDropsTo(s))
	}
	for f, family := range familyNames {
		add(control.KindDrops, control.OfFamily, family, ofDropsIn(f))
	}
	for c, cause := range causeNames {
		add(control.KindDrops, control.OfCause, cause, ofCause(c))
	}
	return h, nil
}

// stats returns the first n rows of a table over a window.
func (r *Recorder) stats(name, by string, n int, now time.Time) (control.Stats, error) {
	w, ok := windows[name]
	d := slices.Index(dimensions[:], by)
	switch {
	case !ok:
		return control.Stats{}, control.Refuse("window %q is not hour, day, month or year", name)
	case d < 0:
		return control.Stats{}, control.Refuse("%q is not one of %s", by, strings.Join(dimensions[:], ", "))
	}
	var sum tables
	buf := make([]byte, w.tables.size)
	end := w.tables.start(now)
	first := end - (w.last-1)*w.tables.step
	for at := first; at <= end; at += w.tables.step {
		switch {
		case w.tables == hourly && at == r.hour:
			sum.merge(&r.hourTops, d)
		case w.tables == daily && at == r.day:
			sum.merge(&r.dayTops, d)
			sum.merge(&r.hourTops, d)
		case r.file != nil:
			sum.decode(w.tables.read(r.file, at, buf), d)
		}
	}
	if n <= 0 || n > control.MaxStats {
		n = control.MaxStats
	}
	return control.Stats{Since: time.Unix(first, 0).UTC(), By: by, Rows: shown(&sum.came[d], &sum.dropped[d], n)}, nil
}

func moment(unix int64) time.Time { return time.Unix(unix, 0).UTC() }
