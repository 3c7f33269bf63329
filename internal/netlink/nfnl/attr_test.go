package nfnl_test

import (
	"bytes"
	"strings"
	"testing"

	"mef/internal/netlink/nfnl"
)

func TestAttributesReadAsWritten(t *testing.T) {
	var a nfnl.Attrs
	a.Text(1, "name")
	list := a.Begin(2)
	a.Uint32(3, 7)
	a.Uint64(4, 1<<40)
	a.Bytes(5, []byte{1, 2, 3, 4, 5}) // not a multiple of four
	a.End(list)
	a.Uint32(6, 8)
	if got := nfnl.Text(nfnl.Find(a, 1)); got != "name" {
		t.Errorf("text %q", got)
	}
	inner := nfnl.Find(a, 2)
	if got := nfnl.Uint32(nfnl.Find(inner, 3)); got != 7 {
		t.Errorf("number %d, want 7", got)
	}
	if got := nfnl.Uint64(nfnl.Find(inner, 4)); got != 1<<40 {
		t.Errorf("number %d, want 1<<40", got)
	}
	if got := nfnl.Find(inner, 5); !bytes.Equal(got, []byte{1, 2, 3, 4, 5}) {
		t.Errorf("bytes %v", got)
	}
	if got := nfnl.Uint32(nfnl.Find(a, 6)); got != 8 {
		t.Errorf("behind the list %d, want 8", got)
	}
	if nfnl.Find(a, 3) != nil || nfnl.Uint32(nil) != 0 || nfnl.Uint64(nil) != 0 || nfnl.Text(nil) != "" {
		t.Error("what is not there was found")
	}
}

// A list that is longer than its length can say would be cut off in silence.
func TestTooLongAListPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("End of 70,000 bytes did not panic")
		}
	}()
	var a nfnl.Attrs
	list := a.Begin(1)
	for range 7 {
		a.Text(2, strings.Repeat("x", 10_000))
	}
	a.End(list)
}

func FuzzEach(f *testing.F) {
	var a nfnl.Attrs
	a.Text(1, "name")
	a.Uint32(2, 7)
	f.Add([]byte(a))
	f.Add([]byte{3, 0, 1, 0})
	f.Add([]byte{255, 255, 1, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		for _, v := range nfnl.Each(b) {
			if n += 4 + len(v); n > len(b) {
				t.Fatalf("more bytes than there are: %d of %d", n, len(b))
			}
		}
	})
}
