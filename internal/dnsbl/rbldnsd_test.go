//go:build integration

package dnsbl

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mef/internal/control"
)

// The server of most public lists.
func TestRbldnsd(t *testing.T) {
	const program = "/usr/sbin/rbldnsd"
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v; run scripts/deps", err)
	}
	dir := t.TempDir()
	for file, text := range map[string]string{
		"four": ":127.0.0.4:see https://bl.example/?$\n127.0.0.2\n198.51.100.7\n192.0.2.0/24\n!192.0.2.9\n198.51.100.8 :127.0.0.10:a customer\n",
		"six":  ":127.0.0.4:see https://bl.example/?$\n0:0:0:0:0:ffff:7f00:2/128\n2001:db8::/32\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenPacket("udp", "127.0.0.1:0") // a port that is free
	if err != nil {
		t.Fatal(err)
	}
	addr := conn.LocalAddr().String()
	conn.Close()
	host, port, _ := net.SplitHostPort(addr)
	var said strings.Builder
	server := exec.Command(program, "-n", "-u", fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid()), "-b", host+"/"+port, "-w", dir, "bl.example:ip4set:four", "bl.example:ip6trie:six")
	if os.Getuid() == 0 {
		server.Args[3] = "nobody"
	}
	server.Stdout, server.Stderr = &said, &said
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
		if t.Failed() {
			t.Log(said.String())
		}
	})
	z := zoneConf()
	z.Match, z.Timeout, z.Error = []string{"127.0.0.4"}, 2*time.Second, 10*time.Millisecond // it may not answer yet
	c, got := start(t, z, addr)
	wait(t, c, "usable", func(s control.DNSBLList) bool {
		_ = c.Check(t.Context(), listedIPv4)
		return s.Usable
	})
	for addr, want := range map[string]string{
		"198.51.100.7":     "see https://bl.example/?198.51.100.7",
		"192.0.2.200":      "see https://bl.example/?192.0.2.200",
		"192.0.2.9":        "",
		"198.51.100.8":     "", // an answer that does not mean listed
		"203.0.113.1":      "",
		"2001:db8::7":      "see https://bl.example/?",
		"2001:db9::7":      "",
		"::ffff:127.0.0.2": "see https://bl.example/?",
	} {
		if found := look(t, c, got, addr); (want == "") != (found == "") || !strings.Contains(found, want) {
			t.Errorf("%s: found %q, want %q", addr, found, want)
		}
	}
}
