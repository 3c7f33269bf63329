package loader

import (
	"net/netip"
	"testing"

	"mef/internal/host"
)

// TestServicesAskedAbout has strangers' services asked about, each of which a policy may have forgotten.
func TestServicesAskedAbout(t *testing.T) {
	all, local := netip.IPv6Unspecified(), netip.MustParseAddr("127.0.0.1")
	p := &place{sshPorts: []uint16{22}}
	for name, tt := range map[string]struct {
		l    host.Listener
		want string // what is lost; empty: nothing is asked
	}{
		"web":               {host.Listener{Protocol: "tcp", Addr: all, Port: 80, Program: "nginx"}, "nginx listens on tcp/80, but no address can reach it"},
		"known by unit":     {host.Listener{Protocol: "udp", Addr: all, Port: 53, Unit: "named.service"}, "named listens on udp/53, but no address can reach it"},
		"SSH, asked apart":  {host.Listener{Protocol: "tcp", Addr: all, Port: 22, Program: "sshd"}, ""},
		"for this host":     {host.Listener{Protocol: "tcp", Addr: local, Port: 5432, Program: "postgres"}, ""},
		"a DHCP client":     {host.Listener{Protocol: "udp", Addr: all, Port: 68, Program: "dhclient"}, ""},
		"waits for answers": {host.Listener{Protocol: "udp", Addr: all, Port: 40000, Program: "chronyd"}, ""},
		"published":         {host.Listener{Protocol: "tcp", Addr: all, Port: 8080, Program: "docker-proxy"}, ""},
	} {
		q, asked := p.service(tt.l)
		if asked != (tt.want != "") || q.Lost != tt.want {
			t.Errorf("%s: asked %v, %q; want %q", name, asked, q.Lost, tt.want)
		}
	}
}
