package host

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"mef/internal/host/docker"
)

// A published port is the container's, whether Docker's proxy listens there or the kernel translates it.
func TestPublishedPorts(t *testing.T) {
	containers := []docker.Container{{Name: "web", Ports: []docker.Port{{Protocol: "tcp", Number: 443}, {Protocol: "tcp", Number: 8080}, {Protocol: "udp", Number: 443}}}}
	any4, any6 := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	found := []Listener{{Protocol: "tcp", Addr: any4, Port: 22, Unit: "ssh.service"}, {Protocol: "tcp", Addr: any4, Port: 8080, Program: "docker-proxy"},
		{Protocol: "tcp", Addr: any6, Port: 8080, Unit: "docker.service"}, {Protocol: "udp", Addr: any4, Port: 443, Program: "caddy"}}
	var got []string
	for _, l := range addPublished(found, Published(containers)) {
		name := l.Program + l.Unit
		if l.Container != nil {
			name = l.Container.Name
		}
		got = append(got, fmt.Sprintf("%s %s %d %s", l.Protocol, l.Addr, l.Port, name))
	}
	want := []string{"tcp 0.0.0.0 22 ssh.service", "tcp :: 443 web", "tcp 0.0.0.0 8080 web", "tcp :: 8080 web", "udp 0.0.0.0 443 caddy", "udp :: 443 web"}
	if !slices.Equal(got, want) {
		t.Errorf("listeners %q, want %q", got, want)
	}
}
