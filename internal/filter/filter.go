// Package filter turns log lines into events: it finds the program that wrote a line, the rules that know the program, and
// among their patterns the one that recognizes the message.
//
// # From rules to a view
//
// Compile checks rules and makes a Set of them. A View is what one goroutine uses to match lines against some rules of the
// Set, for instance those that read one file; its Views share what is compiled. A message meets only the rules that name its program, and the patterns of all
// of these are joined into one machine (package tdfa), so that it is read once whatever the number of patterns.
//
// # Which pattern decides
//
// The first that matches: rules in the order of the Set, and within a rule failures, attempts, echoes, probes, orphans, peers and
// successes, each in the order of the file. Successes are last, so that a line that can be read as hostile is never a login.
// Ignore patterns are looked at only when another pattern of the rule matched; they win over all of them.
//
// # Trusted writers
//
// A program that can write a line can make mef ban an address, so the writer matters. A file does not record it; the header is read strictly
// (see parseHeader), so that at least no message poses as another program's. In the journal, journald records the writer of an entry, and a
// rule trusts only its own daemon (see rule.trusts).
package filter

import (
	"embed"
	"hash/fnv"
	"io"
	"io/fs"

	"mef/internal/conf"
)

//go:embed shipped/*.conf
var shipped embed.FS

// Shipped returns the rules that come with the program: a file NAME.conf for each, in the format of rules.d.
func Shipped() fs.FS {
	sub, err := fs.Sub(shipped, "shipped")
	if err != nil {
		panic(err) // the name is a valid path
	}
	return sub
}

// A Set is rules compiled. It does not change; goroutines may share it.
type Set struct {
	rules []*rule
}

// A rule is a conf.Rule ready for matching.
type rule struct {
	*conf.Rule
	place    int       // in the Set
	hash     uint64    // of the name
	uids     []uint32  // of UIDs, those that exist
	patterns []pattern // in the order in which they decide
	ignore   []string

	correlates    bool // has orphan patterns, so that its sessions are followed
	namesSessions bool // has patterns with a group "session", so that the process ID is no session
}

// A verdict is what a line means that a pattern matches.
type verdict uint8

const (
	failure verdict = iota
	attempt
	echo
	probe
	orphan
	peer
	success
)

// A pattern is a conf.Pattern and what its matches mean.
type pattern struct {
	rule         *rule
	text         string
	whole        bool // it is about whole lines, date and all
	verdict      verdict
	form         uint8 // place among the rule's patterns
	namesSession bool  // it has a group "session"
}

// An Option changes how rules are compiled.
type Option func(*options)

type options struct {
	lookupUser func(name string) (uid uint32, ok bool)
}

// WithUsers sets how the user names of uids= become numbers. Without it, only numbers and "root" are known. A name that is
// not known is left out: where the account does not exist, no process runs under it.
func WithUsers(lookup func(name string) (uid uint32, ok bool)) Option {
	return func(o *options) { o.lookupUser = lookup }
}

// Compile makes a Set of the rules that are enabled. Each pattern that is no regular expression, or that lacks the group
// it needs, is an error at its place; the Set is nil if there are any.
func Compile(rules []conf.Rule, opts ...Option) (*Set, conf.Errors) {
	o := options{lookupUser: func(string) (uint32, bool) { return 0, false }}
	for _, opt := range opts {
		opt(&o)
	}
	var errs conf.Errors
	set := new(Set)
	for i := range rules {
		if !rules[i].Enabled {
			continue
		}
		r, ruleErrs := compileRule(&rules[i], o)
		r.place = len(set.rules)
		errs = append(errs, ruleErrs...)
		set.rules = append(set.rules, r)
	}
	if len(errs) > 0 {
		return nil, errs
	}
	return set, nil
}

func compileRule(c *conf.Rule, o options) (*rule, conf.Errors) {
	r := &rule{Rule: c, uids: uids(c.UIDs, o.lookupUser), correlates: len(c.Orphan) > 0}
	name := fnv.New64a()
	io.WriteString(name, c.Name)
	r.hash = name.Sum64()
	var errs conf.Errors
	if c.Web != nil {
		return r, nil // package webscan reads its lines
	}
	for _, group := range []struct {
		verdict  verdict
		patterns []conf.Pattern
	}{{failure, c.Fail}, {attempt, c.Attempt}, {echo, c.Echo}, {probe, c.Probe}, {orphan, c.Orphan}, {peer, c.Peer}, {success, c.OK}} {
		for _, text := range group.patterns {
			p, err := compilePattern(text, group.verdict, c.JSON != nil && len(c.JSON.Addr) > 0)
			p.rule = r
			p.form = uint8(len(r.patterns))
			if err != nil {
				errs = append(errs, err)
			}
			r.patterns = append(r.patterns, p)
			r.namesSessions = r.namesSessions || p.namesSession
		}
	}
	for _, text := range c.Ignore {
		re, err := compileRegexp(text)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		r.ignore = append(r.ignore, anchor(text.Text, re))
	}
	return r, errs
}

// Inherit takes over the sessions of old, so that lines are understood whose earlier lines old has read. Rules are identified by name. The old view must not be used afterwards.
func (v *View) Inherit(old *View) {
	v.sessions, v.number, v.carrier = old.sessions, old.number, old.carrier
}
