package history

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"net/netip"
	"os"
	"strings"
	"time"

	"mef/internal/ban"
	"mef/internal/control"
)

// A kept is what is counted and saved.
type kept struct {
	file     *os.File // nil: it cannot be used
	problem  string   // why not
	services []string // those that have series
	renamed  bool     // services are to be saved
	ports    map[string]string

	minute, before    counts // of the present minute, and what an earlier run counted in it
	hourSum, daySum   counts
	now, hour, day    int64  // beginnings of the present minute, hour and day
	hourTops, dayTops tables // of the present hour, and of those of the present day before it

	sharing
	banNumber int64 // of the latest ban
	bansKept  int   // how many bans and unbans there were in the present minute
}

// restore takes over what the file has. What was counted before the file could be opened is added.
func (r *Recorder) restore(now time.Time) {
	r.turn(now)
	if b := header.read(r.file, 1, nil); len(b) >= causes*8 {
		for i := range r.drops {
			r.drops[i] = binary.BigEndian.Uint64(b[i*8:])
		}
		if names := string(b[causes*8:]); names != "" && len(r.services) == 0 { // otherwise there are numbers already
			r.services = strings.Split(names, "\n")
			r.services = r.services[:min(len(r.services), maxSeries-1)]
		}
	}
	r.before.decode(minutes.read(r.file, r.now, nil), minuteDrops.read(r.file, r.now, nil))
	r.hourSum.decode(hours.read(r.file, r.hour, nil), hourDrops.read(r.file, r.hour, nil))
	r.daySum.decode(days.read(r.file, r.day, nil), dayDrops.read(r.file, r.day, nil))
	r.hourTops.decode(hourly.read(r.file, r.hour, nil), -1)
	for at := r.day; at < r.hour; at += hourly.step {
		r.dayTops.decode(hourly.read(r.file, at, nil), -1)
	}
	r.banNumber = lastBan(r.file)
}

// over reports whether the present minute is over. A time shortly before it is that of a caller who read the clock before others, or an attempt in the
// inbox, began this minute: what is saved of the one before must not be begun anew. An earlier time is that of a clock that was set back.
func (r *Recorder) over(now time.Time) bool {
	at := minutes.start(now)
	return at > r.now || at < r.now-2*minutes.step
}

// turn begins a new minute, hour and day when it is time. What was counted is to be saved before.
func (r *Recorder) turn(now time.Time) {
	if !r.over(now) {
		return
	}
	r.now, r.before, r.bansKept = minutes.start(now), counts{}, 0
	if h := hours.start(now); h != r.hour {
		r.dayTops.merge(&r.hourTops, -1)
		r.dayTops.bound()
		r.hour, r.hourSum, r.hourTops = h, counts{}, tables{}
	}
	if d := days.start(now); d != r.day {
		r.day, r.daySum, r.dayTops = d, counts{}, tables{}
	}
}

// save writes what was counted since the last time, and begins a new minute.
func (r *Recorder) save(now time.Time) {
	r.collect()
	r.flush(now)
}

// flush is save without what is in the inbox.
func (r *Recorder) flush(now time.Time) {
	r.hourSum.add(&r.minute)
	r.daySum.add(&r.minute)
	r.before.add(&r.minute)
	r.minute = counts{}
	if r.file != nil && r.now != 0 {
		r.note(r.write())
	}
	r.turn(now)
}

// today returns the tables of the present day.
func (r *Recorder) today() (sum tables) {
	sum.merge(&r.dayTops, -1)
	sum.merge(&r.hourTops, -1)
	return sum
}

func (r *Recorder) write() error {
	head := make([]byte, 0, causes*8)
	for _, n := range r.drops {
		head = binary.BigEndian.AppendUint64(head, n)
	}
	head = append(head, strings.Join(r.services, "\n")...)
	today := r.today()
	minute, minuteDropped := r.before.encode()
	hour, hourDropped := r.hourSum.encode()
	day, dayDropped := r.daySum.encode()
	for _, w := range []struct {
		ring
		key  int64
		data []byte
	}{
		{header, 1, head}, {minutes, r.now, minute}, {hours, r.hour, hour}, {days, r.day, day},
		{minuteDrops, r.now, minuteDropped}, {hourDrops, r.hour, hourDropped}, {dayDrops, r.day, dayDropped},
		{hourly, r.hour, r.hourTops.encode()}, {daily, r.day, today.encode()},
	} {
		if err := w.write(r.file, w.key, w.data); err != nil {
			return err
		}
	}
	return nil
}

// roll counts what is in the inbox, and saves when a minute is over, although nobody has called save: the timer may be late.
func (r *Recorder) roll(now time.Time) {
	r.collect()
	if r.over(now) {
		r.flush(now)
	}
}

// count counts n events of a kind.
func (r *Recorder) count(kind int, service string, family int, n uint64) {
	if n == 0 {
		return
	}
	if service != "" {
		r.minute[ofService(r.serviceNumber(service), kind)] += n
	}
	r.minute[ofFamily(family, kind)] += n
}

// ban counts a ban and keeps it, and keeps an unban.
func (r *Recorder) ban(rec *control.Record, now time.Time) {
	r.roll(now)
	if r.bansKept++; r.file != nil && r.bansKept <= maxBansAMinute {
		r.banNumber++
		if err := bans.write(r.file, r.banNumber, encodeBan(rec)); err != nil {
			r.note(err)
		}
	}
	p, err := netip.ParsePrefix(rec.Prefix)
	if rec.Event != "ban" || err != nil {
		return
	}
	r.live.banned(p, rec.Rule, now)
	r.count(bansMade, rec.Service, family(p.Addr()), 1)
	r.hourTops.came.count(p.Addr(), labels{ports: rec.Ports, service: rec.Service, prefix: p}, 0, 1, now.Unix())
}

// labels are the labels of an event besides its address.
type labels struct {
	ports, service, name string
	prefix               netip.Prefix // of a ban
}

// count counts for the labels of an event.
func (t *tops) count(addr netip.Addr, l labels, n, banned uint64, at int64) {
	bits := 24
	if addr.Is6() {
		bits = 48
	}
	network, _ := addr.Prefix(bits)
	var text [2][64]byte
	source := text[0][:0]
	if l.prefix.IsValid() && !l.prefix.IsSingleIP() {
		source = l.prefix.AppendTo(source)
	} else {
		source = addr.AppendTo(source)
	}
	t[0].add(l.ports, n, banned, at)
	t[1].add(l.service, n, banned, at)
	t[2].addBytes(source, n, banned, at)
	t[3].addBytes(network.AppendTo(text[1][:0]), n, banned, at)
	t[4].add(l.name, n, banned, at)
}

const (
	// maxBans is how many bans and unbans are kept.
	maxBans = 4096
	// maxBansAMinute is how many bans of a minute are kept: a storm leaves room for those before it, and is not slowed down.
	maxBansAMinute = 1000
	// foundBans is how many of them are found at once.
	foundBans = 500
	// maxText is how much of a reason and of a note is kept, in bytes.
	maxText = 80
)

// encodeBan returns what is kept of a record of a ban: less than its slot has.
func encodeBan(rec *control.Record) []byte {
	cut := func(s string, n int) string { return strings.ToValidUTF8(s[:min(len(s), n)], "") }
	b := control.PastBan{Time: rec.Time.UTC(), Event: rec.Event, Prefix: rec.Prefix, Ports: cut(rec.Ports, 40), Class: rec.Class, Rule: cut(rec.Rule, 40),
		Service: cut(rec.Service, 40), Until: rec.Until, Reason: cut(rec.Reason, maxText), Author: cut(rec.Author, 40), Note: cut(rec.Note, maxText)}
	if p, err := netip.ParsePrefix(rec.Prefix); err == nil && rec.Event == "ban" && rec.Ports != control.ShowPorts("") && rec.Class == ban.Verified.String() {
		b.Reference = (&control.Ban{Prefix: ban.Key{Prefix: p}.String(), Ports: rec.Ports, Class: rec.Class, Start: rec.Time}).Reference()
	}
	for {
		text, err := json.Marshal(&b)
		if err == nil && len(text) <= banSize-slotHead {
			return text
		}
		b.Reason, b.Note = cut(b.Reason, len(b.Reason)/2), cut(b.Note, len(b.Note)/2) // bytes that JSON escapes take more room
		if b.Reason == "" && b.Note == "" {
			b.Ports, b.Author, b.Service = "", "", ""
		}
	}
}

// lastBan returns the number of the latest ban in a file.
func lastBan(f *os.File) (last int64) {
	buf := make([]byte, banSize)
	for n := range int64(maxBans) {
		number, data := bans.readAt(f, bans.slot(n), buf)
		if data != nil && number%maxBans == n {
			last = max(last, number)
		}
	}
	return last
}

// pastBans returns the latest bans of a file that match, the latest first.
func pastBans(ctx context.Context, f *os.File, last int64, query string, n int) ([]control.PastBan, error) {
	found := []control.PastBan{}
	if f == nil {
		return found, nil
	}
	if n <= 0 || n > foundBans {
		n = foundBans
	}
	addr, err := netip.ParseAddr(query)
	reference, referred := control.ReadReference(query)
	matches := func(b *control.PastBan) bool {
		if referred {
			return b.Reference == reference
		}
		if p, bad := netip.ParsePrefix(b.Prefix); err == nil && bad == nil {
			return p.Contains(addr)
		}
		for _, field := range []string{b.Prefix, b.Rule, b.Service, b.Reason, b.Author, b.Note} {
			if strings.Contains(field, query) {
				return true
			}
		}
		return false
	}
	buf := make([]byte, banSize)
	for number := last; number > max(0, last-maxBans) && len(found) < n && ctx.Err() == nil; number-- {
		var b control.PastBan
		if data := bans.read(f, number, buf); data != nil && json.Unmarshal(data, &b) == nil && matches(&b) {
			found = append(found, b)
		}
	}
	return found, ctx.Err()
}
