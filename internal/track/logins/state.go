package logins

import (
	"bytes"
	"cmp"
	"slices"

	"mef/internal/track/netkey"
	"mef/internal/track/record"
)

// Kind is the first byte of a key; the rest is the address, the service, a zero byte and the user name.
const Kind = 'l'

// Version is that of a value's form; the first version is not read any more.
const Version = 2

func key(p *record.Pack, of Pair) {
	p.Begin(Kind)
	p.Writer = of.From.AppendTo(p.Writer)
	p.Writer = append(append(append(p.Writer, of.Service...), 0), of.User...)
}

// Changes adds to p what has changed since the last call.
func (t *Table) Changes(p *record.Pack) {
	for _, of := range t.gone {
		key(p, of)
		p.Remove()
	}
	t.gone = nil
	if !t.changed {
		return
	}
	t.changed = false
	for _, list := range []*list{&t.known, &t.strays} {
		for l := range list.All() {
			if l.flags&dirty != 0 {
				l.flags = stored
				key(p, l.Pair)
				p.Value(Version)
				p.Int(l.Last)
				p.Int(l.At)
				p.Int(l.Counted)
				p.Float(l.Spent)
				p.Float(l.Points)
				p.End(false)
			}
		}
	}
}

// Read returns the login of a key, without its kind, whose value r reads.
func Read(r *record.Reader, rest []byte) *Login {
	l := &Login{Last: r.Int(), At: r.Int(), Counted: r.Int(), Spent: r.Float(), Points: r.Float(), flags: stored}
	from, ok := netkey.Parse(rest[:min(netkey.Size, len(rest))])
	if !ok {
		r.Fail()
		return l
	}
	service, user, ok := bytes.Cut(rest[netkey.Size:], []byte{0})
	if !ok {
		r.Fail()
	}
	l.Pair = Pair{from, string(service), string(user)}
	return l
}

// Restore enters logins and guests that were read into an empty table, the oldest first.
func (t *Table) Restore(saved []*Login) {
	slices.SortFunc(saved, func(a, b *Login) int {
		return cmp.Or(cmp.Compare(a.Last, b.Last), cmp.Compare(a.User, b.User), bytes.Compare(a.From.Addr[:], b.From.Addr[:]))
	})
	guests := slices.IndexFunc(saved, func(l *Login) bool { return l.Last != 0 })
	if guests < 0 {
		guests = len(saved)
	}
	for _, l := range saved[guests:] {
		t.makeRoom(l.Pair)
		t.add(l)
		t.known.Add(l)
		if l.At > l.Last { // whether that was lately is found out when they are counted
			if t.failed[l.From] == nil {
				t.failed[l.From] = new(failed)
			}
			t.failed[l.From].users++
		}
	}
	saved = saved[:guests]
	slices.SortStableFunc(saved, func(a, b *Login) int { return cmp.Compare(a.At, b.At) })
	for _, l := range saved[max(0, len(saved)-t.limits.Total):] {
		t.guests[l.Pair] = l
		t.guest[l.From]++
		t.strays.Add(l)
	}
}
