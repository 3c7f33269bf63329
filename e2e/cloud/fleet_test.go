//go:build integration

package cloud_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"mef/internal/netnstest"
)

// A fleet is three own hosts and their server.
type fleet struct {
	*testing.T
	dir, bin string // of the server, of the programs
	hosts    []*host
	attacker *netnstest.NS
	serve    func() *process
	server   *process
}

// newFleet starts a server and three hosts, which are connected when it returns.
func newFleet(t *testing.T, bin, dir string) *fleet {
	t.Helper()
	f := &fleet{T: t, dir: dir, bin: bin, attacker: netnstest.New(t)}
	hub := netnstest.New(t)
	hub.Addr(t, "lo", "198.18.0.1/32") // to which all hosts have a route
	for i, name := range []string{"first", "second", "third"} {
		ns := netnstest.New(t)
		up, down := fmt.Sprintf("198.18.%d.1", i+1), fmt.Sprintf("198.18.%d.2", i+1)
		netnstest.Join(t, hub, ns, up+"/30", down+"/30")
		ns.Route(t, "198.18.0.1/32", up)
		here := fmt.Sprintf("203.0.%d.2", 113+i)
		netnstest.Join(t, f.attacker, ns, fmt.Sprintf("203.0.%d.1/24", 113+i), here+"/24")
		ns.Route(t, "198.51.100.0/24", fmt.Sprintf("203.0.%d.1", 113+i))
		f.hosts = append(f.hosts, begin(t, ns, name, f.bin, here))
	}
	f.attacker.Addr(t, "lo", "198.51.100.7/32 198.51.100.8/32 198.51.100.9/32 198.51.100.10/32 198.51.100.11/32")
	log := filepath.Join(t.TempDir(), "mefcloud.log")
	f.serve = func() *process {
		return start(t, hub, log, filepath.Join(f.bin, "mefcloud"), "serve", "--data", dir, "--listen", "198.18.0.1:8443", "--name", "198.18.0.1:8443")
	}
	f.server = f.serve()
	for _, h := range f.hosts {
		var invitation string
		h.until("an invitation", func() (err error) {
			invitation, err = f.mefcloud("invite", "--own")
			return err
		})
		h.mefctl("cloud", "join", strings.TrimSpace(invitation))
	}
	for _, h := range f.hosts {
		h.until("connected", func() error {
			if f := h.cloud().Fleet; f == nil || !f.Connected {
				return fmt.Errorf("not connected: %+v", f)
			}
			return nil
		})
	}
	return f
}

// mefcloud runs a command of the server.
func (f *fleet) mefcloud(args ...string) (string, error) {
	out, err := exec.Command(filepath.Join(f.bin, "mefcloud"), append([]string{"--data", f.dir}, args...)...).Output()
	return string(out), err
}

// A guest book has the addresses that have connected to a service.
type guestBook struct {
	mu    sync.Mutex
	guest map[netip.Addr]int
}

// guests starts a service on a host.
func guests(h *host) *guestBook {
	h.Helper()
	g := &guestBook{guest: make(map[netip.Addr]int)}
	l := netnstest.In(h.T, h.ns, func() (net.Listener, error) { return net.Listen("tcp", ":2222") })
	h.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			g.mu.Lock()
			g.guest[netip.MustParseAddrPort(conn.RemoteAddr().String()).Addr()]++
			g.mu.Unlock()
			conn.Close()
		}
	}()
	return g
}

func (g *guestBook) from(addr string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.guest[netip.MustParseAddr(addr)]
}

// banned waits until a host has banned an address, or no longer.
func (h *host) banned(addr string, want bool) {
	h.Helper()
	h.until(fmt.Sprintf("%s is banned: %v", addr, want), func() error {
		if got := strings.Contains(h.mefctl("bans", "list"), addr+" "); got != want {
			return fmt.Errorf("banned: %v", got)
		}
		return nil
	})
}

// knock opens a connection from an address to the service of guests, if it can.
func (f *fleet) knock(h *host, addr string) {
	if conn, err := f.attacker.Dial("tcp", addr, h.addr+":2222", netnstest.Silence); err == nil {
		conn.Close()
	}
}

// fill fills the file system of a directory, and returns what empties it again.
func fill(t *testing.T, dir string) (empty func()) {
	t.Helper()
	path := filepath.Join(dir, "filling")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 64 << 10; size > 0; size /= 2 {
		for err = nil; err == nil; _, err = f.Write(make([]byte, size)) {
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOwnHosts(t *testing.T) {
	bin := programs(t)
	t.Run("share bans", func(t *testing.T) { testHostsShareBans(t, bin) })
	t.Run("act as one", func(t *testing.T) { testHostsActAsOne(t, bin) })
	t.Run("share names", func(t *testing.T) { testHostsShareNames(t, bin) })
}

// An attack on one own host never reaches a service of the others, with a server whose disk is full too; attempts on all of them add up; and what one of
// them did is undone when it is revoked.
func testHostsActAsOne(t *testing.T, bin string) {
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=16m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	f := newFleet(t, bin, filepath.Join(disk, "cloud"))
	first, second, third := f.hosts[0], f.hosts[1], f.hosts[2]
	books := []*guestBook{guests(first), guests(second), guests(third)}
	spared := func(addr string, others ...int) {
		t.Helper()
		for _, i := range others {
			f.hosts[i].banned(addr, true)
			f.knock(f.hosts[i], addr)
			if n := books[i].from(addr); n != 0 {
				t.Errorf("%d connections from %s have reached host %d", n, addr, i)
			}
		}
	}
	second.until("the service answers", func() error {
		if f.knock(second, "198.51.100.11"); books[1].from("198.51.100.11") == 0 {
			return errors.New("nobody has come")
		}
		return nil
	})

	first.attacked("198.51.100.7")
	spared("198.51.100.7", 1, 2)

	empty := fill(t, disk)
	first.attacked("198.51.100.8")
	spared("198.51.100.8", 0, 1, 2)
	empty()
	first.until("what waited is sent", func() error {
		if c := first.cloud(); c.Fleet.Waiting > 0 || len(c.Problems) > 0 {
			return fmt.Errorf("%d wait: %q", c.Fleet.Waiting, c.Problems)
		}
		return nil
	})

	for _, h := range f.hosts {
		h.failed("slow", "198.51.100.9", 4)
	}
	spared("198.51.100.9", 0, 1, 2)
	if why := second.mefctl("why", "198.51.100.9"); !strings.Contains(why, "hosts of the operator together saw") {
		t.Errorf("mefctl why does not name the hosts:\n%s", why)
	}

	second.mefctl("allow", "add", "198.51.100.10", "--for", "1h", "--fleet")
	third.until("the allow entry", func() error {
		if !strings.Contains(third.mefctl("allow", "list"), "198.51.100.10 ") {
			return errors.New("it is missing")
		}
		return nil
	})
	third.attacked("198.51.100.10")
	third.attacked("198.51.100.11")
	for _, h := range f.hosts {
		h.banned("198.51.100.11", true)
		h.banned("198.51.100.10", false)
	}

	if out, err := f.mefcloud("agents"); err != nil || !strings.Contains(out, " of 200") {
		t.Errorf("%v:\n%s", err, out)
	}
	id := first.cloud().Host
	if _, err := f.mefcloud("revoke", id); err != nil {
		t.Fatal(err)
	}
	for _, h := range []*host{second, third} {
		h.banned("198.51.100.7", false)
		h.banned("198.51.100.8", false)
		h.banned("198.51.100.11", true)
	}
	second.mefctl("allow", "delete", "198.51.100.10")
	third.until("no allow entry", func() error {
		if strings.Contains(third.mefctl("allow", "list"), "198.51.100.10 ") {
			return errors.New("it is there")
		}
		return nil
	})
}
