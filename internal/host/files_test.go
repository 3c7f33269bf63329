package host

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func texts[T interface{ String() string }](list []T) []string {
	var out []string
	for _, v := range list {
		out = append(out, v.String())
	}
	return out
}

func TestResolvers(t *testing.T) {
	stub := file(t, "resolv.conf", "# made by systemd-resolved\nnameserver 127.0.0.53\noptions edns0\nsearch example.org\n")
	real := file(t, "real.conf", "nameserver 192.0.2.53\nnameserver fe80::1%eth0\n nameserver\t2001:db8::53 # second\nnameserver nonsense\nnameserver\n")
	got := texts(resolvers(stub, real, "/nowhere/resolv.conf"))
	want := []string{"192.0.2.53", "2001:db8::53"} // no stub on loopback, no link-local
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("resolvers (-want +got):\n%s", diff)
	}
}

func TestDHCPServers(t *testing.T) {
	networkd := file(t, "2", "# do not edit\nADDRESS=192.0.2.7\nSERVER_ADDRESS=192.0.2.1\nROUTER=192.0.2.2\n")
	dhclient := file(t, "dhclient.eth0.leases", "lease {\n  fixed-address 198.51.100.9;\n  option dhcp-server-identifier 198.51.100.1;\n}\n")
	got := texts(dhcpServers([]string{networkd, filepath.Join(filepath.Dir(dhclient), "*.leases"), "/nowhere/*"}))
	if want := []string{"192.0.2.1", "198.51.100.1"}; !slices.Equal(got, want) {
		t.Errorf("dhcpServers = %v, want %v", got, want)
	}
}

func TestUserIDs(t *testing.T) {
	passwd := file(t, "passwd", "root:x:0:0:root:/root:/bin/bash\n\nbroken\nmail:x:eight:8::/:/bin/sh\nsshd:x:102:65534::/run/sshd:/usr/sbin/nologin\n+::::::\n")
	for name, want := range map[string]uint32{"root": 0, "sshd": 102} {
		if got, ok := userIDs(passwd)(name); !ok || got != want {
			t.Errorf("userIDs(%q) = %d, %v; want %d", name, got, ok, want)
		}
	}
	for _, name := range []string{"", "nobody", "mail", "broken", "+"} {
		if got, ok := userIDs(passwd)(name); ok {
			t.Errorf("userIDs(%q) = %d, want none", name, got)
		}
	}
	if _, ok := userIDs("/nowhere/passwd")("root"); ok {
		t.Error("userIDs found root in no file")
	}
}

func TestUsualAddresses(t *testing.T) {
	for s, want := range map[string]bool{"192.0.2.1": true, "2001:db8::1": true, "10.0.0.1": true, "fd00::1": true,
		"127.0.0.1": false, "::1": false, "fe80::1": false, "169.254.1.1": false, "224.0.0.1": false, "0.0.0.0": false, "::": false} {
		if got := usual(netip.MustParseAddr(s)); got != want {
			t.Errorf("usual(%s) = %v, want %v", s, got, want)
		}
	}
}
