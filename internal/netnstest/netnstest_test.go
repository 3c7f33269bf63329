//go:build integration

package netnstest_test

import (
	"net"
	"testing"

	"mef/internal/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

func TestPeersReachEachOther(t *testing.T) {
	server, client := netnstest.New(t), netnstest.New(t)
	_, eth := netnstest.Join(t, server, client, "192.0.2.1/24 2001:db8:1::1/64", "192.0.2.7/24 192.0.2.8/24 2001:db8:1::7/64")
	server.Echo(t, "tcp", ":22")
	server.Echo(t, "udp4", "192.0.2.1:53")
	server.Echo(t, "udp6", "[2001:db8:1::1]:53")

	client.Reaches(t, "tcp", "", "192.0.2.1:22")
	client.Reaches(t, "tcp", "192.0.2.8", "192.0.2.1:22")
	client.Reaches(t, "tcp", "", "[2001:db8:1::1]:22")
	client.Reaches(t, "udp", "192.0.2.8", "192.0.2.1:53")
	client.Reaches(t, "udp", "", "[2001:db8:1::1]:53")
	for _, to := range []string{"192.0.2.1", "2001:db8:1::1"} {
		if err := client.Ping(to, netnstest.Patience); err != nil {
			t.Errorf("ping %s: %v", to, err)
		}
	}

	server.Run(t, "", "nft", "add table inet t; add chain inet t in { type filter hook input priority 0; }; "+
		"add rule inet t in ip saddr 192.0.2.8 drop")
	client.Blocked(t, "tcp", "192.0.2.8", "192.0.2.1:22")
	client.Blocked(t, "udp", "192.0.2.8", "192.0.2.1:53")
	client.Reaches(t, "tcp", "192.0.2.7", "192.0.2.1:22")
	client.Do(func() {
		if _, err := net.InterfaceByName(eth); err != nil {
			t.Errorf("interface %s of the client: %v", eth, err)
		}
	})
}

func TestNamespacesAreSeparate(t *testing.T) {
	a, b := netnstest.New(t), netnstest.New(t)
	a.Run(t, "", "nft", "add table inet mine")
	if got := b.Run(t, "", "nft", "list ruleset"); got != "" {
		t.Errorf("ruleset of another namespace:\n%s\nwant none", got)
	}
	c := netnstest.New(t)
	netnstest.Join(t, a, c, "192.0.2.1/24", "192.0.2.2/24")
	netnstest.Join(t, a, b, "198.51.100.1/24", "198.51.100.2/24")
	a.Sysctl(t, "net.ipv4.ip_forward", "1")
	b.Route(t, "0.0.0.0/0", "198.51.100.1")
	c.Route(t, "198.51.100.0/24", "192.0.2.1")
	b.Echo(t, "tcp", ":80")
	c.Reaches(t, "tcp", "", "198.51.100.2:80")
}
