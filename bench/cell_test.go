//go:build integration

package main

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mef/bench/gen"
)

// testCell makes a cell or, where that is not allowed, skips the test; in CI it fails.
func testCell(t *testing.T) *cell {
	t.Helper()
	c, err := newCell("test", func(table, set string) bool { return table == "t" && set == "bans" })
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("no cell here: %v", err)
	}
	t.Cleanup(func() { c.close() })
	return c
}

// nft runs a script in the cell.
func (c *cell) nft(t *testing.T, script string) {
	t.Helper()
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := c.start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("nft: %v\n%s", err, out.String())
	}
}

// Every element that any process adds is seen, even if 100,000 come in one transaction, and the CPU time is measured.
func TestWatcherSeesEveryElement(t *testing.T) {
	c := testCell(t)
	const n = 100_000
	var script strings.Builder
	script.WriteString("add table inet t\nadd set inet t other { type ipv4_addr; }\nadd set inet t bans { type ipv4_addr; }\n" +
		"add element inet t other { 192.0.2.1 }\nadd element inet t bans { ")
	for i := range uint64(n) {
		fmt.Fprintf(&script, "%v, ", gen.Addr4(i))
	}
	script.WriteString("}\n")
	begun := time.Now()
	c.nft(t, script.String())
	if got := c.watch.waitCount(n, time.Now().Add(20*time.Second)); got != n {
		t.Fatalf("%d addresses seen, want %d", got, n)
	}
	times, lost := c.watch.times(func(netip.Addr) bool { return true })
	if lost || times[0].Before(begun) {
		t.Errorf("notifications lost: %v; first at %v, begun at %v", lost, times[0], begun)
	}
	if used := c.cpu(); used < 10*time.Millisecond {
		t.Errorf("CPU time of nft = %v, want what 100,000 elements cost", used)
	}
}

// An asker finds the elements in the sets, and the time of the last one.
func TestAskerWaitsForTheLast(t *testing.T) {
	c := testCell(t)
	var err error
	var ask *asker
	if c.do(func() { ask, err = newAsker([]set{{unix.NFPROTO_INET, "t", "bans"}}) }); err != nil {
		t.Fatal(err)
	}
	defer ask.close()
	first, last := netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("203.0.113.9")
	if there, err := ask.holds(first); there || err != nil {
		t.Errorf("without a table: %t, %v", there, err)
	}
	c.nft(t, "add table inet t\nadd set inet t bans { type ipv4_addr; }\nadd element inet t bans { 203.0.113.7 }\n")
	if there, err := ask.holds(first); !there || err != nil {
		t.Errorf("the address is there: %t, %v", there, err)
	}
	if _, found, err := ask.await([]netip.Addr{first, last}, time.Now()); found != 1 || err != nil {
		t.Errorf("%d are there, want 1; %v", found, err)
	}
	added := make(chan time.Time)
	go func() {
		defer close(added)
		at := time.Now()
		c.nft(t, "add element inet t bans { 203.0.113.9 }\n")
		added <- at
	}()
	at, found, err := ask.await([]netip.Addr{first, last}, time.Now().Add(5*time.Second))
	if found != 2 || err != nil || at.Before(<-added) {
		t.Errorf("%d found, the last at %v; %v", found, at, err)
	}
}

// An interval set has two elements for each address: its start and its end.
func TestWatcherCountsIntervalsOnce(t *testing.T) {
	c := testCell(t)
	c.nft(t, "add table ip t\nadd set ip t bans { type ipv4_addr; flags interval; }\n")
	c.nft(t, "add element ip t bans { 203.0.113.7 }\n")
	if _, ok := c.watch.wait(netip.MustParseAddr("203.0.113.7"), time.Now().Add(5*time.Second)); !ok {
		t.Fatal("the address was not seen")
	}
	if n := c.watch.waitCount(2, time.Now().Add(200*time.Millisecond)); n != 1 {
		t.Errorf("%d addresses seen, want 1", n)
	}
}
