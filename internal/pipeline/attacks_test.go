package pipeline

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"mef/internal/answers"
	"mef/internal/control"
	"mef/internal/enforce"
	"mef/internal/event"
)

// While limits are lower, status, an event and why report it in the same sentence; when they are as usual again, an event does.
func TestAttacksAreReported(t *testing.T) {
	p, state := replayed(t, configured(t))
	p.Enforcer = enforce.New(new(willing), enforce.Options{})
	start := time.Now().Add(-time.Minute)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go p.Enforcer.Run(ctx) //nolint:errcheck // it ends with ctx
	offset := uint64(0)
	log := func(at time.Time, format string, args ...any) {
		t.Helper()
		b := new(event.Pool).Get()
		b.Source, b.Stream = "/session.log", "replay"
		offset++
		text := fmt.Sprintf("%s host sshd[%d]: %s", at.Format(time.RFC3339), offset, fmt.Sprintf(format, args...))
		b.Lines = []event.Line{{Time: at, Text: []byte(text), Offset: offset}}
		if err := state.Lines(ctx, b); err != nil {
			t.Fatal(err)
		}
	}
	records := func(kind string) (found []string) {
		t.Helper()
		last := "end before " + kind
		p.Records.Add(control.Record{Event: last})
		end := errors.New("end")
		err := p.Records.Follow(ctx, func(r control.Record) error {
			switch r.Event {
			case kind:
				found = append(found, r.Reason)
			case last:
				return end
			}
			return nil
		})
		if err != end {
			t.Fatal(err)
		}
		return found
	}
	for i := range 25 {
		log(start.Add(time.Duration(i)*time.Second), "Failed password for root from 203.%d.113.9 port 4711 ssh2", i)
	}
	began := records("attack")
	if len(began) != 1 || !strings.Contains(began[0], `sources tried user "root" within a day: an unknown source that takes part is banned for one attempt`) {
		t.Fatalf("records %q", began)
	}
	var s control.Status
	answers.Engine(&s, state.Engine, time.Now())
	if len(s.Attacks) != 1 || !strings.Contains(s.Attacks[0], `25 sources tried user "root"`) {
		t.Errorf("status %q", s.Attacks)
	}
	var why control.Why
	known := state.Engine.Explain(netip.MustParseAddr("198.51.100.77"), start.Add(time.Minute), 0)
	answers.Why(&why, known, "", 0, start.Add(time.Minute))
	if !slices.Contains(why.Arithmetic, s.Attacks[0]) {
		t.Errorf("why %q", why.Arithmetic)
	}
	log(start.Add(72*time.Hour), "Failed password for bob from 198.51.100.9 port 4711 ssh2")
	if over := records("attack-over"); len(over) != 1 || !strings.Contains(over[0], "limits are as usual again") {
		t.Errorf("when it is over: %q", over)
	}
}

// Failures that are forgiven are shown, with the reason.
func TestForgivenFailuresAreShown(t *testing.T) {
	_, state := replayed(t, configured(t))
	start := time.Now().Add(-time.Minute)
	addr := netip.MustParseAddr("198.51.100.9")
	for i, kind := range []event.Kind{event.Success, event.Failure, event.Failure, event.Failure} {
		ev := event.Event{Time: start.Add(time.Duration(i) * time.Second), Rule: "sshd", Service: "sshd", Addr: addr, User: "alice", Kind: kind, Count: 1, Verified: true}
		for range state.Engine.Event(&ev, ev.Time) {
		}
	}
	if c := state.Engine.Rule("sshd"); c.Failures != 3 || c.Forgiven != 3 || c.Logins != 1 {
		t.Errorf("status counts %+v", c)
	}
	var why control.Why
	k := state.Engine.Explain(addr, start.Add(time.Minute), 0)
	answers.Why(&why, k, "", 0, start.Add(time.Minute))
	want := `3 failures of user "alice" at sshd do not count: the user has logged in from here, and fails at a person's or a device's pace; the latest was 57s ago`
	if !slices.Contains(why.Arithmetic, want) {
		t.Errorf("why %q", why.Arithmetic)
	}
	if v := why.Verdict; v != "not banned: its failures are forgiven, and nothing else counts against it" {
		t.Errorf("verdict %q", v)
	}
}
