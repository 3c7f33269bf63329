//go:build linux

package host

import (
	"bufio"
	"bytes"
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

// UserIDs returns a function that returns the number of a user. It reads /etc/passwd once: a system account that a daemon runs under stands
// there.
func UserIDs() func(name string) (uid uint32, ok bool) { return userIDs("/etc/passwd") }

func userIDs(path string) func(name string) (uid uint32, ok bool) {
	text := []byte("\n")
	if file, err := os.Open(path); err == nil {
		defer file.Close()
		rest, _ := io.ReadAll(io.LimitReader(file, maxFile)) // what cannot be read has no users
		text = append(text, rest...)
	}
	return func(name string) (uint32, bool) {
		_, line, found := bytes.Cut(text, []byte("\n"+name+":"))
		line, _, _ = bytes.Cut(line, []byte("\n"))
		fields := bytes.SplitN(line, []byte(":"), 3) // the password, the number, and others
		if !found || name == "" || len(fields) < 3 {
			return 0, false
		}
		uid, err := strconv.ParseUint(string(fields[1]), 10, 32)
		return uint32(uid), err == nil
	}
}
