package pipeline

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// A code works once, for its address (IPv6: its /64), for an hour, and not after five wrong ones.
func TestCodes(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	a, b := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")
	var c codes
	made, err := c.add(a, "alice", now)
	if err != nil || len(made.Code) != 10 || !made.Until.Equal(now.Add(time.Hour)) {
		t.Fatalf("code %+v, %v", made, err)
	}
	if _, ok := c.use(b, made.Code, now); ok {
		t.Error("the code of another address works")
	}
	if _, ok := c.use(a, made.Code, now.Add(time.Hour)); ok {
		t.Error("an old code works")
	}
	if author, ok := c.use(a, " "+made.Code+"\n", now); !ok || author != "alice" {
		t.Errorf("the code of %q: %v", author, ok)
	}
	if _, ok := c.use(a, made.Code, now); ok {
		t.Error("a code works twice")
	}
	made, _ = c.add(b, "bob", now)
	for range wrongCodes {
		if _, ok := c.use(b, "WRONG", now); ok {
			t.Error("a wrong code works")
		}
	}
	if _, ok := c.use(b, made.Code, now); ok {
		t.Error("a code works after five wrong ones")
	}
	made, _ = c.add(b, "bob", now)
	if _, ok := c.use(netip.MustParseAddr("2001:db8::8"), made.Code, now); !ok {
		t.Error("the code does not work from another address of the /64")
	}
	for i := range maxCodes {
		if _, err := c.add(netip.MustParseAddr(fmt.Sprintf("198.18.%d.%d", i/256, i%256)), "alice", now); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.add(a, "alice", now); err == nil {
		t.Errorf("there are more than %d codes", maxCodes)
	}
	if _, err := c.add(a, "alice", now.Add(2*time.Hour)); err != nil || len(c.all) != 1 {
		t.Errorf("%d codes after all have ended, %v", len(c.all), err)
	}
}
