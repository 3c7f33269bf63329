//go:build integration

package nftset_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mef/internal/enforce"
	"mef/internal/enforce/enforcetest"
	"mef/internal/netnstest"
)

// saying listens and says a word to everybody who connects.
func saying(t *testing.T, ns *netnstest.NS, word, addr string) {
	t.Helper()
	l := netnstest.In(t, ns, func() (net.Listener, error) { return new(net.ListenConfig).Listen(context.Background(), "tcp", addr) })
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, word)
			conn.Close()
		}
	}()
}

// hears returns what a client is told at an address, or why it is told nothing.
func hears(ns *netnstest.NS, from, to string, patience time.Duration) string {
	conn, err := ns.Dial("tcp", from, to, patience)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		return "reset"
	case err != nil:
		return "nothing"
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	word, err := io.ReadAll(conn)
	if err != nil {
		return err.Error()
	}
	return string(word)
}

// silence is how long a client waits that is to hear nothing.
const silence = 300 * time.Millisecond

// Clients that are banned on the ports of the web server are sent to the page, and nobody else is.
func TestPage(t *testing.T) {
	const perm = enforce.Permanent
	for name, page := range map[string]enforce.Page{"plain": {HTTP: 8480}, "with TLS": {HTTP: 8480, TLS: 8481}} {
		t.Run(name, func(t *testing.T) {
			tls, both := "reset", "8480 accept"
			if page.TLS != 0 {
				tls, both = "page over TLS", "8481 accept"
			}
			server, peer := netnstest.New(t), netnstest.New(t)
			netnstest.Join(t, server, peer, "192.0.2.1/24 198.51.100.1/24 2001:db8:1::1/64 2001:db8:2::1/64",
				"192.0.2.7/24 192.0.2.8/24 192.0.2.9/24 192.0.2.10/24 192.0.2.11/24 192.0.2.12/24 198.51.100.7/24 198.51.100.8/24 "+
					"2001:db8:1::7/64 2001:db8:1::8/64 2001:db8:1::9/64 2001:db8:2::7/64")
			for port, word := range map[string]string{":80": "web", ":443": "tls", ":22": "ssh", ":8480": "page", ":8481": "page over TLS"} {
				saying(t, server, word, port)
			}
			b := openWith(t, server, enforce.Settings{Log: drops, Page: page})
			if _, err := b.Rebuild(t.Context(), enforce.Changes{Bans: []enforce.Change{
				{Key: key(t, "192.0.2.7", "80,443"), Timeout: perm},
				{Key: key(t, "192.0.2.8"), Timeout: perm},
				{Key: key(t, "192.0.2.8", "80,443"), Timeout: perm},
				{Key: key(t, "192.0.2.9", "22"), Timeout: perm},
				{Key: key(t, "192.0.2.10", "23-65535"), Timeout: perm},
				{Key: key(t, "192.0.2.11", "80,443", "unverified"), Timeout: perm},
				{Key: key(t, "198.51.100.0/24"), Timeout: perm},
				{Key: key(t, "2001:db8:1::7", "80,443"), Timeout: perm},
				{Key: key(t, "2001:db8:1::9", "80"), Timeout: perm},
				{Key: key(t, "2001:db8:1::9"), Timeout: perm},
				{Key: key(t, "2001:db8:2::/64"), Timeout: perm},
			}, Except: []enforce.Element{{Prefix: netip.MustParsePrefix("198.51.100.8/32"), Timeout: perm}}}); err != nil {
				t.Fatal(err)
			}
			// Kinds that come later, and a list.
			if _, err := b.Apply(t.Context(), enforce.Changes{Bans: []enforce.Change{
				{Key: key(t, "192.0.2.12", "80,443"), Timeout: perm},
				{Key: key(t, "198.51.100.7", "80"), Timeout: perm}, {Key: key(t, "198.51.100.8", "80"), Timeout: perm},
				{Key: key(t, "2001:db8:2::7", "80,443"), Timeout: perm},
			}}); err != nil {
				t.Fatal(err)
			}
			for load := b.SetList(enforce.List{Name: "feed", Addrs: enforcetest.Packed("192.0.2.12")}); ; {
				if done, err := load(t.Context()); err != nil {
					t.Fatal(err)
				} else if done {
					break
				}
			}
			var asked sync.WaitGroup
			for _, tt := range []struct{ from, port, want string }{
				{"192.0.2.7", "80", "page"}, {"192.0.2.7", "443", tls}, {"192.0.2.7", "22", "ssh"}, {"192.0.2.7", "8480", "nothing"},
				{"192.0.2.8", "80", "nothing"}, {"192.0.2.8", "443", "nothing"}, {"192.0.2.8", "22", "nothing"},
				{"192.0.2.9", "80", "web"}, {"192.0.2.9", "443", "tls"}, {"192.0.2.9", "22", "nothing"}, {"192.0.2.9", "8480", "nothing"},
				{"192.0.2.10", "80", "page"}, {"192.0.2.10", "443", tls}, {"192.0.2.10", "8480", "nothing"}, {"192.0.2.10", "22", "ssh"},
				{"192.0.2.11", "80", "nothing"}, {"192.0.2.11", "443", "nothing"},
				{"192.0.2.12", "80", "nothing"},   // listed
				{"198.51.100.7", "80", "nothing"}, // its network is banned on all ports
				{"198.51.100.8", "80", "page"},    // excepted from that
				{"2001:db8:1::7", "80", "page"}, {"2001:db8:1::7", "443", tls}, {"2001:db8:1::7", "22", "ssh"}, {"2001:db8:1::7", "8480", "nothing"},
				{"2001:db8:1::8", "80", "web"}, {"2001:db8:1::8", "443", "tls"}, {"2001:db8:1::8", "8480", "nothing"},
				{"2001:db8:1::9", "80", "nothing"},
				{"2001:db8:2::7", "80", "nothing"}, {"2001:db8:2::7", "443", "nothing"},
			} {
				from := netip.MustParseAddr(tt.from)
				to, err := from.Prefix(map[bool]int{true: 24, false: 64}[from.Is4()])
				if err != nil {
					t.Fatal(err)
				}
				asked.Go(func() {
					patience := 20 * time.Second
					if tt.want == "nothing" {
						patience = silence
					}
					if got := hears(peer, tt.from, net.JoinHostPort(to.Addr().Next().String(), tt.port), patience); got != tt.want {
						t.Errorf("%s at port %s hears %s, want %s", tt.from, tt.port, got, tt.want)
					}
				})
			}
			asked.Wait()
			check, err := b.Check(t.Context())
			if err != nil || len(check.Damaged) > 0 {
				t.Errorf("Check = %+v, %v; want nothing damaged", check, err)
			}
			listing := server.Run(t, "", "nft", "list", "table", "inet", "mefdaemon")
			for _, want := range []string{"tcp dport set 8480 accept", "tcp sport 8480 tcp sport set 80", "goto page", both} {
				if !strings.Contains(listing, want) {
					t.Errorf("nft does not show %q:\n%s", want, listing)
				}
			}
		})
	}
}

// A client that opens more and more connections is left out for a while, and spends nothing of what others need.
func TestPageFlood(t *testing.T) {
	server, peer := netnstest.New(t), netnstest.New(t)
	netnstest.Join(t, server, peer, "192.0.2.1/24 2001:db8:1::1/64", "192.0.2.7/24 192.0.2.8/24 2001:db8:1::7/64 2001:db8:1::8/64")
	saying(t, server, "page", ":8480")
	b := openWith(t, server, enforce.Settings{Log: drops, Page: enforce.Page{HTTP: 8480}})
	if _, err := b.Rebuild(t.Context(), enforce.Changes{Bans: []enforce.Change{
		{Key: key(t, "192.0.2.7", "80"), Timeout: enforce.Permanent}, {Key: key(t, "192.0.2.8", "80"), Timeout: enforce.Permanent},
		{Key: key(t, "2001:db8:1::7", "80"), Timeout: enforce.Permanent},
	}}); err != nil {
		t.Fatal(err)
	}
	flood := func(from, to string) (told int) {
		for patience := 20 * time.Second; told < 100 && hears(peer, from, to, patience) == "page"; patience = silence {
			told++
		}
		return told
	}
	if told := flood("2001:db8:1::7", "[2001:db8:1::1]:80"); told < 15 || told == 100 {
		t.Errorf("%d connections in a moment are answered", told)
	}
	off := server.Run(t, "", "nft", "list", "set", "inet", "mefdaemon", "page_off6")
	if !strings.Contains(off, "2001:db8:1::") {
		t.Errorf("the client is not left out:\n%s", off)
	}
	told := flood("192.0.2.7", "192.0.2.1:80")
	if got := hears(peer, "192.0.2.8", "192.0.2.1:80", 20*time.Second); got != "page" || told == 100 {
		t.Errorf("a client hears %s after %d connections of another", got, told)
	}
}

// A segment in fragments does not reach the web server of a client that is sent to the page: the port of a fragment without a whole header
// cannot be changed.
func TestPageFragments(t *testing.T) {
	server, peer := netnstest.New(t), netnstest.New(t)
	netnstest.Join(t, server, peer, "192.0.2.1/24", "192.0.2.7/24")
	server.Run(t, "table ip watch {\n chain in {\n type filter hook input priority 0\n tcp dport 80 counter\n }\n}\n", "nft", "-f", "-")
	b := openWith(t, server, enforce.Settings{Log: drops, Page: enforce.Page{HTTP: 8480}})
	reaches := func(port uint16) bool {
		t.Helper()
		var err error
		peer.Do(func() { err = sendFragments(netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("192.0.2.1"), port) })
		if err != nil {
			t.Fatal(err)
		}
		if err := peer.Ping("192.0.2.1", 20*time.Second); err != nil { // it comes after the fragments
			t.Fatal(err)
		}
		return !strings.Contains(server.Run(t, "", "nft", "list", "table", "ip", "watch"), "packets 0 ")
	}
	if _, err := b.Rebuild(t.Context(), enforce.Changes{Bans: []enforce.Change{{Key: key(t, "192.0.2.7", "80"), Timeout: enforce.Permanent}}}); err != nil {
		t.Fatal(err)
	}
	if reaches(4001) {
		t.Error("fragments of a banned client reach the web server")
	}
	if _, err := b.Rebuild(t.Context(), enforce.Changes{}); err != nil {
		t.Fatal(err)
	}
	if !reaches(4000) {
		t.Fatal("fragments reach nothing without the ban either")
	}
}

// sendFragments sends a SYN to port 80, its first 8 bytes in one packet and the others in another.
func sendFragments(from, to netip.Addr, port uint16) error {
	tcp := binary.BigEndian.AppendUint16(nil, port)
	tcp = append(tcp, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 5<<4, 2, 4, 0, 0, 0, 0, 0)
	pseudo := append(append(append([]byte{}, from.AsSlice()...), to.AsSlice()...), 0, unix.IPPROTO_TCP, 0, byte(len(tcp)))
	binary.BigEndian.PutUint16(tcp[16:], netnstest.Checksum(append(pseudo, tcp...)))
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, part := range []struct {
		place uint16
		data  []byte
	}{{0x2000, tcp[:8]}, {1, tcp[8:]}} {
		ip := []byte{0x45, 0, 0, byte(20 + len(part.data)), byte(port >> 8), byte(port), byte(part.place >> 8), byte(part.place), 64, unix.IPPROTO_TCP, 0, 0}
		ip = append(append(ip, from.AsSlice()...), to.AsSlice()...)
		if err := unix.Sendto(fd, append(ip, part.data...), 0, &unix.SockaddrInet4{Addr: to.As4()}); err != nil {
			return err
		}
	}
	return nil
}
