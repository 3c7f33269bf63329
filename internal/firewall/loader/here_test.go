package loader

import (
	"net/netip"
	"strings"
	"testing"

	"mef/internal/firewall/policy"
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

// TestTranslationsThatHideSSH has nat statements lead SSH logins elsewhere: each is narrowed, but some leave no login to this host.
func TestTranslationsThatHideSSH(t *testing.T) {
	net := netip.MustParsePrefix
	p := &place{sshPorts: []uint16{22, 2222}, links: []host.Link{
		{Name: "lo", Nets: []netip.Prefix{net("127.0.0.1/8"), net("::1/128")}},
		{Name: "eth0", Nets: []netip.Prefix{net("192.0.2.1/24"), net("2001:db8::1/64")}},
		{Name: "eth1", Nets: []netip.Prefix{net("198.51.100.1/24")}},
	}}
	const open = "policy dir=in action=drop\nrule dir=in action=accept proto=tcp dport=22\n"
	for name, tt := range map[string]struct {
		text string
		want string // how the line begins; empty: none
	}{
		"no translation":                {"", ""},
		"one interface of two":          {"nat dir=in action=dnat to=198.51.100.9 proto=tcp iif=eth0 dport=22\n", ""},
		"IPv4 by both, IPv6 is left":    {"nat dir=in family=ip action=redirect to=:80 proto=tcp iif=eth0,eth1 dport=22\n", ""},
		"both interfaces":               {"nat dir=in action=redirect to=:80 proto=tcp iif=eth0,eth1 dport=22\n", "mef.rules:3:1: no login reaches the SSH server on port 22"},
		"a pattern of interfaces":       {"nat dir=in action=redirect to=:80 proto=tcp iif=eth* dport=22\n", "mef.rules:3:1: no login reaches the SSH server on port 22"},
		"piece by piece":                {"nat dir=in action=redirect to=:80 proto=tcp iif=eth0 dport=22\nnat dir=in action=redirect to=:81 proto=tcp iif=!eth0 dport=20-30\n", "mef.rules:3:1: no login reaches the SSH server on port 22"},
		"all sources, in two parts":     {"nat dir=in action=redirect to=:80 proto=tcp src=0.0.0.0/1,::/0 dport=22\nnat dir=in action=redirect to=:80 proto=tcp src=128.0.0.0/1 dport=22\n", "mef.rules:3:1: no login reaches the SSH server on port 22"},
		"some sources":                  {"nat dir=in action=redirect to=:80 proto=tcp src=192.0.2.0/24 dport=22\n", ""},
		"to another port of the server": {"nat dir=in action=redirect to=:2222 proto=tcp iif=eth* dport=22\n", ""},
		"to an address of this host":    {"nat dir=in action=dnat to=198.51.100.1 proto=tcp iif=eth0,eth1 dst=192.0.2.1 dport=22\n", ""},
		"a port that was shut before":   {"nat dir=in action=redirect to=:80 proto=tcp iif=eth* dport=2222\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			src, err := policy.Parse("mef.rules", []byte(open+tt.text))
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(p.sshHidden(src.Policy(policy.Facts{})), "\n")
			if !strings.HasPrefix(got, tt.want) || (got == "") != (tt.want == "") || strings.Contains(got, "\n") {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
