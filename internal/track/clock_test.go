package track

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/event"
)

// What a clock that was a day ahead has noted counts as of now once it is set right, and what was noted before keeps its time.
func TestSetBack(t *testing.T) {
	const before, wrong = "192.0.2.1", "192.0.2.2"
	tr := New(testConfig())
	banned := func(addr string, at time.Time) {
		tr.Banned(ban.Ban{Key: ban.Key{Prefix: netip.PrefixFrom(netip.MustParseAddr(addr), 32)}, Rule: "sshd", ID: addr, Start: at, Until: at.Add(10 * time.Minute)})
	}
	ahead := 24 * time.Hour
	banned(before, start)
	tr.Observe(line{kind: "ok", user: "alice", at: 1}.event("sshd", before))
	for range 3 {
		tr.Observe(line{kind: "fail", at: ahead.Seconds()}.event("sshd", wrong))
	}
	banned(wrong, start.Add(ahead))
	tr.Observe(line{kind: "ok", user: "bob", at: ahead.Seconds()}.event("sshd", wrong))
	now := start.Add(time.Minute)
	tr.SetBack(now)

	inForce := func(addr string, at time.Time) bool {
		return len(tr.Explain(netip.MustParseAddr(addr), at).InForce) == 1
	}
	for _, tt := range []struct {
		addr  string
		after time.Duration
		want  bool
	}{{before, 0, true}, {before, 9 * time.Minute, false}, {wrong, 0, true}, {wrong, 9 * time.Minute, true}, {wrong, 10 * time.Minute, false}} {
		if got := inForce(tt.addr, now.Add(tt.after)); got != tt.want {
			t.Errorf("%v after the clock was set right %s is banned: %v, want %v", tt.after, tt.addr, got, tt.want)
		}
	}
	for addr, want := range map[string]time.Time{before: start.Add(time.Second), wrong: now} {
		known := tr.Explain(netip.MustParseAddr(addr), now).Known
		if len(known) != 1 || !known[0].Last.Equal(want) {
			t.Errorf("known at %s: %+v, want one login at %v", addr, known, want)
		}
	}
	// Windows move on: of failures at minutes 0, 1, 2, 3 and 12, three are within the last ten.
	var tally event.Tally
	for _, minute := range []int{0, 1, 2, 3, 12} {
		at := now.Add(time.Duration(minute) * time.Minute).Sub(start)
		tally = *tr.Observe(line{kind: "fail", user: fmt.Sprint(minute), at: at.Seconds()}.event("sshd", "192.0.2.3"))
	}
	if tally.Attempts != 3 {
		t.Errorf("%v attempts count, want 3", tally.Attempts)
	}
}
