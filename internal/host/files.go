//go:build linux

package host

import (
	"bufio"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// maxFile is how much of a file is read: none of these files is large, and all are somebody else's.
const maxFile = 1 << 20

// lines calls fn for each line of a file. A file that cannot be read has none.
func lines(path string, fn func(string)) {
	file, err := os.Open(path)
	if err != nil {
		return
	}
	defer file.Close()
	for s := bufio.NewScanner(io.LimitReader(file, maxFile)); s.Scan(); {
		fn(s.Text())
	}
}

// resolvers returns the name servers of files in the form of resolv.conf(5).
func resolvers(paths ...string) (out []netip.Addr) {
	for _, path := range paths {
		lines(path, func(line string) {
			if fields := strings.Fields(line); len(fields) >= 2 && fields[0] == "nameserver" {
				out = appendAddr(out, fields[1])
			}
		})
	}
	return out
}

func appendAddr(list []netip.Addr, s string) []netip.Addr {
	a, err := netip.ParseAddr(s)
	if a = a.WithZone("").Unmap(); err != nil || !usual(a) {
		return list
	}
	return append(list, a)
}

// leaseFiles are where systemd-networkd, NetworkManager and dhclient note their leases.
var leaseFiles = []string{
	"/run/systemd/netif/leases/*",
	"/var/lib/NetworkManager/*.lease",
	"/var/lib/dhcp/*.leases",
	"/var/lib/dhclient/*.leases",
}

// dhcpServers returns the servers that lease files name.
func dhcpServers(globs []string) (out []netip.Addr) {
	for _, glob := range globs {
		paths, _ := filepath.Glob(glob)
		for _, path := range paths {
			lines(path, func(line string) {
				if s, ok := strings.CutPrefix(line, "SERVER_ADDRESS="); ok {
					out = appendAddr(out, s)
				} else if s, ok := strings.CutPrefix(strings.TrimSpace(line), "option dhcp-server-identifier "); ok {
					out = appendAddr(out, strings.TrimSuffix(s, ";"))
				}
			})
		}
	}
	return out
}

// UsesDHCP reports whether a DHCP client keeps leases on this host.
func UsesDHCP() bool { return len(dhcpServers(leaseFiles)) > 0 }

// UserID returns the number of a user. It reads /etc/passwd: a system account that a daemon runs under stands there.
func UserID(name string) (uid uint32, ok bool) { return userID("/etc/passwd", name) }

func userID(path, name string) (uid uint32, ok bool) {
	lines(path, func(line string) {
		f := strings.Split(line, ":")
		if ok || len(f) < 3 || f[0] != name || name == "" {
			return
		}
		if n, err := strconv.ParseUint(f[2], 10, 32); err == nil {
			uid, ok = uint32(n), true
		}
	})
	return uid, ok
}
