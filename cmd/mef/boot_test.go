//go:build integration

package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"mef/internal/geodb/geodbtest"
	"mef/internal/netnstest"
)

// TestBoot starts a host with one thing or another amiss. Whatever it is, strangers reach no more than they did before, and SSH.
func TestBoot(t *testing.T) {
	broken := policyFor(ssh, web) + "rule dir=in action=acept proto=tcp\n"
	for name, tt := range map[string]struct {
		before string // what was confirmed when it last ran; empty: nothing ever was
		text   string // of the file now; empty: there is none
		status int
		say    string
		open   []string
	}{
		"all is well":             {before: policyFor(ssh), text: policyFor(ssh, web), open: []string{ssh, web}},
		"the first time":          {text: policyFor(ssh, web), open: []string{ssh, web}},
		"a broken file":           {before: policyFor(ssh), text: broken, status: 1, say: `did you mean "accept"?`, open: []string{ssh}},
		"a broken file, no other": {text: broken, status: 1, say: "only the rescue rules", open: []string{ssh}},
		"no file":                 {before: policyFor(ssh, web), status: 1, say: "no such file", open: []string{ssh, web}},
		"no file, no other":       {status: 1, say: "only the rescue rules", open: []string{ssh}},
		"an empty file":           {text: "# nothing yet\n", status: 1, say: "no statement in this file", open: []string{ssh}},
		"an expectation that is not met": {before: policyFor(ssh), text: policyFor(web) + "expect dir=in proto=tcp dport=22 action=accept\n",
			status: 1, say: "expected accept", open: []string{ssh}},
		"interfaces that are not there yet": {text: policyFor(ssh) +
			"rule dir=in action=accept proto=tcp dport=80 iif=wg0\nrule dir=in action=drop proto=tcp dport=22 iif=ppp7\n", open: []string{ssh}},
		"a name without a resolver": {text: policyFor(ssh) + "set name=home elements=home.example.net\nrule dir=in action=accept proto=tcp dport=80 src=@home\n",
			say: "the name home.example.net adds nothing to its set", open: []string{ssh}},
		"auto without a default route": {text: policyFor() + "rule dir=in action=accept proto=tcp dport=22 iif=auto\n",
			say: "auto is any interface", open: []string{ssh}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			if tt.before != "" {
				s.write("mef.rules", tt.before)
				s.must("load")
				s = s.reboot()
			}
			if err := os.Remove(s.path("mef.rules")); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			if tt.text != "" {
				s.write("mef.rules", tt.text)
			}
			out, status := s.mef("load")
			if status != tt.status || !strings.Contains(out, tt.say) {
				t.Errorf("exit status %d, want %d and %q\n%s", status, tt.status, tt.say, out)
			}
			s.open(tt.open...)
		})
	}
}

// TestBootWithoutNft has no program that could load anything, and reports it.
func TestBootWithoutNft(t *testing.T) {
	s := newServer(t)
	s.rules(ssh)
	hide(t, "nft", "iptables-restore", "ip6tables-restore", "iptables", "ip6tables")
	out, status := s.mef("load")
	if status == 0 || !strings.Contains(out, "install the package nftables") {
		t.Errorf("exit status %d\n%s", status, out)
	}
}

// TestNamesOfHosts lets in who has a name: while it is known, after a reboot without a network, and not once it moves.
func TestNamesOfHosts(t *testing.T) {
	s := newServer(t)
	zone := &zone{addr: "192.0.2.7"}
	zone.serve(s)
	s.write("resolv.conf", "nameserver 127.0.0.1\n")
	bind(t, s.path("resolv.conf"), "/etc/resolv.conf")
	s.write("mef.rules", policyFor()+"set name=home elements=home.example.net\nrule dir=in action=accept proto=tcp dport=22 src=@home\n")
	reachable := func(when string, want bool) {
		t.Helper()
		if err := netnstest.Poll(func() error {
			if err := s.peer.Try("tcp", "", "192.0.2.1:"+ssh); (err == nil) != want {
				return fmt.Errorf("%s: %v, want SSH open: %v", when, err, want)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
	s.must("apply", "--yes")
	reachable("with a resolver", true)

	s = s.reboot() // whose network has no resolver
	out := s.must("load")
	if strings.Contains(out, "adds nothing") {
		t.Errorf("mef load: %s", out)
	}
	reachable("at boot, without a resolver", true)
	if out := s.must("check"); !strings.Contains(out, "notice: the name home.example.net has its addresses of ") {
		t.Errorf("mef check does not say how old the addresses are:\n%s", out)
	}

	zone.serve(s)
	zone.set("198.51.100.9")
	s.must("apply", "--yes")
	reachable("after the host has moved", false)
}

// TestBootWithoutCountries lets in a country: with its addresses, and at a boot without the database by the last good rules.
func TestBootWithoutCountries(t *testing.T) {
	s := newServer(t)
	database := geodbtest.Write(t, s.path("country.mmdb"), geodbtest.Form{}, geodbtest.Country("192.0.2.0/24", "DE"), geodbtest.Country("2001:db8::/32", "DE"))
	s.write("mef.conf", "[global]\nrules_file="+s.path("mef.rules")+"\ncache_dir="+s.path("state")+"\ngeo_databases="+database+"\n")
	conf, err := os.ReadFile(s.path("mef.conf"))
	if err != nil {
		t.Fatal(err)
	}
	const country = "rule dir=in action=accept proto=tcp dport=22 src=@country:DE\n"
	s.write("mef.rules", policyFor(web)+country)
	s.must("load")
	s.open(ssh, web)
	for name, amiss := range map[string]func() error{
		"missing": func() error { return os.Remove(database) },
		"damaged": func() error { return os.WriteFile(database, []byte("no database"), 0o600) },
		"without the country": func() error {
			geodbtest.Write(t, database, geodbtest.Form{}, geodbtest.Country("192.0.2.0/24", "FR"))
			return nil
		},
		"not named": func() error {
			return os.WriteFile(s.path("mef.conf"), conf[:strings.Index(string(conf), "geo_databases")], 0o600)
		},
	} {
		s = s.reboot()
		s.write("mef.conf", string(conf))
		s.write("mef.rules", policyFor()+country) // which is not what was confirmed
		if err := amiss(); err != nil {
			t.Fatal(err)
		}
		out, status := s.mef("load")
		if status != 1 || !strings.Contains(out, "the addresses of @country:DE are not known") || !strings.Contains(out, "last good rules") {
			t.Errorf("%s: mef load: exit status %d\n%s", name, status, out)
		}
		s.open(ssh, web)
	}
}

// A zone is a DNS server for home.example.net.
type zone struct {
	mu   sync.Mutex
	addr string
}

func (z *zone) set(addr string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.addr = addr
}

// serve answers on the host until the test ends.
func (z *zone) serve(s *server) {
	s.Helper()
	var conn net.PacketConn
	var err error
	s.ns.Do(func() { conn, err = net.ListenPacket("udp", "127.0.0.1:53") })
	if err != nil {
		s.Fatal(err)
	}
	server := &dns.Server{PacketConn: conn, Handler: z}
	go server.ActivateAndServe()
	s.Cleanup(func() { server.Shutdown() })
}

// ServeDNS answers one question.
func (z *zone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	z.mu.Lock()
	defer z.mu.Unlock()
	m := new(dns.Msg).SetReply(q)
	if q.Question[0].Qtype == dns.TypeA && q.Question[0].Name == "home.example.net." {
		rr, err := dns.NewRR("home.example.net. 60 IN A " + z.addr)
		if err != nil {
			panic(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	w.WriteMsg(m)
}

// TestOthersMayNotDecide refuses a folder in which somebody else could put other rules.
func TestOthersMayNotDecide(t *testing.T) {
	s := newServer(t)
	s.rules(ssh)
	if err := os.Mkdir(s.path("state-firewall"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(s.path("state-firewall"), 0o777); err != nil {
		t.Fatal(err)
	}
	if out, status := s.mef("apply", "--yes"); status != 1 || !strings.Contains(out, "users other than root can write to this directory") {
		t.Errorf("exit status %d\n%s", status, out)
	}
}

// hide covers programs, in the mount namespace of the tests, with a file that nobody can run.
func hide(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		for _, dir := range []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
			path, err := filepath.EvalSymlinks(filepath.Join(dir, name))
			if err != nil {
				continue
			}
			cover(t, path)
		}
	}
}

// cover lays /dev/null over a file until the test ends.
func cover(t *testing.T, path string) {
	t.Helper()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() == 0o666 {
		return // covered already, under another name
	}
	bind(t, os.DevNull, path)
}

// bind lays one file over another until the test ends.
func bind(t *testing.T, file, over string) {
	t.Helper()
	if err := unix.Mount(file, over, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("lay %s over %s: %v", file, over, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(over, 0); err != nil {
			t.Errorf("uncover %s: %v", over, err)
		}
	})
}

// TestOthersMayNotWriteThePolicy loads the last good rules in place of a file that others can write, and reports how to fix it.
func TestOthersMayNotWriteThePolicy(t *testing.T) {
	s := newServer(t)
	s.rules(ssh)
	s.must("load")
	s.rules(ssh, web)
	if err := os.Chmod(s.path("mef.rules"), 0o666); err != nil {
		t.Fatal(err)
	}
	fix := "chmod go-w " + strconv.Quote(s.path("mef.rules"))
	if out, status := s.mef("load"); status != 1 || !strings.Contains(out, fix) {
		t.Errorf("mef load: exit status %d\n%s", status, out)
	}
	s.open(ssh)
	for _, command := range []string{"check", "apply"} {
		if out, status := s.mef(command); status != 1 || !strings.Contains(out, fix) {
			t.Errorf("mef %s: exit status %d\n%s", command, status, out)
		}
	}
	if err := os.Chmod(s.path("mef.rules"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, status := s.mef("load", "--boot"); status != 0 {
		t.Errorf("mef load --boot: exit status %d\n%s", status, out)
	}
	s.open(ssh, web)
	s.write("mef.rules", "policy dir=in action=no\n")
	if out, status := s.mef("load", "--boot"); status != 0 || !strings.Contains(out, "the last good rules are in force instead") {
		t.Errorf("mef load --boot of a file with a mistake: exit status %d\n%s", status, out)
	}
}
