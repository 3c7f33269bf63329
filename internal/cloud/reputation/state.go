package reputation

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// A header begins the saved form of a Book, which is a sequence of JSON values: the header, then each record.
type header struct {
	Now, Sweep Hour
	Reporters  []*Reporter
	Trust      []int64 // of the reporters, in this hour
	Records    int
}

type saved struct {
	Key netip.Prefix
	*record
	InOwn bool
}

// Save writes what the Book holds, for Load: a Book that was saved and loaded goes on like one that was not. It must be settled. Changes that nobody
// has fetched are not part of it.
func (b *Book) Save(w io.Writer) error {
	enc := json.NewEncoder(w)
	h := header{Now: b.now, Sweep: b.sweep, Reporters: b.reporters, Records: len(b.records)}
	for _, r := range b.reporters {
		h.Trust = append(h.Trust, r.trust)
	}
	if err := enc.Encode(h); err != nil {
		return err
	}
	for key, rec := range b.records {
		if err := enc.Encode(saved{key, rec, rec.own}); err != nil {
			return err
		}
	}
	return nil
}

// Load returns the Book that was saved. It never returns part of one.
func Load(r io.Reader, opt Options) (*Book, error) {
	b := New(opt)
	d := json.NewDecoder(r)
	var h header
	if err := d.Decode(&h); err != nil {
		return nil, fmt.Errorf("reputation: %w", err)
	}
	b.now, b.sweep = h.Now, h.Sweep
	for _, rep := range h.Reporters {
		if rep == nil {
			return nil, errors.New("reputation: a reporter is missing")
		}
		b.byID[rep.ID] = len(b.reporters)
		b.add(rep)
	}
	for i, t := range h.Trust { // what a reporter has earned or lost in this hour counts from the next one on
		if i < len(b.reporters) {
			b.reporters[i].trust = t
		}
	}
	for range h.Records {
		s := saved{record: new(record)}
		if err := d.Decode(&s); err != nil {
			return nil, fmt.Errorf("reputation: %w", err)
		}
		for _, c := range s.Claims {
			if c.By < 0 || c.By >= len(b.reporters) {
				return nil, fmt.Errorf("reputation: %s has a report of nobody", s.Key)
			}
		}
		for _, v := range s.Votes {
			if v.By < 0 || v.By >= len(b.reporters) {
				return nil, fmt.Errorf("reputation: %s has a vote of nobody", s.Key)
			}
		}
		s.own = s.InOwn
		b.records[s.Key] = s.record
	}
	return b, nil
}
