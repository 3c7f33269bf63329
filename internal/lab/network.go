//go:build linux

package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The addresses of the server, and of the router that joins it to the internet. Neighbor4 and Neighbor6 are another host on
// the server's own link; Container4 and Container6 a host behind the server, see World.Container.
var (
	Server4 = netip.MustParseAddr("192.0.2.1")
	Server6 = netip.MustParseAddr("2001:db8:1::1")

	Router4 = netip.MustParseAddr("192.0.2.254")
	Router6 = netip.MustParseAddr("2001:db8:1::ff")

	Neighbor4 = netip.MustParseAddr("192.0.2.66")
	Neighbor6 = netip.MustParseAddr("2001:db8:1::66")

	Container4 = netip.MustParseAddr("10.88.0.2")
	Container6 = netip.MustParseAddr("fd00:88::2")
)

// clients are the networks of clients. Each address in them can be used without being added to an interface. The last two are public ones, which
// feeds and countries may contain.
var clients = []string{"203.0.113.0/24", "198.51.100.0/24", "2001:db8:bad0::/44", "2001:db8:900d::/48", "45.83.0.0/24", "2a09:77::/32"}

// A Namespace is a network namespace: to its neighbours, a host.
type Namespace struct{ handle netns.NsHandle }

// newNamespace makes a namespace with nothing but a loopback interface, which is up.
func newNamespace() (*Namespace, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netns.Get()
	if err != nil {
		return nil, err
	}
	defer home.Close()
	handle, err := netns.New() // switches the thread
	if err != nil {
		return nil, fmt.Errorf("make network namespace: %w", err)
	}
	n := &Namespace{handle}
	if err := netns.Set(home); err != nil {
		return nil, fmt.Errorf("return to own network namespace: %w", err)
	}
	return n, n.Do(raiseLoopback)
}

// ownNamespace is the one this process started in.
func ownNamespace() (*Namespace, error) {
	handle, err := netns.Get()
	if err != nil {
		return nil, err
	}
	n := &Namespace{handle}
	return n, n.Do(raiseLoopback)
}

func raiseLoopback() error {
	// Duplicate address detection would make every address wait a second before it can be used.
	for _, which := range []string{"all", "default"} {
		if err := Sysctl("net/ipv6/conf/"+which+"/accept_dad", "0"); err != nil {
			return err
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// Sysctl sets a kernel parameter of the calling thread's namespace: "net/ipv4/ip_forward".
func Sysctl(key, value string) error {
	return os.WriteFile("/proc/sys/"+key, []byte(value), 0)
}

// Do runs fn inside the namespace, on the calling goroutine. Sockets that fn opens, and processes that it starts, stay there;
// goroutines that it starts do not.
func (n *Namespace) Do(fn func() error) error {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	if err := netns.Set(n.handle); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace: %w", err)
	}
	err = fn()
	if back := netns.Set(home); back != nil {
		return back // the thread stays locked, so that it ends with its goroutine and never runs another
	}
	runtime.UnlockOSThread()
	return err
}

// An End is one end of a cable.
type End struct {
	At    *Namespace
	Name  string   // of the interface
	Addrs []string // with prefix lengths
}

// Join connects two namespaces by a cable (veth). Its addresses can be used at once.
func Join(a, b End) error {
	cable := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: a.Name}, PeerName: b.Name, PeerNamespace: netlink.NsFd(b.At.handle)}
	if err := a.At.Do(func() error { return netlink.LinkAdd(cable) }); err != nil {
		return fmt.Errorf("add veth pair %s %s: %w", a.Name, b.Name, err)
	}
	for _, end := range []End{a, b} {
		if err := end.raise(); err != nil {
			return fmt.Errorf("bring up %s: %w", end.Name, err)
		}
	}
	return nil
}

// raise brings an interface up and then gives it addresses: IPv6 addresses of an interface that is down are tentative.
func (e End) raise() error {
	return e.At.Do(func() error {
		link, err := netlink.LinkByName(e.Name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
		for _, s := range e.Addrs {
			addr, err := netlink.ParseAddr(s)
			if err != nil {
				return err
			}
			addr.Flags = unix.IFA_F_NODAD
			if err := netlink.AddrAdd(link, addr); err != nil {
				return fmt.Errorf("add %s: %w", s, err)
			}
		}
		return nil
	})
}

// Route sends what is addressed to prefix ("0.0.0.0/0") through a neighbour.
func (n *Namespace) Route(prefix string, via netip.Addr) error {
	_, dst, err := net.ParseCIDR(prefix)
	if err != nil {
		return err
	}
	err = n.Do(func() error { return netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: via.AsSlice()}) })
	if err != nil {
		return fmt.Errorf("route %s via %s: %w", prefix, via, err)
	}
	return nil
}

// own makes every address of prefix one of the namespace's own.
func (n *Namespace) own(prefix string) error {
	_, dst, err := net.ParseCIDR(prefix)
	if err != nil {
		return err
	}
	return n.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{
			Dst: dst, LinkIndex: lo.Attrs().Index, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST,
		})
	})
}

// ForgetNeighbors empties the namespace's neighbour caches, so that the next packet has to ask for the peer's link address.
func (n *Namespace) ForgetNeighbors() error {
	return n.Do(func() error {
		neighbors, err := netlink.NeighList(0, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, neighbor := range neighbors {
			if neighbor.State&(unix.NUD_NOARP|unix.NUD_PERMANENT) == 0 {
				if err := netlink.NeighDel(&neighbor); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// Container returns a host behind the server, which forwards its packets; the first call makes it. The caller adds the rules by which a
// container engine publishes ports.
func (w *World) Container() (*Namespace, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.container != nil {
		return w.container, nil
	}
	container, err := newNamespace()
	if err != nil {
		return nil, err
	}
	err = Join(
		End{w.Server, "container0", []string{"10.88.0.1/24", "fd00:88::1/64"}},
		End{container, "eth0", []string{"10.88.0.2/24", "fd00:88::2/64"}},
	)
	if err != nil {
		return nil, err
	}
	for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		if err := Sysctl(key, "1"); err != nil {
			return nil, err
		}
	}
	w.container = container
	return container, errors.Join(
		container.Route("0.0.0.0/0", netip.MustParseAddr("10.88.0.1")),
		container.Route("::/0", netip.MustParseAddr("fd00:88::1")),
	)
}

// ServerLinkLocal returns the server's link-local address, with the zone of the internet's end of the cable.
func (w *World) ServerLinkLocal() (netip.Addr, error) {
	var found netip.Addr
	err := w.Server.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		addrs, err := netlink.AddrList(link, netlink.FAMILY_V6)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if addr, ok := netip.AddrFromSlice(a.IP); ok && addr.IsLinkLocalUnicast() {
				found = addr.WithZone("server0")
				return nil
			}
		}
		return errors.New("the server has no link-local address")
	})
	return found, err
}

// buildNetwork joins the server to an internet.
func buildNetwork() (server, internet *Namespace, err error) {
	if server, err = ownNamespace(); err != nil {
		return nil, nil, err
	}
	if internet, err = newNamespace(); err != nil {
		return nil, nil, err
	}
	err = Join(
		End{server, "eth0", []string{"192.0.2.1/24", "2001:db8:1::1/64"}},
		End{internet, "server0", []string{"192.0.2.254/24", "192.0.2.66/24", "2001:db8:1::ff/64", "2001:db8:1::66/64"}},
	)
	if err != nil {
		return nil, nil, err
	}
	if err := server.Route("0.0.0.0/0", Router4); err != nil {
		return nil, nil, err
	}
	if err := server.Route("::/0", Router6); err != nil {
		return nil, nil, err
	}
	for _, prefix := range clients {
		if err := internet.own(prefix); err != nil {
			return nil, nil, fmt.Errorf("give %s to the internet: %w", prefix, err)
		}
	}
	return server, internet, nil
}
