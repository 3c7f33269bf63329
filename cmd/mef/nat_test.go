//go:build integration

package main

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"mef/internal/netnstest"
)

// withContainer gives a server a host behind it, 198.51.100.2 and 2001:db8:1::2, that has services on port 80 and 2222.
func withContainer(t *testing.T, s *server) (inside *netnstest.NS) {
	t.Helper()
	inside = netnstest.New(t)
	netnstest.Join(t, s.ns, inside, "198.51.100.1/24 2001:db8:1::1/64", "198.51.100.2/24 2001:db8:1::2/64")
	inside.Route(t, "0.0.0.0/0", "198.51.100.1")
	inside.Route(t, "::/0", "2001:db8:1::1")
	inside.Echo(t, "tcp", ":80")
	inside.Echo(t, "tcp", ":2222")
	s.ns.Sysctl(t, "net.ipv4.ip_forward", "1")
	s.ns.Sysctl(t, "net.ipv6.conf.all.forwarding", "1")
	return inside
}

// forwarding is a policy that leads port 8080 to the host behind, and what that sends elsewhere comes from this one.
const forwarding = `policy dir=fwd action=drop
nat dir=in action=dnat to=198.51.100.2:80 proto=tcp dport=8080
nat dir=in action=dnat to=[2001:db8:1::2]:80 proto=tcp dport=8080
nat dir=out action=masquerade src=198.51.100.0/24,2001:db8:1::/64 dst=!198.51.100.0/24,2001:db8:1::/64
rule dir=fwd action=accept proto=all ct=established,related
rule dir=fwd action=accept proto=tcp dport=8080
rule dir=fwd action=accept proto=all src=198.51.100.0/24,2001:db8:1::/64
expect dir=in proto=tcp dport=8080 action=accept
expect dir=fwd proto=tcp src=192.0.2.7 dst=192.0.2.1 dport=80 action=drop
`

// TestTranslation has packets led to a host behind, and back, by each backend; connections that are translated outlive a reload, and end
// with the policy.
func TestTranslation(t *testing.T) {
	for _, backend := range []string{"nftables", "iptables"} {
		t.Run(backend, func(t *testing.T) {
			s := withIPTables(t)
			s.backend(backend)
			inside := withContainer(t, s)
			s.peer.Echo(t, "tcp", ":443")
			s.write("mef.rules", policyFor(ssh)+forwarding)
			s.must("apply", "--yes")
			for _, dial := range []struct {
				from *netnstest.NS
				to   string
			}{{s.peer, "192.0.2.1:8080"}, {s.peer, "[2001:db8::1]:8080"}, {inside, "192.0.2.7:443"}, {inside, "[2001:db8::7]:443"}} {
				conn, err := dial.from.Dial("tcp", "", dial.to, patience)
				if err != nil {
					t.Fatalf("%s: %v\n%s", dial.to, err, s.must("show"))
				}
				defer conn.Close()
				for _, args := range [][]string{{"load"}, {"apply", "--yes"}} {
					s.must(args...)
					if err := netnstest.Say(conn, patience); err != nil {
						t.Errorf("%s after mef %s: %v", dial.to, args[0], err)
					}
				}
			}
			s.must("status")
			for _, want := range []string{"nat", "dnat"} {
				if out := s.must("show"); !strings.Contains(out, want) {
					t.Errorf("show has no %q:\n%s", want, out)
				}
			}
			s.write("mef.rules", policyFor(ssh)+strings.Replace(forwarding, "to=198.51.100.2:80", "to=198.51.100.2:81", 1))
			if out := s.must("plan"); !strings.Contains(out, "nat dir=in family=ip proto=tcp iif=any dport=8080: dnat to 198.51.100.2:80 by ") || !strings.Contains(out, "now dnat to 198.51.100.2:81") {
				t.Errorf("plan:\n%s", out)
			}
			s.must("clear")
			if err := s.peer.Try("tcp", "", "192.0.2.1:8080"); err == nil {
				t.Error("port 8080 is translated after clear")
			}
			if left := s.chains(); left != "" || s.table() != "" {
				t.Errorf("left after clear:\n%s%s", left, s.table())
			}
		})
	}
}

// TestTranslationLeadsSSHAway refuses nat statements that take the next login from somebody who is logged in, and knows by which port he came.
func TestTranslationLeadsSSHAway(t *testing.T) {
	s := newServer(t)
	withContainer(t, s)
	direct, err := s.peer.Dial("tcp", "", "192.0.2.1:"+ssh, patience)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(name, text, want string) {
		t.Helper()
		s.write("mef.rules", text)
		if out, status := s.mef("apply", "--yes"); status != 1 || !strings.Contains(out, want) {
			t.Errorf("%s: exit status %d, want %q\n%s", name, status, want, out)
		}
	}
	const fwd = "policy dir=fwd action=accept\n"
	refused("to another host", policyFor(ssh)+fwd+"nat dir=in action=dnat to=198.51.100.2:2222 proto=tcp iif=veth* dport=22\n",
		"a new SSH login from 192.0.2.7 to port 22 would be led away from the SSH server: dnat to 198.51.100.2:2222 by ")
	refused("to another port", policyFor(ssh)+"nat dir=in action=redirect to=:80 proto=tcp src=192.0.2.0/24 dport=22\n",
		"a new SSH login from 192.0.2.7 to port 22 would be led away from the SSH server: redirect to port 80 by ")
	refused("all of them", policyFor(ssh)+fwd+"nat dir=in action=dnat to=198.51.100.2:2222 proto=tcp dport=22,80\n",
		"hides a service of this host from those it matches: ")
	s.write("mef.rules", policyFor(ssh)+fwd+"nat dir=in action=dnat to=198.51.100.2:2222 proto=tcp src=192.0.2.99 dport=80\n")
	if out := s.must("check"); !strings.Contains(out, "hides a service of this host from those it matches: ") {
		t.Errorf("check:\n%s", out)
	}

	// A session that comes by a translated port goes on by that port.
	const second = "nat dir=in action=redirect to=:22 proto=tcp dport=2022\nrule dir=in action=accept proto=tcp dport=2022\n"
	s.write("mef.rules", policyFor(ssh)+second)
	s.must("apply", "--yes")
	direct.Close()
	led, err := s.peer.Dial("tcp", "", "192.0.2.1:2022", patience)
	if err != nil {
		t.Fatal(err)
	}
	defer led.Close()
	s.write("mef.rules", policyFor()+second)
	if err := netnstest.Poll(func() error { // the first session has ended
		if out, status := s.mef("apply", "--yes"); status != 0 {
			return errors.New(out)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if err := netnstest.Say(led, patience); err != nil {
		t.Errorf("the session by port 2022: %v", err)
	}
	refused("the port no longer", policyFor()+strings.Replace(second, "accept", "drop", 1), "a new SSH login from 192.0.2.7 to port 2022 would be cut off: drop")
	refused("the translation no longer", policyFor()+"rule dir=in action=accept proto=tcp dport=2022\n",
		"a new SSH login from 192.0.2.7 to port 2022 would no longer be led to the SSH server: the policy in force does it (redirect to port 22)")
}

// TestForeignTranslationStays has NAT of others stay as it is and work, beside ours.
func TestForeignTranslationStays(t *testing.T) {
	for _, backend := range []string{"nftables", "iptables"} {
		t.Run(backend, func(t *testing.T) {
			s := withIPTables(t)
			s.backend(backend)
			withContainer(t, s)
			s.ns.Run(t, "*nat\n-A PREROUTING -p tcp -m tcp --dport 8090 -j DNAT --to-destination 198.51.100.2:80\n-A PREROUTING -p tcp -m tcp --dport 8080 -j DNAT --to-destination 198.51.100.2:9\nCOMMIT\n", "iptables-restore")
			list := func() (theirs string) {
				for line := range strings.Lines(s.ns.Run(t, "", "iptables-save", "-t", "nat")) {
					if !strings.Contains(line, "MEF-") && !strings.HasPrefix(line, "#") {
						theirs += line
					}
				}
				return counters.ReplaceAllString(theirs, "")
			}
			before := list()
			s.write("mef.rules", policyFor(ssh)+forwarding+"rule dir=fwd action=accept proto=tcp dport=8090\n")
			for _, args := range [][]string{{"check"}, {"plan"}, {"apply", "--yes"}, {"load"}, {"status"}} {
				s.must(args...)
				if after := list(); after != before {
					t.Fatalf("after %v the NAT of others is\n%s\nbefore:\n%s", args, after, before)
				}
			}
			s.peer.Reaches(t, "tcp", "", "192.0.2.1:8090") // theirs
			s.peer.Reaches(t, "tcp", "", "192.0.2.1:8080") // ours, before theirs
			s.must("clear")
			if after := list(); after != before {
				t.Fatalf("after clear the NAT of others is\n%s\nbefore:\n%s", after, before)
			}
			s.peer.Reaches(t, "tcp", "", "192.0.2.1:8090")
		})
	}
}

// TestHalfATranslation has the table nat refused where the table filter is taken, because no rule may lead to a base chain: neither is loaded
// then.
func TestHalfATranslation(t *testing.T) {
	s := withIPTables(t)
	s.rules(ssh)
	s.must("apply", "--yes")
	before := s.chains()
	s.ns.Run(t, "table ip nat {\nchain MEF-PRE {\ntype nat hook prerouting priority dstnat; policy accept;\n}\n}\n", "nft", "-f", "-")
	s.write("mef.rules", policyFor(ssh, web)+forwarding)
	out, status := s.mef("apply", "--yes")
	if status != 1 || !strings.Contains(out, "the kernel refused the rules") {
		t.Errorf("exit status %d\n%s", status, out)
	}
	if after := s.chains(); counters.ReplaceAllString(after, "") != counters.ReplaceAllString(before, "") {
		t.Errorf("the chains are\n%s\nthey were\n%s", after, before)
	}
	s.open(ssh)
}

// TestSegmentsFitTheRoute has connections go through a link whose packets are smaller than either end knows, as those of a tunnel are.
func TestSegmentsFitTheRoute(t *testing.T) {
	for _, backend := range []string{"nftables", "iptables"} {
		t.Run(backend, func(t *testing.T) {
			s := withIPTables(t)
			s.backend(backend)
			withContainer(t, s)
			s.ns.Do(func() {
				links, err := netlink.LinkList()
				if err != nil {
					t.Error(err)
				}
				for _, link := range links {
					if name := link.Attrs().Name; name != "lo" && name != s.link && netlink.LinkSetMTU(link, 1300) != nil {
						t.Errorf("%s keeps its MTU", name)
					}
				}
			})
			s.peer.Route(t, "198.51.100.0/24", "192.0.2.1")
			s.peer.Route(t, "2001:db8:1::/64", "2001:db8::1")
			segment := func(to string) (size int) {
				t.Helper()
				conn, err := s.peer.Dial("tcp", "", to, patience)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				raw, err := conn.(*net.TCPConn).SyscallConn()
				if err == nil {
					err = raw.Control(func(fd uintptr) { size, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG) })
				}
				if err != nil {
					t.Fatal(err)
				}
				return size
			}
			for mss, fits := range map[string]bool{"": false, " mss=auto": true} {
				s.write("mef.rules", policyFor(ssh)+"policy dir=fwd action=accept"+mss+"\nrule dir=fwd action=accept proto=tcp dport=80\n")
				s.must("apply", "--yes")
				for _, to := range []string{"198.51.100.2:80", "[2001:db8:1::2]:80"} {
					if size := segment(to); (size <= 1300-40) != fits {
						t.Errorf("with %q segments to %s have %d bytes", mss, to, size)
					}
				}
			}
		})
	}
}
