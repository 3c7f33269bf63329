//go:build integration

package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mef/internal/enforce/nftset"
	"mef/internal/lab"
	"mef/internal/netlink/nflog"
	"mef/internal/netnstest"
)

// longest is how long a ban lasts at most whose source can be forged, and how far its end may be off when it is read back.
const longest = 10*time.Minute + time.Second

// watching starts a scene and waits until what the kernel reports is received.
func watching(t *testing.T, config string) *scene {
	t.Helper()
	s := begin(t, config, nil)
	s.watches()
	return s
}

func (s *scene) watches() {
	s.Helper()
	s.until("the daemon to receive what the kernel reports", func() error {
		if status := s.status(); !status.Scans.Active {
			return fmt.Errorf("%+v", status.Scans)
		}
		return nil
	})
}

// nmap scans the server from an address of the internet.
func (s *scene) nmap(from string, args ...string) {
	s.Helper()
	client := s.w.Client(from)
	args = append([]string{"-n", "-Pn", "-T4", "--max-retries", "0", "-e", "server0", "-S", from}, args...)
	if client.From.Is6() {
		args = append(args, "-6")
	}
	var out []byte
	err := client.At.Do(func() (err error) {
		out, err = exec.CommandContext(s.ctx, "nmap", append(args, client.Server().String())...).CombinedOutput()
		return err
	})
	if errors.Is(err, exec.ErrNotFound) {
		netnstest.Missing(s, err.Error())
	}
	if err != nil {
		s.Fatalf("nmap %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// closedPorts are ports at which nothing is in the world, and that nmap knows.
const closedPorts = "1,7,9,13,19,23,25,37,53,79,81,88,106,111,113,119"

func TestScansOfNmapAreBanned(t *testing.T) {
	watching(t, "[global]\nps_packet_udp=true\n").scans(map[string][]string{
		"203.0.113.11":     {"-sS"},
		"203.0.113.13":     {"-sU"},
		"203.0.113.14":     {"-sF"},
		"203.0.113.15":     {"-sN"},
		"203.0.113.16":     {"-sX"},
		"203.0.113.17":     {"-sS", "-f"}, // in fragments
		"203.0.113.18":     {"-sS", "-D", "203.0.113.50,203.0.113.51,ME"},
		"203.0.113.19":     {"-sS", "--scan-delay", "200ms"},
		"2001:db8:bad0::1": {"-sS"},
		"2001:db8:bad1::1": {"-sF"},
		"2001:db8:bad2::1": {"-sN"},
		"2001:db8:bad3::1": {"-sX"},
		"2001:db8:bad4::1": {"-sU"},
	})
}

// scans has nmap scan from addresses, 203.0.113.11 among them, and requires that each is banned.
func (s *scene) scans(scans map[string][]string) {
	s.Helper()
	for from, scan := range scans {
		s.nmap(from, append(scan, "-p", closedPorts)...)
		b := s.banned(from)
		if b.Class != "unverified" || b.Rule != "portscan" || b.Until == nil || b.Until.Sub(b.Start) > longest {
			s.Errorf("nmap %s: the ban is %+v, want an unverified one by portscan for at most %v", scan, b, longest)
		}
		if !strings.Contains(b.Reason, "closed ports in ") || !strings.Contains(b.Reason, "(limit 5 in 5m)") {
			s.Errorf("nmap %s: the reason is %q", scan, b.Reason)
		}
		s.silent(lab.SSHPort, from)
	}
	s.reaches(lab.SSHPort, "203.0.113.100", "2001:db8:900d::1")
	for command, want := range map[string]string{
		"why 203.0.113.11": "port scans: ",
		"status":           "found since start, the last ",
		"events":           "rule=portscan",
	} {
		if out := s.mefctl(strings.Fields(command)...); !strings.Contains(out, want) {
			s.Errorf("mefctl %s prints\n%s\nwithout %q", command, out, want)
		}
	}
}

// A full connection to each port is a scan too, and ports that are open are none.
func TestConnectScan(t *testing.T) {
	s := watching(t, "")
	for range 10 {
		s.reaches(lab.SSHPort, "203.0.113.21")
		s.reaches(lab.IMAPPort, "203.0.113.21")
		s.probe(lab.Refused, 23, "203.0.113.21")
	}
	for port := 1; port <= 6; port++ {
		if _, err := s.w.Client("203.0.113.22").Probe(s.ctx, port, silence); err != nil {
			t.Fatal(err)
		}
	}
	s.banned("203.0.113.22")
	s.notBanned("203.0.113.21")
	s.reaches(lab.SSHPort, "203.0.113.21")
}

// wire returns what forges packets to the server.
func (s *scene) wire() *netnstest.Wire {
	s.Helper()
	var door net.HardwareAddr
	var wire *netnstest.Wire
	err := errors.Join(
		s.w.Server.Do(func() (err error) { door, err = netnstest.HardwareAddr("eth0"); return err }),
		s.w.Internet.Do(func() (err error) { wire, err = netnstest.OpenWire("server0", door); return err }))
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { wire.Close() })
	return wire
}

// forgeScan sends SYN segments with the source of somebody else to a number of ports.
func (s *scene) forgeScan(wire *netnstest.Wire, from string, ports int) {
	s.Helper()
	addr := netip.MustParseAddr(from)
	for port := range ports {
		err := wire.TCP(netip.AddrPortFrom(addr, 4711), netip.AddrPortFrom(s.w.Client(from).Server(), uint16(3000+port)), 2)
		if err != nil {
			s.Fatal(err)
		}
	}
}

// says exchanges a word over a connection to an echo.
func says(conn net.Conn) error { return netnstest.Say(conn, patience) }

// echo accepts connections and sends everybody his own words back.
func (s *scene) echo(at *lab.Namespace, addr string) net.Listener {
	s.Helper()
	var l net.Listener
	err := at.Do(func() (err error) { l, err = net.Listen("tcp", addr); return err })
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.Copy(conn, conn)
			}()
		}
	}()
	return l
}

// Packets with the sources of others cut nobody off: the server connects to them, and keeps its connections.
func TestForgedScans(t *testing.T) { watching(t, "").forgedScans() }

func (s *scene) forgedScans() {
	s.Helper()
	t := s.T
	const api, idle, customer = "198.51.100.9", "198.51.100.10", "203.0.113.30"
	for _, addr := range []string{api, idle, lab.Router4.String()} {
		s.echo(s.w.Internet, net.JoinHostPort(addr, "443"))
	}
	s.echo(s.w.Server, ":5000")
	dial := func(to string) net.Conn {
		t.Helper()
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(to, "443"), patience)
		if err != nil {
			t.Fatalf("the server connects to %s: %v", to, err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	outbound := dial(api)
	inbound, err := s.w.Client(customer).Dial(s.ctx, 5000)
	if err != nil {
		t.Fatal(err)
	}
	defer inbound.Close()

	wire := s.wire()
	victims := []string{lab.Router4.String(), api, customer, idle}
	for _, victim := range victims {
		s.forgeScan(wire, victim, 1000)
	}
	b := s.banned(idle) // nothing is known of it, so that it is what its packets say
	if b.Class != "unverified" || b.Until == nil || b.Until.Sub(b.Start) > longest {
		t.Errorf("the ban of %s is %+v, want an unverified one for at most %v", idle, b, longest)
	}
	s.until("what becomes of the scans of "+api+" and "+customer, func() error {
		for _, addr := range []string{api, customer} {
			why, err := s.mef.Why(s.ctx, netip.MustParseAddr(addr))
			if err != nil || len(why.Scans) == 0 {
				return fmt.Errorf("%s: %q, %w", addr, why.Scans, err)
			}
			if why.Banned {
				t.Errorf("%s is banned, with a connection established", addr)
			}
		}
		return nil
	})
	for conn, what := range map[net.Conn]string{outbound: "the connection to the API", inbound: "the customer's connection"} {
		if err := says(conn); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, victim := range []string{lab.Router4.String(), api, idle} {
		if err := says(dial(victim)); err != nil {
			t.Errorf("a new connection to %s: %v", victim, err)
		}
	}
	if why, err := s.mef.Why(s.ctx, lab.Router4); err != nil || why.Banned || len(why.Scans) > 0 {
		t.Errorf("of the resolver: %q, banned %v, %v, want that nothing counts", why.Scans, why.Banned, err)
	}
	if _, err := s.w.Client(customer).Dial(s.ctx, 5000); err != nil {
		t.Errorf("a new connection of the customer: %v", err)
	}
}

// A customer of a container has no connection with a socket of the host.
func TestForgedScansOfContainerClients(t *testing.T) {
	s := watching(t, "")
	published := s.publish(8080)
	wire := s.wire()
	for customer, stranger := range map[string]string{
		"203.0.113.31":        "203.0.113.32",
		"2001:db8:bad0:31::1": "2001:db8:bad0:32::1",
	} {
		conn, err := s.w.Client(customer).Dial(s.ctx, published)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := says(conn); err != nil {
			t.Fatal(err)
		}
		s.forgeScan(wire, customer, 100)
		s.until("the refusal of a ban of "+customer, func() error {
			for _, rec := range s.records() {
				if rec.Rule == "portscan" && rec.Event == "refused" && strings.Contains(rec.Reason, customer+" has an established connection") {
					return nil
				}
			}
			return fmt.Errorf("there are %v", s.records())
		})
		if why, err := s.mef.Why(s.ctx, netip.MustParseAddr(customer)); err != nil || why.Banned {
			t.Errorf("%s: banned %v, %v, want that its connection spares it", customer, why.Banned, err)
		}
		s.reaches(published, customer)
		s.forgeScan(wire, stranger, 100)
		s.banned(stranger)
		s.silent(published, stranger)
	}
}

// Servers that talk to thousands of others never ban them: a server process is restarted again and again, with connections to it and from it.
func TestFederation(t *testing.T) {
	s := watching(t, "")
	const peers, each = 200, 20
	s.echo(s.w.Internet, "203.0.113.0:5269").Close() // the port is free
	remote := s.echo(s.w.Internet, "0.0.0.0:5269")
	defer remote.Close()
	addr := func(i int) string { return fmt.Sprintf("203.0.113.%d", 1+i) }
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	for range 10 {
		server := s.echo(s.w.Server, ":5269")
		var mu sync.Mutex
		var open []net.Conn
		var all sync.WaitGroup
		for i := range peers {
			all.Go(func() {
				for n := range each {
					conn, err := s.w.Client(addr(i)).Dial(ctx, 5269)
					if n%10 == 0 && err == nil { // and back
						var out net.Conn
						if out, err = net.DialTimeout("tcp", addr(i)+":5269", patience); err == nil {
							mu.Lock()
							open = append(open, out)
							mu.Unlock()
						}
					}
					if err != nil {
						s.Errorf("connect with %s: %v", addr(i), err)
						return
					}
					mu.Lock()
					open = append(open, conn)
					mu.Unlock()
				}
			})
		}
		all.Wait()
		server.Close()
		for i, conn := range open {
			if c, ok := conn.(*net.TCPConn); ok && i%2 == 0 {
				c.SetLinger(0) // a reset instead of a FIN
			}
			conn.Close()
		}
		for i := range peers { // the peers come back while nothing listens
			all.Go(func() {
				for range 3 {
					s.w.Client(addr(i)).Probe(ctx, 5269, silence)
				}
			})
		}
		all.Wait()
	}
	// A scan that comes last has been counted: so is everything before it.
	s.nmap("198.51.100.77", "-sS", "-p", closedPorts)
	s.banned("198.51.100.77")
	var counted []string
	for i := range peers {
		why, err := s.mef.Why(s.ctx, netip.MustParseAddr(addr(i)))
		if err != nil {
			t.Fatal(err)
		}
		if why.Banned || len(why.Scans) > 0 {
			counted = append(counted, fmt.Sprintf("%s: banned %v, %q", addr(i), why.Banned, why.Scans))
		}
	}
	if len(counted) > 0 {
		t.Errorf("%d peers count: %s", len(counted), strings.Join(counted[:min(3, len(counted))], "; "))
	}
	if status := s.status(); status.Scans.Found != 1 {
		t.Errorf("%d scans were found, want one", status.Scans.Found)
	}
}

// Without the memory of connections, packets of established ones are no scan.
func TestConntrackFlushed(t *testing.T) {
	s := watching(t, "")
	s.nft("add table inet tracked; add chain inet tracked in { type filter hook input priority 0; }; add rule inet tracked in ct state established accept")
	defer s.nft("delete table inet tracked")
	const api = "198.51.100.20"
	s.echo(s.w.Internet, api+":443")
	var conns []net.Conn
	for range 50 {
		conn, err := net.DialTimeout("tcp", api+":443", patience)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn)
	}
	if _, err := exec.LookPath("conntrack"); err != nil {
		netnstest.Missing(t, err.Error())
	}
	for range 3 {
		if out, err := exec.Command("conntrack", "-F").CombinedOutput(); err != nil {
			t.Fatalf("conntrack -F: %v\n%s", err, out)
		}
		for _, conn := range conns {
			if err := says(conn); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, conn := range conns {
		conn.Close()
	}
	s.nmap("198.51.100.77", "-sS", "-p", closedPorts)
	s.banned("198.51.100.77")
	if why, err := s.mef.Why(s.ctx, netip.MustParseAddr(api)); err != nil || why.Banned || len(why.Scans) > 0 {
		t.Errorf("of the API host: %q, banned %v, %v, want that nothing counts", why.Scans, why.Banned, err)
	}
}

// Segments that come late, after both ends have closed their connection, or after this host has forgotten it, are no scan: they have ACK or RST.
func TestLateSegments(t *testing.T) {
	s := watching(t, "")
	const fin, rst, push, ack, syn = 1, 4, 8, 16, 2
	wire, peers := s.wire(), []string{"203.0.113.61", "2001:db8:900d:61::1"}
	for _, peer := range peers {
		addr := netip.MustParseAddr(peer)
		for port := range uint16(20) {
			for _, flags := range []byte{fin | ack, fin | push | ack, rst, rst | ack, ack, push | ack, syn | ack} {
				if err := wire.TCP(netip.AddrPortFrom(addr, 443), netip.AddrPortFrom(s.w.Client(peer).Server(), 40000+port), flags); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	s.nmap("198.51.100.77", "-sS", "-p", closedPorts)
	s.banned("198.51.100.77") // so that what came before has been counted
	for _, peer := range peers {
		if why, err := s.mef.Why(s.ctx, netip.MustParseAddr(peer)); err != nil || why.Banned || len(why.Scans) > 0 {
			t.Errorf("%s: %q, banned %v, %v; want that nothing counts", peer, why.Scans, why.Banned, err)
		}
	}
	s.reaches(lab.SSHPort, peers...)
}

// What the configuration excludes does not count, and a reload applies it.
func TestScanSettings(t *testing.T) {
	s := watching(t, "[global]\nps_limit=2\nps_exclude_ports=auto,1000-2000\nps_interface=eth0,eth7\n")
	knock := func(from string, ports ...int) {
		t.Helper()
		for _, port := range ports {
			if _, err := s.w.Client(from).Probe(s.ctx, port, silence); err != nil {
				t.Fatal(err)
			}
		}
	}
	if status := s.status(); !slices.ContainsFunc(status.Warnings, func(w string) bool { return strings.Contains(w, `ps_interface: there is no interface "eth7"`) }) {
		t.Errorf("the warnings are %q, want one about eth7", status.Warnings)
	}
	link := func(args ...string) {
		t.Helper()
		err := s.w.Server.Do(func() error { return exec.Command("ip", append([]string{"link"}, args...)...).Run() })
		if err != nil {
			t.Fatalf("ip link %q: %v", args, err)
		}
	}
	warned := func(want bool) func() error {
		return func() error {
			warnings := s.status().Warnings
			if slices.ContainsFunc(warnings, func(w string) bool { return strings.Contains(w, `there is no interface "eth7"`) }) != want {
				return fmt.Errorf("the warnings are %q", warnings)
			}
			return nil
		}
	}
	link("add", "eth7", "type", "veth", "peer", "name", "eth8")
	s.until("the warning to go with the interface there", warned(false))
	link("delete", "eth7")
	s.until("the warning to come back without the interface", warned(true))
	knock("203.0.113.61", 1001, 1002, 1003, 1004)
	knock("203.0.113.62", 1, 2)
	knock("203.0.113.63", 1, 2, 3)
	s.banned("203.0.113.63")
	s.notBanned("203.0.113.61", "203.0.113.62")
	s.configure("[global]\nps_enabled=false\n")
	s.mefctl("reload")
	if table := s.table(); strings.Contains(table, "scan") {
		t.Errorf("with ps_enabled=false the table has\n%s", table)
	}
	knock("203.0.113.64", 1, 2, 3, 4, 5, 6, 7, 8)
	s.configure("")
	s.mefctl("reload")
	s.watches()
	knock("203.0.113.65", 1, 2, 3, 4, 5, 6, 7, 8)
	s.banned("203.0.113.65")
	s.notBanned("203.0.113.64")
}

// While another program receives the kernel's reports, status says so; once it ends, scans are found again.
func TestReportsTaken(t *testing.T) {
	s := prepare(t)
	taken, err := nflog.Dial(0, nftset.LogGroup)
	if err != nil {
		netnstest.Missing(t, err.Error())
	}
	defer taken.Close()
	s.start("")
	t.Cleanup(func() { s.stop(os.Kill) })
	s.until("status to say what is off", func() error {
		status := s.status()
		why := status.Scans.Off
		if !strings.Contains(why, "no other program may receive this group") && !strings.Contains(why, "another program receives") {
			return fmt.Errorf("it says %q", why)
		}
		if !slices.ContainsFunc(status.Warnings, func(w string) bool { return strings.Contains(w, why) }) {
			return fmt.Errorf("the warnings are %q, want one that says %q", status.Warnings, why)
		}
		return nil
	})
	s.fail(ssh, "root", repeat("203.0.113.71", 5)...)
	s.banned("203.0.113.71")
	taken.Close()
	s.until("status to say nothing", func() error {
		if why := s.status().Scans.Off; why != "" {
			return errors.New(why)
		}
		return nil
	})
	s.watches()
	s.nmap("203.0.113.72", "-sS", "-p", closedPorts)
	s.banned("203.0.113.72")
}

// Each service is listed with what its rules counted.
func TestServices(t *testing.T) {
	s := watching(t, "")
	s.fail(ssh, "root", repeat("203.0.113.81", 2)...)
	s.fail(ssh, "root", "203.0.113.82")
	s.until("the failures at ssh.service", func() error {
		services, err := s.mef.Services(s.ctx)
		if err != nil {
			return err
		}
		for _, row := range services {
			if row.Name == "ssh.service" && slices.Contains(row.Ports, lab.SSHPort) && slices.Equal(row.Rules, []string{"sshd"}) && row.Failures == 3 && row.Sources == 2 {
				return nil
			}
		}
		return fmt.Errorf("the services are %+v", services)
	})
	if out := s.mefctl("services"); !strings.Contains(out, "ssh.service") || !strings.Contains(out, "dovecot.service") {
		t.Errorf("mefctl services prints\n%s", out)
	}
}

// A flood of packets with forged sources fills nothing and hides no scan in silence.
func TestFloodOfForgedPackets(t *testing.T) {
	s := watching(t, "")
	s.fail(ssh, "root", repeat("203.0.113.90", 5)...)
	s.banned("203.0.113.90")
	wire, server := s.wire(), lab.Server4
	before := s.memory()
	stop, sent := make(chan struct{}), make(chan int)
	go func() {
		rng, n := rand.New(rand.NewPCG(1, 2)), 0
		for ; ; n++ {
			select {
			case <-stop:
				sent <- n
				return
			default:
			}
			r := rng.Uint64()
			from := netip.AddrFrom4([4]byte{byte(11 + r%100), byte(r >> 8), byte(r >> 16), byte(r >> 24)})
			if err := wire.TCP(netip.AddrPortFrom(from, uint16(r>>32)), netip.AddrPortFrom(server, uint16(r>>48)|1024), 2); err != nil {
				s.Error(err)
			}
		}
	}()
	began := time.Now()
	limited := false
	s.until("status to say that scans may be missed, or the scan among the packets to be found", func() error {
		status := s.status()
		if limited = status.Scans.Limited != ""; limited && slices.Contains(status.Warnings, status.Scans.Limited) {
			return nil
		}
		return fmt.Errorf("after %v the warnings are %q", time.Since(began), status.Warnings)
	})
	s.nmap("203.0.113.91", "-sS", "-p", "1-500", "--host-timeout", "20s")
	s.reaches(lab.SSHPort, "203.0.113.92")
	s.silent(lab.SSHPort, "203.0.113.90")
	close(stop)
	n := <-sent
	t.Logf("%d forged packets in %v; memory of the daemon: %d KiB before, %d after", n, time.Since(began), before, s.memory())
	if grown := s.memory() - before; grown > 24<<10 {
		t.Errorf("the daemon has grown by %d KiB", grown)
	}
	if full := s.nft("list counter inet mefdaemon scan_full"); !strings.Contains(full, "packets 0 ") {
		t.Errorf("packets found a full set: %s", full)
	}
	s.banned("203.0.113.90")
	if s.status().Scans.Limited != "" {
		s.until("status to say no more that scans are missed", func() error {
			if text := s.status().Scans.Limited; text != "" {
				return errors.New(text)
			}
			return nil
		})
	}
}

// memory returns how much memory the daemon has, in KiB.
func (s *scene) memory() (kib int) {
	s.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.status().PID))
	if err != nil {
		s.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		s.Fatal(err)
	}
	return kib
}

// A source that exceeds a limit is limited, and banned if it goes on; with detect it is reported only.
func TestFloodsAreLimited(t *testing.T) {
	s := watching(t, "[global]\n"+floodLimits)
	s.floods()
	s.configure("[global]\n" + floodLimits + "ddos_stage1_mode=detect\n")
	s.mefctl("reload")
	for range 6 {
		s.reaches(5002, "203.0.113.103")
	}
	s.configure("")
	s.mefctl("reload")
	if table := s.table(); strings.Contains(table, "guard") {
		t.Errorf("with ddos_enabled=false the table has\n%s", table)
	}
}

// floodLimits are the settings for floods.
const floodLimits = "ddos_enabled=true\nddos_ports=5001-5002\nddos_connlimit=4\nddos_port_5002_connlimit=2\nddos_escalation_hits=2\n"

// floods makes floods with floodLimits.
func (s *scene) floods() {
	s.Helper()
	t := s.T
	for _, port := range []string{":5000", ":5001", ":5002"} {
		s.echo(s.w.Server, port)
	}
	var open []net.Conn
	flood := func(from string, port, limit int) {
		t.Helper()
		for i := range limit {
			conn, err := s.w.Client(from).Dial(s.ctx, port)
			if err != nil {
				t.Fatalf("connection %d of %s to port %d: %v", i+1, from, port, err)
			}
			t.Cleanup(func() { conn.Close() })
			open = append(open, conn)
		}
		s.silent(port, from)
	}
	flood("203.0.113.101", 5001, 4)
	s.until("the record of an episode", func() error {
		for _, rec := range s.records() {
			if rec.Rule == "flood" && rec.Addr == "203.0.113.101" && rec.Reason == "more than 4 connections to port 5001 at a time" {
				return nil
			}
		}
		return fmt.Errorf("there are %v", s.records())
	})
	s.reaches(5000, "203.0.113.101")
	s.reaches(5001, "203.0.113.102")
	for _, conn := range open {
		if err := says(conn); err != nil {
			t.Errorf("an established connection: %v", err)
		}
	}
	// With a second episode the source is banned, but never while it has a connection.
	flood("203.0.113.101", 5002, 2)
	s.until("the refusal of a ban", func() error {
		for _, rec := range s.records() {
			if rec.Rule == "flood" && rec.Event == "refused" && strings.Contains(rec.Reason, "established connection") {
				return nil
			}
		}
		return fmt.Errorf("there are %v", s.records())
	})
	wire := s.wire()
	for _, port := range []uint16{5001, 5002} { // whose handshakes are never completed
		for i := range 200 {
			err := wire.TCP(netip.AddrPortFrom(netip.MustParseAddr("198.51.100.101"), uint16(1000+i)), netip.AddrPortFrom(lab.Server4, port), 2)
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	b := s.banned("198.51.100.101")
	if b.Class != "unverified" || b.Rule != "flood" || b.Until == nil || b.Until.Sub(b.Start) > longest {
		t.Errorf("the ban is %+v, want an unverified one by flood for at most %v", b, longest)
	}
	if out := s.mefctl("status"); !strings.Contains(out, "Floods:    4 times a source exceeded the limits of a port since start, 2 bans") {
		t.Errorf("mefctl status prints\n%s", out)
	}
}
