package journal

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"time"

	"mef/internal/event"
	"mef/internal/run"
)

// Bounds on what Seen looks at, for anybody may fill the journal.
const (
	maxIdentifiers = 64               // programs that are wanted
	maxLooked      = 10_000           // newest entries of each
	maxLooking     = 20 * time.Second // in all
)

// Seen tells which programs log to the journal: it returns, for each SYSLOG_IDENTIFIER that wanted accepts, when the newest
// entry was written that trusted accepts. Identifiers without such an entry within the last age are absent. The error wraps
// ErrNoJournal if there is nothing to look at.
func Seen(ctx context.Context, opt Options, age time.Duration, wanted func(identifier string) bool, trusted func(*event.Entry) bool) (map[string]time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, maxLooking)
	defer cancel()
	names, err := identifiers(ctx, opt, wanted)
	if err != nil {
		return nil, fmt.Errorf("list programs in the journal: %w", err)
	}
	oldest := time.Now().Add(-age)
	seen := map[string]time.Time{}
	for _, name := range names {
		at, err := newest(ctx, opt, name, oldest, trusted)
		if err != nil {
			return seen, fmt.Errorf("look for %q in the journal: %w", name, err)
		}
		if !at.IsZero() {
			seen[name] = at
		}
	}
	return seen, nil
}

// identifiers returns the SYSLOG_IDENTIFIERs that the journal ever had and that are wanted.
func identifiers(ctx context.Context, opt Options, wanted func(string) bool) (names []string, err error) {
	p, err := start(ctx, opt, "--field=SYSLOG_IDENTIFIER")
	if err != nil {
		return nil, err
	}
	found := 0
	lines := bufio.NewScanner(p.Stdout)
	for lines.Scan() && len(names) < maxIdentifiers {
		found++
		if name := lines.Text(); wanted(name) {
			names = append(names, name)
		}
	}
	full := len(names) == maxIdentifiers || lines.Err() != nil
	if err := end(p, full); err != nil {
		return nil, err
	}
	if found == 0 {
		return nil, ErrNoJournal
	}
	return names, nil
}

// newest returns when the newest entry of a program was written that is trusted; the zero time if there is none.
func newest(ctx context.Context, opt Options, name string, oldest time.Time, trusted func(*event.Entry) bool) (time.Time, error) {
	p, err := start(ctx, opt, "--reverse", since(oldest), "SYSLOG_IDENTIFIER="+name)
	if err != nil {
		return time.Time{}, err
	}
	var in input
	var pool event.Pool
	b := pool.Get()
	defer b.Release()
	for looked := 0; looked < maxLooked; looked += len(in.entries) {
		err := in.read(b, p.Stdout)
		if err == io.EOF {
			return time.Time{}, end(p, false)
		}
		if err != nil {
			end(p, true)
			return time.Time{}, err
		}
		for i := range in.entries {
			if e := &in.entries[i]; string(e.Identifier) == name && trusted(&e.Entry) {
				return e.received(), end(p, true)
			}
		}
	}
	return time.Time{}, end(p, true)
}

// end ends a journalctl, by force if enough was read of it.
func end(p *run.Process, enough bool) error {
	if enough {
		p.Kill()
		p.Wait() // says that it was killed
		return nil
	}
	return p.Wait()
}
