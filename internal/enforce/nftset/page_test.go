//go:build integration

package nftset_test

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"mef/internal/enforce"
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
	if err != nil {
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

// Clients that are banned on the port of the web server are sent to the page, and nobody else is.
func TestPage(t *testing.T) {
	server, peer := netnstest.New(t), netnstest.New(t)
	netnstest.Join(t, server, peer, "192.0.2.1/24 2001:db8:1::1/64",
		"192.0.2.7/24 192.0.2.8/24 192.0.2.9/24 192.0.2.10/24 192.0.2.11/24 2001:db8:1::7/64 2001:db8:1::8/64 2001:db8:1::9/64")
	saying(t, server, "web", ":80")
	saying(t, server, "tls", ":443")
	saying(t, server, "ssh", ":22")
	saying(t, server, "page", ":8480")
	b := openWith(t, server, enforce.Settings{Log: drops, Page: 8480})
	const perm = enforce.Permanent
	if _, err := b.Rebuild(t.Context(), enforce.Changes{Bans: []enforce.Change{
		{Key: key(t, "192.0.2.7", "80,443"), Timeout: perm},
		{Key: key(t, "192.0.2.8"), Timeout: perm},
		{Key: key(t, "192.0.2.9", "22"), Timeout: perm},
		{Key: key(t, "192.0.2.10", "23-65535"), Timeout: perm},
		{Key: key(t, "192.0.2.11", "80,443", "unverified"), Timeout: perm},
		{Key: key(t, "2001:db8:1::7", "80,443"), Timeout: perm},
		{Key: key(t, "2001:db8:1::9", "80"), Timeout: perm},
		{Key: key(t, "2001:db8:1::9"), Timeout: perm},
	}}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ from, port, want string }{
		{"192.0.2.7", "80", "page"}, {"192.0.2.7", "443", "nothing"}, {"192.0.2.7", "22", "ssh"}, {"192.0.2.7", "8480", "nothing"},
		{"192.0.2.8", "80", "nothing"}, {"192.0.2.8", "22", "nothing"},
		{"192.0.2.9", "80", "web"}, {"192.0.2.9", "22", "nothing"}, {"192.0.2.9", "8480", "nothing"},
		{"192.0.2.10", "80", "page"}, {"192.0.2.10", "8480", "nothing"}, {"192.0.2.10", "22", "ssh"},
		{"192.0.2.11", "80", "nothing"},
		{"2001:db8:1::7", "80", "page"}, {"2001:db8:1::7", "22", "ssh"}, {"2001:db8:1::7", "8480", "nothing"},
		{"2001:db8:1::8", "80", "web"}, {"2001:db8:1::8", "8480", "nothing"},
		{"2001:db8:1::9", "80", "nothing"},
	} {
		to := net.JoinHostPort("192.0.2.1", tt.port)
		if strings.Contains(tt.from, ":") {
			to = net.JoinHostPort("2001:db8:1::1", tt.port)
		}
		patience := 20 * time.Second
		if tt.want == "nothing" {
			patience = 200 * time.Millisecond
		}
		if got := hears(peer, tt.from, to, patience); got != tt.want {
			t.Errorf("%s at port %s hears %s, want %s", tt.from, tt.port, got, tt.want)
		}
	}
	check, err := b.Check(t.Context())
	if err != nil || len(check.Damaged) > 0 {
		t.Errorf("Check = %+v, %v; want nothing damaged", check, err)
	}
	listing := server.Run(t, "", "nft", "list", "table", "inet", "mefdaemon")
	for _, want := range []string{"tcp dport set 8480 accept", "tcp sport 8480 tcp sport set 80", "goto page"} {
		if !strings.Contains(listing, want) {
			t.Errorf("nft does not show %q:\n%s", want, listing)
		}
	}

	told := 0
	for range 60 {
		if hears(peer, "2001:db8:1::7", "[2001:db8:1::1]:80", 200*time.Millisecond) == "page" {
			told++
		} else {
			break
		}
	}
	if told == 60 {
		t.Errorf("%d connections in a moment are all answered", told)
	}
}
