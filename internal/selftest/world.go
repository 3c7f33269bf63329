package selftest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"

	"mef/internal/netlink/rtnl"
)

// A site is a server with two peers, one of which gets banned. Each kind of ban has a site of its own in each family, so that
// all can be tried at once.
type site struct {
	addrs [3]netip.Addr // by role
	ban   netip.Prefix
	bits  int // of the network in which all three are neighbours on the cable
}

func newSite(server, peer, other string, bits, banBits int) site {
	s := site{addrs: [3]netip.Addr{netip.MustParseAddr(server), netip.MustParseAddr(peer), netip.MustParseAddr(other)}, bits: bits}
	s.ban = netip.PrefixFrom(s.addrs[banned], banBits).Masked()
	return s
}

// A family is an address family, with a site for each of kinds.
type family struct {
	name  string
	sites []site
}

var families = []family{
	{"IPv4", []site{
		newSite("192.0.2.1", "192.0.2.7", "192.0.2.8", 24, 32),
		newSite("198.51.100.1", "198.51.100.7", "198.51.100.8", 24, 32),
		newSite("203.0.113.1", "203.0.113.7", "203.0.113.8", 24, 32),
	}},
	{"IPv6", []site{
		newSite("2001:db8:1::1", "2001:db8:1:7::7", "2001:db8:1:8::8", 48, 64),
		newSite("2001:db8:2::1", "2001:db8:2:7::7", "2001:db8:2:8::8", 48, 64),
		newSite("2001:db8:3::1", "2001:db8:3:7::7", "2001:db8:3:8::8", 48, 64),
	}},
}

// A world is a server and, at the other end of a virtual cable, all its peers.
type world struct {
	server, peer namespace
	missing      map[string]error // why a family cannot be tested, by its name
}

// newWorld makes the namespaces and everything in them. An error means that this machine does not allow that; it means nothing
// about bans.
func newWorld(ctx context.Context) (*world, error) {
	w := &world{server: none, peer: none, missing: map[string]error{}}
	if err := w.build(ctx); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *world) build(ctx context.Context) (err error) {
	if w.server, err = newNamespace(); err != nil {
		return err
	}
	if w.peer, err = newNamespace(); err != nil {
		return err
	}
	if err := w.connect(); err != nil {
		return err
	}
	for _, f := range families {
		err := w.settle(f)
		if err == nil {
			err = w.open(ctx, f)
		}
		if err != nil && f.name == "IPv4" {
			return err
		}
		w.missing[f.name] = err // IPv6 may be switched off for the whole machine
	}
	return nil
}

// open returns an error if packets do not even get through before there is any ban: a service may be forbidden to talk to these
// addresses (systemd's IPAddressDeny), and that is not for us to judge.
func (w *world) open(ctx context.Context, f family) error {
	for _, network := range []string{"tcp", "udp"} {
		if err := w.passes(ctx, f.sites[0], route{network, neighbour, server, 22}); err != nil {
			return fmt.Errorf("without any ban, %w", err)
		}
	}
	return nil
}

func (w *world) close() {
	w.server.close()
	w.peer.close()
}

// of returns where a role lives.
func (w *world) of(r role) namespace {
	if r == server {
		return w.server
	}
	return w.peer
}

// cable is the name of both ends of the cable, each in its namespace.
const cable = "selftest"

// The Ethernet addresses of the two ends, from the range that nobody owns.
var (
	serverMAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	peerMAC   = net.HardwareAddr{2, 0, 0, 0, 0, 2}
)

// connect lays the cable and brings both ends up; an IPv6 address of an interface that is down would have to wait.
func (w *world) connect() error {
	err := w.server.configure(func(c *rtnl.Conn) error {
		return c.AddVeth(cable, serverMAC, rtnl.End{Name: cable, MAC: peerMAC, Namespace: w.peer.fd()})
	})
	if err != nil {
		return fmt.Errorf("virtual cable (veth): %w", err)
	}
	for _, n := range []namespace{w.server, w.peer} {
		if err := n.onCable((*rtnl.Conn).SetUp); err != nil {
			return fmt.Errorf("bring up the virtual cable: %w", err)
		}
	}
	return nil
}

// settle gives the addresses of a family to the two ends of the cable, and makes them known to each other.
func (w *world) settle(f family) error {
	for _, s := range f.sites {
		for r, addr := range s.addrs {
			here, there, mac := w.peer, w.server, peerMAC
			if role(r) == server {
				here, there, mac = w.server, w.peer, serverMAC
			}
			if err := here.add(netip.PrefixFrom(addr, s.bits)); err != nil {
				return fmt.Errorf("address %s: %w", addr, err)
			}
			if err := there.introduce(addr, mac); err != nil {
				return fmt.Errorf("neighbour %s: %w", addr, err)
			}
		}
	}
	return nil
}

// A namespace is a network namespace without a name: an open file.
type namespace int

// none is no namespace.
const none namespace = -1

func newNamespace() (n namespace, err error) {
	n = none
	err = onThread(func() error { // which is taken along
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		fd, err := unix.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			n = namespace(fd)
		}
		return err
	})
	if err != nil {
		return none, fmt.Errorf("new network namespace: %w", err)
	}
	return n, nil
}

// onThread runs fn on a thread that ends with it: one that has been in another namespace must not run anything else.
func onThread(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked, so that the runtime ends the thread
		result <- fn()
	}()
	return <-result
}

func (n namespace) fd() int { return int(n) }

func (n namespace) close() {
	if n != none {
		unix.Close(n.fd())
	}
}

// do runs fn inside the namespace. Sockets that it opens stay there.
func (n namespace) do(fn func() error) error {
	return onThread(func() error {
		if err := unix.Setns(n.fd(), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return fn()
	})
}

// configure lets fn change interfaces of the namespace.
func (n namespace) configure(fn func(*rtnl.Conn) error) error {
	c, err := rtnl.Dial(n.fd())
	if err != nil {
		return err
	}
	defer c.Close()
	return fn(c)
}

// onCable is configure with the index of the namespace's end of the cable.
func (n namespace) onCable(fn func(c *rtnl.Conn, link int) error) error {
	return n.configure(func(c *rtnl.Conn) error {
		links, err := c.Links()
		if err != nil {
			return err
		}
		i := slices.IndexFunc(links, func(l rtnl.Link) bool { return l.Name == cable })
		if i < 0 {
			return fmt.Errorf("no interface %s", cable)
		}
		return fn(c, links[i].Index)
	})
}

// add gives the end of the cable an address, which can be used at once.
func (n namespace) add(p netip.Prefix) error {
	return n.onCable(func(c *rtnl.Conn, link int) error { return c.AddAddr(link, p) })
}

// introduce reports where a neighbour is: one that is asked too soon, before the kernel has made it listen to such questions,
// would be asked again after a second only.
func (n namespace) introduce(addr netip.Addr, mac net.HardwareAddr) error {
	return n.onCable(func(c *rtnl.Conn, link int) error { return c.AddNeighbor(link, addr, mac) })
}
