//go:build integration

package zone

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestLikeRbldnsd serves the same entries with the server of most public lists, and asks both about listed and other addresses.
func TestLikeRbldnsd(t *testing.T) {
	const program = "/usr/sbin/rbldnsd"
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v; run scripts/deps", err)
	}
	z := start(t)
	rng := rand.New(rand.NewPCG(3, 4))
	four, six := ":127.0.0.2:listed\n127.0.0.2\n", ":127.0.0.2:listed\n0:0:0:0:0:ffff:7f00:2/128\n"
	var asked []netip.Addr
	for range 3000 {
		addr := netip.AddrFrom4([4]byte{byte(1 + rng.IntN(222)), byte(rng.IntN(256)), byte(rng.IntN(256)), byte(rng.IntN(256))})
		z.index.Set(addr, NewInfo(1, 50, 1, 1<<19))
		four += addr.String() + "\n"
		asked = append(asked, addr, addr.Next())
	}
	for range 300 {
		b := netip.MustParseAddr("2001:db8::").As16()
		b[4], b[5], b[7] = byte(rng.IntN(256)), byte(rng.IntN(256)), byte(rng.IntN(256))
		addr := netip.AddrFrom16(b)
		z.index.Set(addr, NewInfo(1, 50, 1, 1<<19))
		six += addr.StringExpanded() + "/64\n"
		b[15] = 1
		asked = append(asked, netip.AddrFrom16(b))
		b[6]++
		asked = append(asked, netip.AddrFrom16(b))
	}
	for _, l := range listings { // are in the zone too
		if addr := netip.MustParseAddr(l.addr); addr.Is4() {
			four += l.addr + "\n"
		} else {
			six += addr.StringExpanded() + "/64\n"
		}
	}
	asked = append(asked, netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3"))
	dir := t.TempDir()
	for file, text := range map[string]string{"four": four, "six": six} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		_ = os.Chmod(d, 0o755) // for the user to which rbldnsd changes
	}
	conn, err := net.ListenPacket("udp", "127.0.0.1:0") // a port that is free
	if err != nil {
		t.Fatal(err)
	}
	addr := conn.LocalAddr().String()
	conn.Close()
	host, port, _ := net.SplitHostPort(addr)
	user := fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid())
	if os.Getuid() == 0 {
		user = "nobody"
	}
	var said strings.Builder
	server := exec.Command(program, "-n", "-u", user, "-b", host+"/"+port, "-w", dir, testZone+":ip4trie:four", testZone+":ip6trie:six")
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
	c := &dns.Client{Timeout: time.Second}
	test := new(dns.Msg).SetQuestion(reversed(t, "127.0.0.2"), dns.TypeA)
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if m, _, err := c.Exchange(test, addr); err == nil && len(m.Answer) == 1 {
			break
		} else if time.Now().After(end) {
			t.Fatalf("rbldnsd does not answer: %v %v", m, err)
		}
	}
	listed := 0
	for _, a := range asked {
		name := reversed(t, a.String())
		theirs, ours := ask(t, addr, "udp", name, dns.TypeA), ask(t, z.Addr().String(), "udp", name, dns.TypeA)
		if len(theirs.Answer) > 0 != (len(ours.Answer) > 0) || theirs.Rcode != ours.Rcode {
			t.Errorf("%s: rbldnsd answers %q, this zone %q", a, shown(theirs), shown(ours))
		}
		if len(ours.Answer) > 0 {
			listed++
		}
	}
	if listed < 3300 || listed > 3400 {
		t.Errorf("%d of %d addresses are listed", listed, len(asked))
	}
}
