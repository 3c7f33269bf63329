// Package offline connects the stages that need neither kernel nor daemon: the same rules and filters, over the lines of files.
//
// It serves mefctl match, replay, config check and other commands that show what would be banned.
package offline

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"

	"mef/internal/conf"
	"mef/internal/conf/mefconf"
	"mef/internal/conf/rulefile"
	"mef/internal/engine"
	"mef/internal/event"
	"mef/internal/filter"
	"mef/internal/host"
)

// ErrUnknownService is wrapped by the error for a service that no rule covers.
var ErrUnknownService = errors.New("unknown service")

// Load reads the configuration at path and everything it names. The error is conf.Errors.
func Load(path string) (*conf.Config, error) { return mefconf.Load(path, filter.Shipped()) }

// Check reads the configuration at path and everything it names, compiles the rules, and returns every mistake. cfg is nil
// if mef.conf itself could not be read; err is for what is no mistake in a file.
func Check(path string) (cfg *conf.Config, mistakes conf.Errors, err error) {
	cfg, err = Load(path)
	if err != nil && !errors.As(err, &mistakes) {
		return cfg, nil, err
	}
	if cfg != nil {
		_, errs := filter.Compile(cfg.Rules)
		mistakes = append(mistakes, errs...)
		mistakes = append(mistakes, canaries(cfg, host.Accounts())...)
		mistakes = append(mistakes, cfg.ListErrors...)
	}
	return cfg, mistakes, nil
}

// canaries returns a mistake for each canary that is an account of this host: its own user would be banned.
func canaries(cfg *conf.Config, accounts []host.Account) (mistakes conf.Errors) {
	var pos conf.Pos
	for _, o := range cfg.Origins {
		if o.Key == "canaries" {
			pos = o.Pos
		}
	}
	for _, c := range cfg.Canaries {
		if slices.ContainsFunc(accounts, func(a host.Account) bool { return engine.AccountName(a.Name) == engine.AccountName(c) }) {
			mistakes = append(mistakes, &conf.Error{Pos: pos, Msg: fmt.Sprintf("canary %q is an account of this host; its user would be banned", c),
				Hint: "name users that do not exist and that nobody types by mistake"})
		}
	}
	return mistakes
}

// A Matcher runs lines through rules.
type Matcher struct {
	view *filter.View
}

// ForService returns a Matcher with the rules of one service, or with all enabled rules if service is empty.
func ForService(rules []conf.Rule, service string) (*Matcher, error) {
	rules, err := rulesOf(rules, service)
	if err != nil {
		return nil, err
	}
	return newMatcher(rules)
}

// rulesOf returns the rules of one service, or all of them if service is empty.
func rulesOf(rules []conf.Rule, service string) ([]conf.Rule, error) {
	if service == "" {
		return rules, nil
	}
	rules = slices.Clone(rules)
	rules = slices.DeleteFunc(rules, func(r conf.Rule) bool { return r.Service != service && r.Name != service })
	if len(rules) == 0 {
		return nil, fmt.Errorf("%w %q", ErrUnknownService, service)
	}
	return rules, nil
}

// ForRule returns a Matcher with the one rule of a file.
func ForRule(path string) (*Matcher, error) {
	rule, err := rulefile.Load(path)
	if err != nil {
		return nil, err
	}
	return newMatcher([]conf.Rule{rule})
}

func newMatcher(rules []conf.Rule) (*Matcher, error) {
	set, errs := filter.Compile(rules)
	if err := errs.Err(); err != nil {
		return nil, err
	}
	return &Matcher{set.View(func(r *conf.Rule) bool { return r.Enabled })}, nil
}

// Services returns the names that ForService knows, sorted.
func Services(rules []conf.Rule) []string {
	var names []string
	for _, r := range rules {
		names = append(names, r.Service)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

const (
	readSize = 256 << 10
	// maxLine bounds a line; what is longer is cut off there and matched as far as it goes. The daemon's sources do the same.
	maxLine = 64 << 10
)

// Run calls emit for every line of r in order, n from 1. m is nil if nothing matched, and valid only during the call. Lines
// may hold any bytes; the last one needs no line end.
func (x *Matcher) Run(r io.Reader, emit func(n int, m *filter.Match) error) error {
	var m filter.Match
	n := 0
	return lines(r, func() error { return nil }, func(line *event.Line) error {
		n++
		if x.view.Match(line, &m) {
			return emit(n, &m)
		}
		return emit(n, nil)
	})
}

// lines calls do for every line of r in order, and flush before the texts of the lines become invalid: now and then, and at the end. The
// line itself is valid only during the call.
func lines(r io.Reader, flush func() error, do func(*event.Line) error) error {
	buf := make([]byte, 0, readSize)
	var line event.Line
	one := func(text []byte) error {
		text = text[:min(len(text), maxLine)]
		if n := len(text); n > 0 && text[n-1] == '\r' {
			text = text[:n-1]
		}
		line.Text = text
		line.Offset++
		return do(&line)
	}
	skipping := false // the rest of a line that was longer than the buffer
	for {
		got, readErr := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+got]
		rest := buf
		for i := bytes.IndexByte(rest, '\n'); i >= 0; i = bytes.IndexByte(rest, '\n') {
			if !skipping {
				if err := one(rest[:i]); err != nil {
					return err
				}
			}
			skipping, rest = false, rest[i+1:]
		}
		if len(rest) == cap(buf) {
			if !skipping {
				if err := one(rest); err != nil {
					return err
				}
			}
			skipping, rest = true, nil
		}
		if readErr == io.EOF && len(rest) > 0 && !skipping {
			if err := one(rest); err != nil {
				return err
			}
		}
		if err := flush(); err != nil {
			return err
		}
		switch {
		case readErr == io.EOF:
			return nil
		case readErr != nil:
			return fmt.Errorf("read line %d: %w", line.Offset+1, readErr)
		}
		buf = buf[:copy(buf[:cap(buf)], rest)]
	}
}

// A Summary counts what Run saw.
type Summary struct {
	Lines   int              `json:"lines"`
	Matched int              `json:"matched"`
	Rules   map[string]Kinds `json:"rules"`
	Sources int              `json:"sources"` // distinct addresses with a failure or a probe
}

// Kinds counts events of one rule by kind.
type Kinds struct {
	Failures int `json:"failures"`
	Probes   int `json:"probes"`
	Logins   int `json:"logins"`
}

// Summarize runs r through the rules and counts. It is the way to time the engine.
func (x *Matcher) Summarize(r io.Reader) (Summary, error) {
	s := Summary{Rules: make(map[string]Kinds)}
	kinds := make(map[*conf.Rule]*Kinds)
	seen := make(map[netip.Addr]struct{})
	var lately [1 << 12]netip.Addr // some of seen, by their last bytes: mostly it is those that come again
	var rule *conf.Rule            // of the line before; mostly it is the next one's
	var k *Kinds
	err := x.Run(r, func(n int, m *filter.Match) error {
		s.Lines = n
		if m == nil {
			return nil
		}
		s.Matched++
		if m.Rule != rule {
			rule = m.Rule
			if k = kinds[rule]; k == nil {
				k = new(Kinds)
				kinds[rule] = k
			}
		}
		switch m.Kind {
		case event.Failure:
			k.Failures++
		case event.Probe:
			k.Probes++
		case event.Success:
			k.Logins++
		}
		if m.Kind != event.Success && m.Addr.IsValid() {
			if at := &lately[lastBytes(m.Addr)%uint32(len(lately))]; *at != m.Addr {
				*at = m.Addr
				seen[m.Addr] = struct{}{}
			}
		}
		return nil
	})
	for rule, k := range kinds {
		s.Rules[rule.Name] = *k
	}
	s.Sources = len(seen)
	return s, err
}

// lastBytes returns a number that differs for most addresses: that of the last bytes of an address and of its network.
func lastBytes(addr netip.Addr) uint32 {
	a := addr.As16()
	return binary.BigEndian.Uint32(a[12:]) ^ binary.BigEndian.Uint32(a[4:])
}
