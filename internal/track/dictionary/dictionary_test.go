package dictionary

import (
	"fmt"
	"runtime"
	"testing"
)

// A flood of random names costs bounded memory, and the names that attackers share survive it.
func TestNamesAreBounded(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	d := New()
	d.Configure(nil, nil, false)
	now := int64(1)
	for _, n := range []uint64{1, 2, 4} {
		d.Try("shared", d.Get("shared"), n, true, true, now)
	}
	for i := range 1_000_000 {
		now++
		d.Try(fmt.Sprintf("random-name-%07d", i), d.Get(fmt.Sprintf("random-name-%07d", i)), 1<<(i%64), true, true, now)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if len(d.index) > maxTried+maxDemanded {
		t.Errorf("%d names are kept", len(d.index))
	}
	if n := d.index["shared"]; n == nil || n.Others(0) != 3 {
		t.Errorf("the name that three networks tried: %+v", n)
	}
	if used := int64(after.HeapAlloc) - int64(before.HeapAlloc); used > 8<<20 {
		t.Errorf("the dictionary takes %d KB, want 8192 at most", used>>10)
	}
	for i := range 1_000_000 { // each by two networks
		d.Try(fmt.Sprintf("other-name-%07d", i/2), d.Get(fmt.Sprintf("other-name-%07d", i/2)), 1<<(i%2), true, true, now)
	}
	if len(d.index) > maxTried+maxDemanded || len(d.dirty) > 1_000_000 {
		t.Errorf("%d names are kept, %d to be saved", len(d.index), len(d.dirty))
	}
}

func TestNear(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"alice", "alice", true}, {"alice", "alcie", true}, {"alice", "ali", true}, {"alice", "al", false}, {"alice", "malice2", true},
		{"root", "toor", true}, {"root", "test", false}, {"ab", "cd", false}, {"bob", "b", true}, {"", "a", false},
	} {
		if got := near(tt.a, tt.b); got != tt.want {
			t.Errorf("near(%q, %q) = %v", tt.a, tt.b, got)
		}
	}
}
