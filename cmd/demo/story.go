//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"mef/internal/ban"
	"mef/internal/control"
	"mef/internal/lab"
	"mef/internal/sleep"
)

// A story is the demo's course of events.
type story struct {
	world *lab.World
	tell  *teller
	mef   *lab.Mef

	mu     sync.Mutex
	took   []time.Duration                 // from each deciding line to the kernel
	bans   map[netip.Prefix]control.Record // what the daemon said it banned
	banned chan struct{}                   // closed and replaced whenever bans grows
}

// alice is where the legitimate user sits.
const alice = "198.51.100.23"

// open starts the server's daemons and mefdaemon.
func (s *story) open(ctx context.Context) error {
	s.tell.title("A server and its internet, in namespaces of this machine")
	w := s.world
	if _, err := w.StartJournal(ctx); err != nil {
		return err
	}
	err := lab.Together(
		func() error { _, err := w.StartSSH(ctx); return err },
		func() error { _, err := w.StartDovecot(ctx); return err },
	)
	if err != nil {
		return err
	}
	s.tell.say(plain, "server", "systemd-journald, sshd and dovecot run at %s and %s", lab.Server4, lab.Server6)
	if s.mef, err = w.StartMef(ctx, ""); err != nil {
		return err
	}
	s.tell.say(plain, "server", "mefdaemon runs, with its own rules and an empty configuration")
	s.bans, s.banned = make(map[netip.Prefix]control.Record), make(chan struct{})
	go s.listen(ctx)
	return nil
}

// listen tells every ban as the daemon says it, until ctx is done.
func (s *story) listen(ctx context.Context) {
	err := s.mef.Follow(ctx, func(rec control.Record) error {
		if rec.Event != "ban" {
			return nil
		}
		prefix, err := netip.ParsePrefix(rec.Prefix)
		if err != nil {
			return err
		}
		s.tell.say(bad, "mefdaemon", "BAN %s, ports %s: %s", short(prefix), rec.Ports, rec.Reason)
		took, err := s.latency(ctx, rec)
		if err != nil {
			return err
		}
		s.tell.say(bad, "", "    in the kernel %v after the log line was written, %v after mefdaemon read it", round(took), round(rec.Latency))
		s.mu.Lock()
		defer s.mu.Unlock()
		s.bans[prefix] = rec
		s.took = append(s.took, took)
		close(s.banned)
		s.banned = make(chan struct{})
		return nil
	})
	if err != nil && ctx.Err() == nil {
		s.tell.say(bad, "mefdaemon", "the event stream ended: %v", err)
	}
}

// latency returns the time from the moment at which a daemon wrote the deciding log line, by its own word in the journal, to the
// moment at which the kernel held the ban.
func (s *story) latency(ctx context.Context, rec control.Record) (time.Duration, error) {
	if len(rec.Evidence) == 0 {
		return 0, fmt.Errorf("the ban of %s has no evidence", rec.Prefix)
	}
	written, err := s.world.Written(ctx, rec.Evidence[len(rec.Evidence)-1])
	if err != nil {
		return 0, err
	}
	return rec.Time.Add(rec.Latency).Sub(written), nil
}

// attack lets everybody act at the same time, and fails unless each came to the end that is due.
func (s *story) attack(ctx context.Context) error {
	s.tell.title("Attackers guess passwords; alice, at " + alice + ", mistypes hers")
	var acts []func() error
	for _, a := range cast() {
		acts = append(acts, func() error { return s.fight(ctx, a) })
	}
	acts = append(acts, func() error { return s.mistype(ctx) })
	if err := lab.Together(acts...); err != nil {
		return fmt.Errorf("the end is not the one that is due:\n%w", err)
	}
	return nil
}

// fight makes an attacker's tries until the server falls silent, or they are over, and then looks at what came of them.
func (s *story) fight(ctx context.Context, a attacker) error {
	stop := make(chan struct{}) // closed once the ban has held long enough for every pending try to have met it
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer close(stop)
		if _, err := s.waitBan(ctx, a.ban); err == nil {
			sleep.For(ctx, silence)
		}
	}()
	var from netip.Addr
	for i, tries := range a.tries {
		from = a.from[i%len(a.from)]
		cut, err := s.round(ctx, stop, a, from, tries)
		if err != nil {
			return err
		}
		if cut {
			break
		}
	}
	return s.cutOff(ctx, a, from)
}

// round makes tries at the same time and reports whether one met with silence.
func (s *story) round(ctx context.Context, stop <-chan struct{}, a attacker, from netip.Addr, tries []try) (cut bool, err error) {
	trying, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	go func() {
		select {
		case <-stop:
			cancel()
		case <-trying.Done():
		}
	}()
	silent := make([]bool, len(tries))
	var acts []func() error
	for i, t := range tries {
		acts = append(acts, func() error {
			err := t.do(trying, lab.Client{At: s.world.Internet, From: from})
			switch silent[i] = lab.CutOff(err); {
			case silent[i]:
				return ctx.Err()
			case err == nil, errors.Is(err, lab.ErrDenied):
				s.tell.say(plain, from.String(), "%s", t.what)
				return nil
			}
			return fmt.Errorf("%s, which %s: %w", from, a.who, err)
		})
	}
	err = lab.Together(acts...)
	return slices.Contains(silent, true), err
}

// cutOff checks that an attacker was banned as is due, that nothing answers it any more, and that its neighbour is not hit.
func (s *story) cutOff(ctx context.Context, a attacker, from netip.Addr) error {
	rec, err := s.waitBan(ctx, a.ban)
	if err != nil {
		return fmt.Errorf("%s, which %s: %s is not banned: %w", from, a.who, short(a.ban), err)
	}
	if a.rule != "" && rec.Rule != a.rule {
		return fmt.Errorf("%s, which %s, was banned by %s, want %s: %s", from, a.who, rec.Rule, a.rule, rec.Reason)
	}
	ports, err := ban.ParsePorts(rec.Ports)
	if err != nil {
		return err
	}
	var silent, open []string
	var probes []func() error
	for _, service := range []struct {
		name string
		port int
	}{{"ssh", lab.SSHPort}, {"imap", lab.IMAPPort}} {
		want, names := lab.Reached, &open
		if ports.Covers(ban.Ports(strconv.Itoa(service.port))) {
			want, names = lab.TimedOut, &silent
		}
		*names = append(*names, service.name)
		probes = append(probes, func() error { return s.probe(ctx, from, service.port, want) })
	}
	if err := lab.Together(probes...); err != nil {
		return err
	}
	text := "next connection to " + strings.Join(silent, " and ") + ": timed out"
	if open != nil {
		text += "; " + strings.Join(open, " and ") + " still answers, for the ban is one of ports"
	}
	s.tell.say(good, from.String(), "%s", text)
	return s.probe(ctx, a.neighbor, lab.SSHPort, lab.Reached)
}

// probe connects once and fails if the outcome is not the one that is due.
func (s *story) probe(ctx context.Context, from netip.Addr, port int, want lab.Outcome) error {
	wait := silence
	if want == lab.Reached {
		wait = patience
	}
	got, err := lab.Client{At: s.world.Internet, From: from}.Probe(ctx, port, wait)
	if err == nil && got != want {
		err = fmt.Errorf("%s, want %s", got, want)
	}
	if err != nil {
		return fmt.Errorf("%s to port %d: %w", from, port, err)
	}
	return nil
}

// waitBan waits until the daemon has said that it banned a prefix.
func (s *story) waitBan(ctx context.Context, prefix netip.Prefix) (control.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		s.mu.Lock()
		rec, found := s.bans[prefix]
		more := s.banned
		s.mu.Unlock()
		if found {
			return rec, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return rec, ctx.Err()
		}
	}
}

// mistype is the legitimate user: wrong twice, then right.
func (s *story) mistype(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c := s.world.Client(alice)
	for _, typo := range []string{"correct hrose battery staple", "Correct horse battery staple"} {
		if _, err := c.SSH(ctx, lab.SSHPort, lab.Alice.Name, typo, ""); !errors.Is(err, lab.ErrDenied) {
			return fmt.Errorf("alice mistyped her password: %w, want a refusal", err)
		}
		s.tell.say(good, alice, "alice, ssh: mistyped, refused")
		sleep.For(ctx, time.Second)
	}
	return s.login(ctx)
}

// login is alice logging in and working.
func (s *story) login(ctx context.Context) error {
	c := s.world.Client(alice)
	const command = `echo "$(id -un) at $(hostname)"`
	out, err := c.SSH(ctx, lab.SSHPort, lab.Alice.Name, lab.Alice.Password, command)
	if err != nil {
		return fmt.Errorf("alice cannot log in by ssh: %w", err)
	}
	s.tell.say(good, alice, "alice, ssh: logged in and ran a command: %s", strings.TrimSpace(out))
	return nil
}

// close asks the operator's questions, and checks that the server still serves those it should.
func (s *story) close(ctx context.Context) error {
	s.tell.title("What the operator sees")
	for _, args := range [][]string{{"status"}, {"bans", "list"}, {"why", "203.0.113.99"}, {"why", alice}} {
		out, err := s.world.Mefctl(ctx, args...)
		s.tell.show("mefctl "+strings.Join(args, " "), out)
		if err != nil {
			return err
		}
	}
	s.tell.title("The end")
	if err := s.innocent(ctx); err != nil {
		return err
	}
	if err := s.login(ctx); err != nil {
		return err
	}
	if err := s.world.Client(alice).IMAP(ctx, lab.Alice.Name, lab.Alice.Password); err != nil {
		return fmt.Errorf("alice cannot log in by imap: %w", err)
	}
	s.tell.say(good, alice, "alice, imap: logged in")
	s.tell.say(bold, "", "%d attackers, each cut off; alice was not. %s", len(cast()), s.latencies())
	return nil
}

// innocent checks that the daemon itself says that alice is not banned.
func (s *story) innocent(ctx context.Context) error {
	why, err := s.mef.Why(ctx, netip.MustParseAddr(alice))
	if err != nil {
		return err
	}
	if why.Banned {
		return fmt.Errorf("alice is banned: %s", why.Verdict)
	}
	return nil
}

// latencies sums up how long bans took.
func (s *story) latencies() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.took) == 0 {
		return ""
	}
	return fmt.Sprintf("From log line to kernel: %v to %v\n(of that, up to half a second is journald's: it announces new lines in groups)",
		round(slices.Min(s.took)), round(slices.Max(s.took)))
}

// round makes a time one that people read.
func round(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

// short is a prefix as people write it: an address alone without its length.
func short(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}
