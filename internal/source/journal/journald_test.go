//go:build integration

package journal_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"mef/internal/event"
	"mef/internal/source/journal"
	"mef/internal/source/journal/journaltest"
)

// patience is how long a test waits for what must happen. journald tells its readers of new entries after a quarter of a second.
const patience = time.Minute

// A reader runs a Follower and notes what it hands over.
type reader struct {
	t      *testing.T
	follow *journal.Follower
	out    chan *event.Batch
	stop   func()

	lines   []event.Line // of the programs that start with "test"
	seen    atomic.Int64 // how many
	lost    int
	resume  string
	offsets map[string]uint64 // the last of each stream
}

// start follows the journal j. The position of the reader before, if any, is used.
func start(t *testing.T, j *journaltest.Journal, cfg journal.Config, before *reader) *reader {
	t.Helper()
	r := &reader{t: t, out: make(chan *event.Batch, 4), offsets: map[string]uint64{}}
	if before != nil {
		before.stop()
		r.resume, r.offsets, cfg.Resume = before.resume, before.offsets, before.resume
	}
	cfg.Args, cfg.Socket = j.Args(), j.Socket()
	r.follow = journal.New(cfg, r.out)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.follow.Run(ctx) }()
	stopped := false
	r.stop = func() {
		if !stopped {
			stopped = true
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run = %v, want nil", err)
			}
		}
	}
	t.Cleanup(r.stop)
	return r
}

func (r *reader) take(b *event.Batch) {
	if b.Source != journal.Source || b.Resume == "" {
		r.t.Errorf("batch of %q with position %q", b.Source, b.Resume)
	}
	r.resume = b.Resume
	r.lost += b.Lost
	for _, line := range b.Lines {
		if line.Offset <= r.offsets[b.Stream] {
			r.t.Errorf("offset %d after %d", line.Offset, r.offsets[b.Stream])
		}
		r.offsets[b.Stream] = line.Offset
		if !strings.HasPrefix(string(line.Entry.Identifier), "test") {
			continue
		}
		line.Text = slices.Clone(line.Text)
		words := *line.Entry
		words.Identifier, words.Unit, words.Container = slices.Clone(words.Identifier), slices.Clone(words.Unit), slices.Clone(words.Container)
		line.Entry = &words
		r.lines = append(r.lines, line)
		r.seen.Add(1)
	}
	b.Release()
}

// until takes batches until done. It gives up when nothing has come for a while.
func (r *reader) until(what string, done func() bool) {
	r.t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for lines := len(r.lines); !done(); {
		if len(r.lines) > lines {
			lines = len(r.lines)
			limit.Reset(patience)
		}
		select {
		case b := <-r.out:
			r.take(b)
		case <-look.C:
		case <-limit.C:
			r.t.Fatalf("waiting for %s; have %d lines, status %+v", what, len(r.lines), r.follow.Status())
		}
	}
}

// count waits for n entries and checks that they are those numbered from 0 on, each once and in order.
func (r *reader) count(n int) {
	r.t.Helper()
	checked := 0
	r.until(fmt.Sprintf("%d lines", n), func() bool {
		for ; checked < len(r.lines); checked++ {
			if want := fmt.Sprintf("line %d", checked); string(r.lines[checked].Text) != want {
				r.t.Fatalf("line %d is %q, want %q", checked, r.lines[checked].Text, want)
			}
		}
		return checked >= n
	})
}

func log(t *testing.T, j *journaltest.Journal, from, to int) {
	for i := from; i < to; i++ {
		if err := j.Log(journaltest.Entry{Identifier: "test", Message: fmt.Sprintf("line %d", i)}); err != nil {
			t.Errorf("log: %v", err)
			return
		}
	}
}

func TestEntries(t *testing.T) {
	j := journaltest.Start(t)
	past := time.Now()
	entry := journaltest.Entry{Identifier: "test-old", Message: "before"}
	if err := j.Log(entry); err != nil {
		t.Fatal(err)
	}
	r := start(t, j, journal.Config{Since: time.Hour, UIDs: []uint32{12345}}, nil)
	r.until("the old entry", func() bool { return len(r.lines) == 1 })
	for _, e := range []journaltest.Entry{
		{Identifier: "test", Message: "plain", UID: 0},
		{Identifier: "test", Message: "of a user", UID: 12345, More: map[string]string{"_UID": "0", "_SYSTEMD_UNIT": "ssh.service"}},
		{Identifier: "test", Message: "two\nlines", More: map[string]string{"CONTAINER_NAME": "web"}},
		{Identifier: "test", Message: strings.Repeat("x", 300<<10)},
		{Identifier: "test", Message: strings.Repeat("y", 2<<20)},
		{Identifier: "test", Message: "\xff\x01 end"},
	} {
		if err := j.Log(e); err != nil {
			t.Fatal(err)
		}
	}
	r.until("six entries", func() bool { return len(r.lines) == 6 })
	if at := r.lines[0].Time; at.Before(past.Add(-time.Second)) || at.After(past.Add(10*time.Second)) {
		t.Errorf("an entry of the past has the time %s, want about %s", at, past)
	}
	lines := r.lines[1:]
	for i, want := range []string{"plain", "of a user", "two\nlines", strings.Repeat("x", 300<<10), "\xff\x01 end"} {
		if string(lines[i].Text) != want {
			t.Errorf("entry %d is %.100q, want %.100q", i, lines[i].Text, want)
		}
	}
	if e := lines[1].Entry; e.UID != 12345 || string(e.Unit) == "ssh.service" {
		t.Errorf("the sender's word was taken for journald's: %+v", e)
	}
	if e := lines[2].Entry; e.UID != 0 || e.PID == 0 || string(e.Container) != "web" {
		t.Errorf("entry of a container: %+v", e)
	}
	if r.lost != 1 || r.follow.Status().Lost != 1 {
		t.Errorf("%d lost (status %d), want the one that is too large", r.lost, r.follow.Status().Lost)
	}
	if s := r.follow.Status(); s.State != journal.Active || s.Lines < 6 || s.PID == 0 || s.LastLine.IsZero() {
		t.Errorf("status %+v", s)
	}
}

// journald rotates and old files are deleted while entries arrive, and journalctl is killed at times.
func TestNothingIsLostUnderLoad(t *testing.T) {
	const lines, rounds = 1000, 12
	j := journaltest.Start(t)
	r := start(t, j, journal.Config{Since: time.Hour}, nil)
	written := make(chan struct{})
	go func() {
		defer close(written)
		for i := range rounds {
			log(t, j, i*lines, (i+1)*lines)
			if err := j.Rotate(); err != nil {
				t.Errorf("rotate: %v", err)
			}
			if pid := r.follow.Status().PID; i%4 == 1 && pid != 0 {
				syscall.Kill(pid, syscall.SIGKILL)
			}
			// What is deleted unread is gone, so only files that were read are.
			for end := time.Now().Add(patience); r.seen.Load() < int64(i*lines) && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
			if err := j.Vacuum(2); err != nil {
				t.Errorf("vacuum: %v", err)
			}
		}
	}()
	r.count(lines * rounds)
	<-written
	log(t, j, lines*rounds, lines*rounds+1) // nothing comes again before it
	r.count(lines*rounds + 1)
	if r.lost != 0 {
		t.Errorf("%d lost", r.lost)
	}
	if r.follow.Status().Restarts == 0 {
		t.Error("journalctl was never started again")
	}
}

func TestResume(t *testing.T) {
	for name, meanwhile := range map[string]func(j *journaltest.Journal, r *reader){
		"nothing":         func(*journaltest.Journal, *reader) {},
		"rotated":         func(j *journaltest.Journal, _ *reader) { j.Rotate() },
		"reboot":          func(j *journaltest.Journal, _ *reader) { j.WaitFor(t, "line 199"); j.Reboot(t) },
		"journald killed": func(j *journaltest.Journal, _ *reader) { j.WaitFor(t, "line 199"); j.Kill(); j.Restart(t) },
	} {
		t.Run(name, func(t *testing.T) {
			j := journaltest.Start(t)
			r := start(t, j, journal.Config{Since: time.Hour}, nil)
			log(t, j, 0, 100)
			r.count(100)
			r.stop()
			log(t, j, 100, 200)
			meanwhile(j, r)
			log(t, j, 200, 300)
			seen := r.lines
			r = start(t, j, journal.Config{}, r)
			r.lines = seen
			r.count(300)
			seen = r.lines
			r = start(t, j, journal.Config{}, r)
			r.lines = seen
			log(t, j, 300, 301)
			r.count(301)
		})
	}
}

// The entry at the position is vacuumed away: what is left comes, from its first entry on.
func TestResumeWhereThePositionIsGone(t *testing.T) {
	j := journaltest.Start(t)
	r := start(t, j, journal.Config{Since: time.Hour}, nil)
	log(t, j, 0, 10)
	r.count(10)
	r.stop()
	if err := j.Rotate(); err != nil {
		t.Fatal(err)
	}
	r2 := start(t, j, journal.Config{}, r)
	log(t, j, 10, 20)
	r2.until("the new file", func() bool { return len(r2.lines) == 10 })
	r2.stop()
	if err := j.Vacuum(1); err != nil {
		t.Fatal(err)
	}
	r2.resume = r.resume
	r2.offsets = map[string]uint64{}
	seen := r.lines
	r = start(t, j, journal.Config{}, r2)
	r.lines = seen
	r.count(20)
}

func TestSuppressedByJournald(t *testing.T) {
	j := journaltest.Start(t, "RateLimitIntervalSec=1s", "RateLimitBurst=10")
	r := start(t, j, journal.Config{Since: time.Hour}, nil)
	pid, unit := j.Unit(t)
	sent := 0
	send := func() {
		if err := j.Log(journaltest.Entry{Identifier: "test", Message: "x", PID: pid}); err != nil {
			t.Fatal(err)
		}
		sent++
	}
	for range 1000 {
		send()
	}
	// journald gives its word with the next entry that it lets through, which one is after a time without any.
	quiet := time.NewTicker(2 * time.Second)
	defer quiet.Stop()
	r.until("all entries, or the word of journald that it suppressed them", func() bool {
		select {
		case <-quiet.C:
			send()
		default:
		}
		return len(r.lines)+r.lost == sent
	})
	if got := string(r.lines[0].Entry.Unit); got != unit || r.lines[0].Entry.PID != uint32(pid) {
		t.Errorf("entry of unit %q, process %d, want %q, %d", got, r.lines[0].Entry.PID, unit, pid)
	}
	if r.lost == 0 || r.follow.Status().Lost != uint64(r.lost) {
		t.Errorf("%d of %d lost, status %+v", r.lost, sent, r.follow.Status())
	}
}

// Entries of root and of the accounts named are read, and nobody else's, whatever they say of themselves.
func TestOnlyTrustedAccounts(t *testing.T) {
	j := journaltest.Start(t)
	r := start(t, j, journal.Config{Since: time.Hour, UIDs: []uint32{107}}, nil)
	for i, uid := range []uint32{0, 12345, 107, 12345, 0} {
		entry := journaltest.Entry{Identifier: "test", Message: fmt.Sprint(i), UID: uid, More: map[string]string{"_UID": "0"}}
		if err := j.Log(entry); err != nil {
			t.Fatal(err)
		}
	}
	r.until("three entries", func() bool { return len(r.lines) == 3 })
	for i, want := range []string{"0", "2", "4"} {
		if string(r.lines[i].Text) != want {
			t.Errorf("entry %d is %q, want %q", i, r.lines[i].Text, want)
		}
	}
}

// A local user logs as much as he can. What root logs meanwhile comes at once.
func TestStrangersDelayNothing(t *testing.T) {
	j := journaltest.Start(t)
	r := start(t, j, journal.Config{Since: time.Hour}, nil)
	ofRoot := func(message string) time.Duration {
		t.Helper()
		lines, sent := len(r.lines), time.Now()
		if err := j.Log(journaltest.Entry{Identifier: "test", Message: message}); err != nil {
			t.Fatal(err)
		}
		r.until("root's entry", func() bool { return len(r.lines) > lines })
		return time.Since(sent)
	}
	quiet := ofRoot("before")
	big := strings.Repeat("x", 4<<20)
	for i := range 64 { // more than a second's worth to read, were it read
		if err := j.Log(journaltest.Entry{Identifier: "test", Message: fmt.Sprint(i, big), UID: 12345}); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Log(journaltest.Entry{Identifier: "test", Message: "end", UID: 12345}); err != nil {
		t.Fatal(err)
	}
	j.WaitFor(t, "end")
	if took := ofRoot("after"); took > 3*time.Second+5*quiet { // a machine that is slow for one is slow for the other
		t.Errorf("root's entry took %v, and %v on a quiet journal", took, quiet)
	}
}

// The journal counts as read only once an entry of the follower's own came back, and no longer when nothing comes from journalctl. It is
// started again then.
func TestProof(t *testing.T) {
	j := journaltest.Start(t)
	r := start(t, j, journal.Config{Since: time.Hour}, nil)
	r.until("a proof", func() bool { return r.follow.Status().State == journal.Active })
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) { // the run that catches up ends by itself
		pid := r.follow.Status().PID
		if args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && strings.Contains(string(args), "--follow") {
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			break
		}
		if time.Now().After(end) {
			t.Fatal("journalctl does not follow")
		}
	}
	time.Sleep(journal.FreshProof + 100*time.Millisecond) // what came back before says nothing any more
	r.follow.Prove(t.Context())
	if s := r.follow.Status(); s.Lag < time.Second {
		t.Errorf("journalctl is stopped and the status is %+v, want a lag", s)
	}
	if err := j.Log(journaltest.Entry{Identifier: "test", Message: "meanwhile"}); err != nil {
		t.Fatal(err)
	}
	r.until("the entry, by another journalctl", func() bool { return len(r.lines) == 1 })
	r.until("a proof", func() bool { s := r.follow.Status(); return s.State == journal.Active && s.Lag < time.Second })
}

// journald that stores nothing looks like a quiet host, and is not taken for one.
func TestStoresNothing(t *testing.T) {
	j := journaltest.Start(t, "Storage=none")
	r := start(t, j, journal.Config{Since: time.Hour}, nil)
	r.follow.Prove(t.Context())
	if s := r.follow.Status(); s.State != journal.Waiting || s.Reason == "" {
		t.Errorf("status %+v, want waiting", s)
	}
}

// A unit that has logged is found by what journald recorded, not by a name that anybody may log under.
func TestUnits(t *testing.T) {
	j := journaltest.Start(t)
	pid, unit := j.Unit(t)
	for _, e := range []journaltest.Entry{
		{Identifier: "sshd", Message: "x", UID: 12345, More: map[string]string{"UNIT": "ssh.service"}},
		{Identifier: "test", Message: "x", PID: pid},
	} {
		if err := j.Log(e); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(patience); ; {
		units, err := journal.Units(t.Context(), journal.Options{Args: j.Args()})
		if err == nil && slices.Contains(units, unit) {
			if slices.Contains(units, "ssh.service") {
				t.Errorf("units %q have one that a user named", units)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("Units = %q, %v, want %q", units, err, unit)
		}
	}
}
