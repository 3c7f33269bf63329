//go:build integration

package host_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"mef/internal/host"
	"mef/internal/netnstest"
)

func TestLinks(t *testing.T) {
	here, there := netnstest.New(t), netnstest.New(t)
	one, _ := netnstest.Join(t, here, there, "192.0.2.2/24 2001:db8::2/64", "192.0.2.1/24 2001:db8::1/64")
	two, _ := netnstest.Join(t, here, there, "198.51.100.2/24", "198.51.100.1/24")
	here.Run(t, "", "ip", "link", "add", "docker0", "type", "bridge")
	here.Run(t, "", "ip", "route", "add", "default", "via", "192.0.2.1")
	here.Run(t, "", "ip", "route", "add", "blackhole", "0.0.0.0/0", "metric", "1000")
	here.Run(t, "", "ip", "route", "add", "203.0.113.0/24", "dev", two)
	var links []host.Link
	var err error
	here.Do(func() { links, err = host.Links() })
	if err != nil {
		t.Fatal(err)
	}
	find := func(name string) host.Link {
		i := slices.IndexFunc(links, func(l host.Link) bool { return l.Name == name })
		if i < 0 {
			t.Fatalf("no %s among %+v", name, links)
		}
		return links[i]
	}
	if l := find(one); !l.Default || l.Bridge || len(l.Nets) < 2 || l.Nets[0].String() != "192.0.2.2/24" {
		t.Errorf("the interface of the default route is %+v", l)
	}
	for _, name := range []string{two, "docker0", "lo"} {
		if l := find(name); l.Default || l.Bridge != (name == "docker0") {
			t.Errorf("%+v is no interface of a default route", l)
		}
	}
}

// The addresses of this host in networks of containers are known, whichever program made these. Bridges of a network outside are none.
func TestNetworksOfContainers(t *testing.T) {
	here, there := netnstest.New(t), netnstest.New(t)
	_, port := netnstest.Join(t, there, here, "", "")
	_, uplink := netnstest.Join(t, there, here, "", "")
	for _, command := range []string{
		"ip link add podman1 type bridge", "ip addr add 10.89.0.1/24 dev podman1", "ip addr add fd00:89::1/64 dev podman1", "ip link set podman1 up",
		"ip link set " + port + " master podman1",
		"ip link add empty type bridge", "ip addr add 172.30.0.1/16 dev empty", "ip link set empty up",
		"ip link add public type bridge", "ip addr add 198.51.100.1/24 dev public", "ip link set public up",
		"ip link add lan type bridge", "ip addr add 192.168.1.2/24 dev lan", "ip link set lan up",
		"ip link set " + uplink + " master lan", "ip route add default via 192.168.1.1",
	} {
		args := strings.Fields(command)
		here.Run(t, "", args[0], args[1:]...)
	}
	var f host.Facts
	var err error
	here.Do(func() { f, err = host.Read(t.Context()) })
	if got := fmt.Sprint(f.Inside); err != nil || got != "[10.89.0.1/24 172.30.0.1/16 fd00:89::1/64]" {
		t.Errorf("networks of containers: %s, %v", got, err)
	}
}
