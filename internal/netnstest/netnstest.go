//go:build linux

// Package netnstest gives tests network namespaces of their own: real packets over real kernels, without touching the host.
//
// A test binary calls Main from TestMain, which runs it again in a fresh network and mount namespace; without root, in a
// fresh user namespace too. Inside, New makes further namespaces ("hosts") and Join lays a veth cable between two of them:
//
//	server, attacker := netnstest.New(t), netnstest.New(t)
//	netnstest.Join(t, server, attacker, "192.0.2.1/24", "192.0.2.7/24")
//	server.Echo(t, "tcp", ":22")
//	err := attacker.Try("tcp", "", "192.0.2.1:22")
//
// Where the kernel or the machine forbids namespaces, tests are skipped with the reason, and fail if CI=true.
package netnstest

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// insideEnv marks the second run of the test binary, inside the namespaces. Its value is "ok", or the reason why there are no
// namespaces.
const insideEnv = "MEF_NETNSTEST"

// Main runs the tests of m in a fresh network and mount namespace and exits. Nothing they do to interfaces, routes, nftables or
// mounts reaches the host.
func Main(m *testing.M) {
	if os.Getenv(insideEnv) != "" {
		os.Exit(m.Run())
	}
	code, err := rerun()
	if err != nil {
		os.Setenv(insideEnv, err.Error())
		os.Exit(m.Run())
	}
	os.Exit(code)
}

// rerun starts the test binary again inside fresh namespaces and returns its exit status.
func rerun() (code int, err error) {
	attr := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	runtime.LockOSThread() // Pdeathsig follows the thread that started the child, not the process
	defer runtime.UnlockOSThread()
	child, err := os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{
		Env:   append(os.Environ(), insideEnv+"=ok"),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys:   attr,
	})
	if err != nil {
		return 0, fmt.Errorf("start in fresh namespaces (needs root, or user namespaces allowed): %w", err)
	}
	state, err := child.Wait()
	if err != nil {
		return 0, err
	}
	return state.ExitCode(), nil
}

// Need skips the test unless it runs inside the namespaces that Main makes; with CI=true it fails it instead.
func Need(t testing.TB) {
	t.Helper()
	switch reason := os.Getenv(insideEnv); reason {
	case "ok":
	case "":
		t.Fatal("netnstest: TestMain must call netnstest.Main")
	default:
		Missing(t, reason)
	}
}

// Missing skips the test because the machine lacks something, for the reason given. With CI=true it fails the test instead, so that
// no test is skipped unnoticed.
func Missing(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("missing on this machine: %s", reason)
	}
	t.Skipf("missing on this machine: %s", reason)
}

// An NS is a network namespace, which to its neighbours looks like a host.
type NS struct {
	handle netns.NsHandle
	links  atomic.Int32 // names the next interface
}

// New makes a namespace with nothing but a loopback interface, which is up. It lasts until the test ends.
func New(t testing.TB) *NS {
	t.Helper()
	Need(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netns.Get()
	if err != nil {
		t.Fatalf("open own network namespace: %v", err)
	}
	defer home.Close()
	handle, err := netns.New() // switches the thread
	if err != nil {
		Missing(t, fmt.Sprintf("new network namespace: %v", err))
	}
	n := &NS{handle: handle}
	t.Cleanup(func() { handle.Close() })
	defer comeHome(home)
	// Duplicate address detection would make every address wait a second before it can be used.
	writeSysctl(t, "net.ipv6.conf.all.accept_dad", "0")
	writeSysctl(t, "net.ipv6.conf.default.accept_dad", "0")
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatalf("bring up lo: %v", err)
	}
	return n
}

// comeHome returns the calling thread to its namespace. A thread that cannot return must not run other goroutines.
func comeHome(home netns.NsHandle) {
	if err := netns.Set(home); err != nil {
		panic(fmt.Sprintf("return to own network namespace: %v", err))
	}
}

// Fd returns a file descriptor of the namespace, valid until the test ends.
func (n *NS) Fd() int { return int(n.handle) }

// Do runs fn inside the namespace, on the calling goroutine. Sockets that fn opens, and processes that it starts, stay there;
// goroutines that it starts do not.
func (n *NS) Do(fn func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netns.Get()
	if err != nil {
		panic(fmt.Sprintf("open own network namespace: %v", err))
	}
	defer home.Close()
	if err := netns.Set(n.handle); err != nil {
		panic(fmt.Sprintf("enter network namespace: %v", err))
	}
	defer comeHome(home)
	fn()
}

// In runs open inside a namespace and returns what it opens. The test ends if it fails.
func In[T any](t testing.TB, ns *NS, open func() (T, error)) T {
	t.Helper()
	var v T
	var err error
	ns.Do(func() { v, err = open() })
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Join connects two namespaces by a veth pair with these addresses ("192.0.2.1/24 2001:db8::1/64", blank-separated, addresses
// with prefix lengths) and returns the names of the two interfaces. Addresses can be used at once.
func Join(t testing.TB, a, b *NS, addrsA, addrsB string) (nameA, nameB string) {
	t.Helper()
	nameA, nameB = a.nextName(), b.nextName()
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: nameA}, PeerName: nameB, PeerNamespace: netlink.NsFd(b.handle)}
	a.Do(func() {
		if err := netlink.LinkAdd(veth); err != nil {
			t.Fatalf("add veth pair: %v", err)
		}
	})
	a.raise(t, nameA, addrsA)
	b.raise(t, nameB, addrsB)
	return nameA, nameB
}

func (n *NS) nextName() string { return fmt.Sprintf("veth%d", n.links.Add(1)-1) }

// raise brings an interface up and then gives it addresses: IPv6 addresses of an interface that is down are tentative.
func (n *NS) raise(t testing.TB, name, addrs string) {
	t.Helper()
	n.Do(func() {
		link, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatalf("find %s: %v", name, err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			t.Fatalf("bring up %s: %v", name, err)
		}
	})
	n.Addr(t, name, addrs)
}

// Addr adds addresses (blank-separated, with prefix lengths) to an interface.
func (n *NS) Addr(t testing.TB, name, addrs string) {
	t.Helper()
	n.Do(func() {
		link, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatalf("find %s: %v", name, err)
		}
		for _, s := range strings.Fields(addrs) {
			addr, err := netlink.ParseAddr(s)
			if err != nil {
				t.Fatalf("address %q: %v", s, err)
			}
			addr.Flags = unix.IFA_F_NODAD
			if err := netlink.AddrAdd(link, addr); err != nil {
				t.Fatalf("add %s to %s: %v", s, name, err)
			}
		}
	})
}

// Route sends what is addressed to prefix through the neighbour via.
func (n *NS) Route(t testing.TB, prefix, via string) {
	t.Helper()
	p := netip.MustParsePrefix(prefix)
	gateway := netip.MustParseAddr(via)
	n.Do(func() {
		dst, err := netlink.ParseIPNet(p.String())
		if err != nil {
			t.Fatalf("prefix %q: %v", prefix, err)
		}
		if err := netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: gateway.AsSlice()}); err != nil {
			t.Fatalf("route %s via %s: %v", prefix, via, err)
		}
	})
}

// Sysctl sets a kernel parameter of the namespace, such as "net.ipv4.ip_forward".
func (n *NS) Sysctl(t testing.TB, key, value string) {
	t.Helper()
	n.Do(func() { writeSysctl(t, key, value) })
}

func writeSysctl(t testing.TB, key, value string) {
	t.Helper()
	path := "/proc/sys/" + strings.ReplaceAll(key, ".", "/")
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		t.Fatalf("set %s=%s: %v", key, value, err)
	}
}

// Run runs a program inside the namespace with stdin as its input and returns what it printed. It fails the test if the
// program does, and skips it if the machine has no such program.
func (n *NS) Run(t testing.TB, stdin string, program string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		Missing(t, err.Error())
	}
	var out []byte
	n.Do(func() {
		cmd := exec.Command(path, args...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err = cmd.CombinedOutput()
	})
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}
