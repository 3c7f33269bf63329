package daemon

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"mef/internal/conf"
	"mef/internal/event"
	"mef/internal/host"
)

// A live says where one rule's lines come from now. Exactly one origin counts at a time, so that a line that the system
// writes to the journal and to a file is counted once.
type live struct {
	rule   *conf.Rule
	from   origin
	reason string
	fixed  bool // by source=journal or source=file

	// recent holds the latest records that this rule matched in files. When the rule moves to the journal, entries that
	// tell the same again are known by them.
	recent []matchedLine
	moved  time.Time // when the rule moved to the journal; zero if it never did
}

type matchedLine struct {
	at   time.Time
	line string
}

const (
	keptMatches = 64
	// overlap is how long after a move an entry may repeat what the file had said.
	overlap = time.Minute
)

type origin uint8

const (
	nowhere   origin = iota // neither is there yet: the first to appear is taken
	inJournal               // the journal
	inFiles                 // the rule's files
)

func (o origin) String() string { return [...]string{"none", "journal", "files"}[o] }

// newLive chooses the origin of a rule's lines: what the rule says, else the journal where the service's entries appear in
// it, else files that exist. programs are those that log to the journal; found tells whether a glob names a file.
func newLive(rule *conf.Rule, covers func(program string) bool, programs []string, found func(glob string) bool) *live {
	l := &live{rule: rule}
	switch rule.Source {
	case conf.SourceJournal:
		l.from, l.reason, l.fixed = inJournal, "the rule says source=journal", true
		return l
	case conf.SourceFile:
		l.from, l.reason, l.fixed = inFiles, "the rule says source=file", true
		return l
	}
	if i := slices.IndexFunc(programs, covers); i >= 0 {
		l.from, l.reason = inJournal, "the journal has entries of "+programs[i]
		return l
	}
	if i := slices.IndexFunc(rule.Files, found); i >= 0 {
		l.from, l.reason = inFiles, "the journal has no entries of "+rule.Name+", and "+rule.Files[i]+" is there"
		return l
	}
	l.reason = "neither journal entries nor files of " + rule.Name + " yet"
	return l
}

// counts tells whether a matched line from an origin counts, and moves the rule to another origin where the line shows that
// it should: to the journal whenever it has the service, to the files only if nothing was known.
func (l *live) counts(from origin, ev *event.Event) (counts, moves bool) {
	switch {
	case from == l.from:
		return !(from == inJournal && l.repeats(ev)), false
	case l.fixed:
		return false, false
	case from == inJournal && ev.Echo:
		// PAM tells of failures in the journal for services that themselves log to a file (vsftpd): that does not make the
		// journal their source, and their own lines tell the same in other words.
		return l.from == nowhere, false
	case from == inJournal:
		l.from, l.reason, l.moved = inJournal, "the journal has entries of "+l.rule.Name, ev.Time
		return !l.repeats(ev), true
	case l.from == nowhere:
		l.from, l.reason = inFiles, "lines of "+l.rule.Name+" appeared in "+ev.Position.Stream
		return true, true
	}
	return false, false
}

// remember keeps a counted line of a file.
func (l *live) remember(ev *event.Event) {
	if l.fixed || l.from != inFiles {
		return
	}
	if len(l.recent) == keptMatches {
		l.recent = l.recent[:copy(l.recent, l.recent[1:])]
	}
	l.recent = append(l.recent, matchedLine{ev.Time, ev.Line})
}

// repeats reports whether a journal entry tells what a line of a file told before the rule moved to the journal. Each line
// answers for one entry.
func (l *live) repeats(ev *event.Event) bool {
	if len(l.recent) == 0 {
		return false
	}
	if ev.Time.Sub(l.moved) > overlap {
		l.recent = nil
		return false
	}
	for i, m := range l.recent {
		if endsWith(m.line, ev.Line) {
			l.recent = append(l.recent[:i], l.recent[i+1:]...)
			return true
		}
	}
	return false
}

// endsWith reports whether a file's line ends with a journal's message. Both may have been cut to the size of evidence.
func endsWith(line, message string) bool {
	i := strings.Index(line, message[:min(len(message), 32)])
	return i >= 0 && strings.HasPrefix(message, line[i:])
}

// unheard names the services that strangers can reach, that a rule is about, and of whose failed logins nobody hears: no source has
// lines of theirs. What is known of a listener to a daemon that is not root is its system unit.
func (e *loop) unheard(listeners []host.Listener) (all []string) {
	said := make(map[string]bool)
	for _, l := range listeners {
		unit := l.Unit
		if name, socket := strings.CutSuffix(unit, ".socket"); socket {
			unit = name + ".service"
		}
		var silent *live
		for _, name := range slices.Sorted(maps.Keys(e.lives)) {
			if !e.set.Serves(name, unit) {
				continue
			}
			if silent = e.lives[name]; silent.from != nowhere {
				silent = nil
				break
			}
		}
		if silent != nil && !l.Local() && !said[unit] {
			said[unit] = true
			all = append(all, fmt.Sprintf("%s listens on %s port %d, and rule %s has no live source: %s", unit, l.Protocol, l.Port, silent.rule.Name, silent.reason))
		}
	}
	return all
}
