//go:build integration

package host_test

import (
	"net"
	"net/netip"
	"testing"

	"mef/internal/host"
	"mef/internal/netnstest"
)

// TestAddressed has a client reach a service by a port that is translated, and by its own.
func TestAddressed(t *testing.T) {
	server, client := netnstest.New(t), netnstest.New(t)
	netnstest.Join(t, server, client, "192.0.2.1/24 2001:db8::1/64", "192.0.2.7/24 2001:db8::7/64")
	server.Echo(t, "tcp", ":22")
	server.Run(t, "table inet x {\nchain c {\ntype nat hook prerouting priority dstnat\ntcp dport 2022 redirect to :22\n}\n}\n", "nft", "-f", "-")
	for _, to := range []string{"192.0.2.1:2022", "192.0.2.1:22", "[2001:db8::1]:2022", "[2001:db8::1]:22"} {
		conn, err := client.Dial("tcp", "", to, netnstest.Patience)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		remote, addressed := conn.LocalAddr().(*net.TCPAddr).AddrPort(), netip.MustParseAddrPort(to)
		server.Do(func() {
			local := netip.AddrPortFrom(addressed.Addr(), 22)
			if got := host.Addressed(host.Connection{Local: local, Remote: remote}); got != addressed {
				t.Errorf("a client of %s is said to use %s", to, got)
			}
			if got := host.Addressed(host.Connection{Local: local, Remote: netip.AddrPortFrom(remote.Addr(), 1)}); got != local {
				t.Errorf("a connection that does not exist is said to use %s", got)
			}
		})
	}
}
