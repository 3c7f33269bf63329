//go:build integration

package host_test

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"mef/internal/host"
	"mef/internal/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// routed returns a namespace with two networks, two gateways and one more in a table of its own.
func routed(t *testing.T) *netnstest.NS {
	ns, router := netnstest.New(t), netnstest.New(t)
	eth, _ := netnstest.Join(t, ns, router, "192.0.2.7/24 2001:db8:1::7/64", "192.0.2.1/24 2001:db8:1::1/64")
	ns.Route(t, "0.0.0.0/0", "192.0.2.1")
	ns.Route(t, "2001:db8:ffff::/48", "2001:db8:1::1")
	ns.Run(t, "", "ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.99", "dev", eth, "table", "77")
	return ns
}

func TestReadFacts(t *testing.T) {
	ns := routed(t)
	var f host.Facts
	var err error
	ns.Do(func() { f, err = host.Read(t.Context()) })
	if err != nil {
		t.Fatal(err)
	}
	check(t, "own addresses", f.Addrs, "192.0.2.7", "2001:db8:1::7")
	check(t, "networks", f.OnLink, "192.0.2.0/24", "2001:db8:1::/64")
	check(t, "gateways", f.Gateways, "192.0.2.1", "192.0.2.99", "2001:db8:1::1")
}

func check[T interface{ String() string }](t *testing.T, what string, got []T, want ...string) {
	t.Helper()
	var texts []string
	for _, v := range got {
		texts = append(texts, v.String())
	}
	if !slices.Equal(texts, want) {
		t.Errorf("%s = %v, want %v", what, texts, want)
	}
}

func TestWatchTellsOfNewAddresses(t *testing.T) {
	ns := routed(t)
	facts := make(chan host.Facts, 10)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		var err error
		ns.Do(func() { err = host.Watch(ctx, func(f host.Facts) { facts <- f }) })
		done <- err
	}()
	await(t, facts, func(f host.Facts) bool { return len(f.Addrs) == 2 })
	ns.Addr(t, "veth0", "192.0.2.8/24 192.0.2.9/24 2001:db8:2::7/64")
	await(t, facts, func(f host.Facts) bool {
		return slices.Contains(f.Addrs, netip.MustParseAddr("192.0.2.9")) && slices.Contains(f.OnLink, netip.MustParsePrefix("2001:db8:2::/64"))
	})
	ns.Run(t, "", "ip", "route", "del", "default")
	await(t, facts, func(f host.Facts) bool { return !slices.Contains(f.Gateways, netip.MustParseAddr("192.0.2.1")) })
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Watch ended with %v, want nil", err)
	}
}

func await(t *testing.T, facts <-chan host.Facts, ok func(host.Facts) bool) {
	t.Helper()
	patience := time.After(netnstest.Patience)
	for {
		select {
		case f := <-facts:
			if ok(f) {
				return
			}
		case <-patience:
			t.Fatal("Watch did not tell of the change")
		}
	}
}
