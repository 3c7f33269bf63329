//go:build integration

package e2e_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"mef/internal/lab"
	"mef/internal/netnstest"
)

func TestKernelExpiresBansWithoutDaemon(t *testing.T) {
	s := begin(t, "", map[string]string{"sshd.conf": "[rule]\nbantime=6s\n"})
	const from = "203.0.113.150"
	s.fail(ssh, "root", repeat(from, 5)...)
	end := s.banEnds(from)
	s.stop(os.Kill)
	var kept time.Time // when the last connection was tried that came to nothing
	s.until("the ban to end without a daemon", func() error {
		began := time.Now()
		got, err := s.w.Client(from).Probe(s.ctx, lab.SSHPort, silence)
		if err == nil && got != lab.Reached {
			kept, err = began, fmt.Errorf("a connection %s", got)
		}
		return err
	})
	if early := time.Until(end); early > netnstest.Tick {
		t.Errorf("the ban ended %v before its time", early)
	}
	if late := kept.Sub(end); late > time.Second {
		t.Errorf("the ban held %v after its time", late)
	}
	if s.table() == "" {
		t.Error("the table is gone; it should stay, without the ban")
	}
}

// banEnds waits for the record of a ban and returns when the ban ends, which may be over on a slow machine.
func (s *scene) banEnds(addr string) (end time.Time) {
	s.Helper()
	s.until("the record of a ban of "+addr, func() error {
		for _, rec := range s.records() {
			if prefix, err := netip.ParsePrefix(rec.Prefix); err == nil && rec.Event == "ban" && prefix.Contains(netip.MustParseAddr(addr)) {
				end = *rec.Until
				return nil
			}
		}
		return errors.New("there is none")
	})
	return end
}

func TestStopLeavesBansInForce(t *testing.T) {
	for name, sig := range map[string]os.Signal{"SIGTERM": syscall.SIGTERM, "SIGKILL": os.Kill} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, "", nil)
			const from = "203.0.113.160"
			s.fail(ssh, "root", repeat(from, 5)...)
			s.banned(from)
			s.stop(sig)
			s.silent(lab.SSHPort, from)
			s.start("")
			s.banned(from)
			s.silent(lab.SSHPort, from)
			s.reaches(lab.SSHPort, "203.0.113.161")
		})
	}
}

func TestBanCoversPublishedPort(t *testing.T) {
	s := begin(t, "", nil)
	published := s.publish(8080)
	for from, prefix := range map[string]string{
		"203.0.113.170":        "203.0.113.170",
		"2001:db8:bad0:170::1": "2001:db8:bad0:170::/64",
	} {
		s.reaches(published, from)
		if why, err := s.mef.Why(s.ctx, netip.MustParseAddr(from)); err != nil || len(why.Scans) > 0 {
			t.Errorf("of a client of a published port: %q, %v, want that it is no scan", why.Scans, err)
		}
		s.mefctl("bans", "add", prefix, "--for", "1h")
		s.silent(published, from)
	}
	s.reaches(published, "203.0.113.171", "2001:db8:bad0:171::1")
}

// publish runs an echo server in a container behind the server, on port 80, and publishes it as container engines do. It returns the
// published port.
func (s *scene) publish(port int) int {
	s.Helper()
	container, err := s.w.Container()
	if err != nil {
		s.Fatal(err)
	}
	s.echo(container, ":80")
	s.nft(strings.NewReplacer("PORT", strconv.Itoa(port), "CONTAINER4", lab.Container4.String(), "CONTAINER6", lab.Container6.String()).Replace(`
		table inet container {
			chain publish {
				type nat hook prerouting priority dstnat;
				fib daddr type local meta nfproto ipv4 tcp dport PORT dnat ip to CONTAINER4:80
				fib daddr type local meta nfproto ipv6 tcp dport PORT dnat ip6 to [CONTAINER6]:80
			}
		}`))
	s.Cleanup(func() { s.nft("delete table inet container") })
	return port
}

// A host on the server's own link attacks. Banning its /64 would cut the server off from its router, so it is banned alone, and
// neighbour discovery goes on.
func TestOwnLinkStaysReachable(t *testing.T) {
	s := begin(t, "", nil)
	attacker, router := lab.Neighbor6.String(), lab.Router6.String()
	s.fail(ssh, "root", repeat(attacker, 5)...)
	s.banned(attacker)
	s.silent(lab.SSHPort, attacker)
	for _, side := range []*lab.Namespace{s.w.Server, s.w.Internet} {
		if err := side.ForgetNeighbors(); err != nil {
			t.Fatal(err)
		}
	}
	s.reaches(lab.SSHPort, router, "2001:db8:900d::1", "198.51.100.60")
	s.silent(lab.SSHPort, attacker)

	server, err := s.w.ServerLinkLocal()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := lab.Client{At: s.w.Internet, From: netip.IPv6Unspecified()}.DialAddr(s.ctx, netip.AddrPortFrom(server, lab.SSHPort))
	if err != nil {
		t.Fatalf("connect over link-local addresses: %v", err)
	}
	conn.Close()
}

// Not even --force bans the server's own link.
func TestForcedBanOfOwnLink(t *testing.T) {
	s := begin(t, "", nil)
	for _, own := range []string{"2001:db8:1::/64", lab.Server4.String(), "fe80::/64", "127.0.0.1"} {
		if out, err := s.w.Mefctl(s.ctx, "bans", "add", own, "--force", "--for", "1h"); err == nil {
			t.Errorf("bans add %s --force: %q, want a refusal", own, out)
		}
	}
	s.reaches(lab.SSHPort, lab.Router6.String(), "198.51.100.61")
}

// Packets of the gateway, which is the resolver too, are accepted before any ban of a network around it. A ban of its address alone
// would have no effect and is refused, even with --force.
func TestGatewayIsLetThrough(t *testing.T) {
	s := begin(t, "", nil)
	routers := []string{lab.Router4.String(), lab.Router6.String()}
	for _, router := range routers {
		for _, flags := range [][]string{nil, {"--force"}} {
			if out, err := s.w.Mefctl(s.ctx, append([]string{"bans", "add", router, "--for", "1h"}, flags...)...); err == nil {
				t.Errorf("bans add %s %q: %q, want a refusal", router, flags, out)
			}
		}
	}
	// Networks around the routers, and around the neighbours.
	for _, ban := range []string{"192.0.2.128/25", "2001:db8:1::80/121", "192.0.2.64/26", "2001:db8:1::60/124"} {
		s.mefctl("bans", "add", ban, "--for", "1h", "--force")
	}
	s.reaches(lab.SSHPort, routers...)
	s.silent(lab.SSHPort, lab.Neighbor4.String(), lab.Neighbor6.String())
}

func TestOffLeavesNoTable(t *testing.T) {
	for name, stopped := range map[string]bool{"daemon runs": false, "no daemon": true} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, "", nil)
			const from = "203.0.113.180"
			s.fail(ssh, "root", repeat(from, 5)...)
			s.banned(from)
			s.nft("add table inet neighbours")
			defer s.nft("delete table inet neighbours")
			if stopped {
				s.stop(os.Kill)
			}
			s.mefctl("off")
			if got := s.nft("list tables"); got != "table inet neighbours\n" {
				t.Errorf("tables after mefctl off: %q, want the one of others alone", got)
			}
			s.reaches(lab.SSHPort, from)
			s.mefctl("off") // once more does no harm
		})
	}
}

// If the configuration names another socket than the running daemon's, that daemon restores its table, and mefctl off reports an error.
func TestOffThatDoesNotFindTheDaemon(t *testing.T) {
	s := begin(t, "", nil)
	const from = "203.0.113.182"
	s.mefctl("bans", "add", from, "--for", "1h")
	for name, config := range map[string]string{
		"another socket": "[global]\ncontrol_socket=/run/mef/other.sock\n",
		"a mistake":      "[global]\ncontrol_socket=mefdaemon.sock\n",
	} {
		s.configure(config)
		out, err := s.w.Mefctl(s.ctx, "off")
		if err == nil || !strings.Contains(err.Error(), "mefctl: a mefdaemon still runs and has restored its table; ") || out != "" {
			t.Errorf("%s: mefctl off says %v, %q", name, err, out)
		}
	}
	s.configure("")
	s.banned(from)
}

// The daemon tests at its start that bans block packets, and mefctl selftest does so on request.
func TestSelfTest(t *testing.T) {
	s := begin(t, "", nil)
	s.until("the self-test to be passed", func() error {
		if p := s.status().Proof; p.State != "passed" {
			return fmt.Errorf("it is %+v", p)
		}
		return nil
	})
	s.mefctl("bans", "add", "203.0.113.191", "--for", "1h")
	out := s.mefctl("selftest")
	if !strings.HasPrefix(out, "Self-test: bans block, tested in ") || !strings.Contains(out, "\n  ok      live table: nftables: table inet mefdaemon holds 1 bans, as it should be\n") {
		t.Errorf("selftest says:\n%s", out)
	}
}

// TestRepairsNeverEnd deletes our table again and again. After three repairs each further one waits longer, status names the program that
// deletes it, and a new ban restores everything at once.
func TestRepairsNeverEnd(t *testing.T) {
	s := begin(t, "", nil)
	const from, later = "203.0.113.192", "203.0.113.193"
	s.mefctl("bans", "add", from, "--for", "1h")
	for range 6 {
		repairs := s.status().Kernel.Repairs
		s.nft("delete table inet mefdaemon")
		s.until("the table to be back", func() error {
			if k := s.status().Kernel; k.Repairs == repairs || !k.Matches {
				return fmt.Errorf("the kernel is %+v", k)
			}
			return nil
		})
		s.silent(lab.SSHPort, from)
	}
	s.nft("delete table inet mefdaemon") // the next repair is in eight seconds
	s.until("status to say who does it", func() error {
		missing := strings.Join(s.status().Missing, "; ")
		if !strings.Contains(missing, "nft[") || !strings.Contains(missing, "keeps changing our table: the next repair is at ") {
			return fmt.Errorf("what is missing is %q", missing)
		}
		return nil
	})
	if out, err := s.w.Mefctl(s.ctx, "status"); err == nil {
		t.Errorf("mefctl status says that all is well:\n%s", out)
	}
	s.mefctl("bans", "add", later, "--for", "1h")
	s.silent(lab.SSHPort, from)
	s.silent(lab.SSHPort, later)
	var named bool
	for _, rec := range s.records() {
		named = named || rec.Event == "repair" && strings.Contains(rec.Reason, `by "nft[`) && strings.Contains(rec.Reason, "changed repeatedly")
	}
	if !named {
		t.Errorf("no record says who did it: %+v", s.records())
	}
}

// The daemon repairs changes that other programs make to its table.
func TestFlushedRulesetIsRepaired(t *testing.T) {
	s := begin(t, "", nil)
	const from = "203.0.113.190"
	s.fail(ssh, "root", repeat(from, 5)...)
	s.banned(from)
	s.nft("flush ruleset")
	s.until("the ban to be back", func() error {
		if table := s.table(); !strings.Contains(table, from) {
			return fmt.Errorf("the table is %q", table)
		}
		return nil
	})
	s.silent(lab.SSHPort, from)
}
