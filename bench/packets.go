package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"mef/bench/pktgen"
	"mef/internal/control"
)

// wire is a veth pair between a program under test and a sender of packets.
type wire struct {
	*pktgen.Generator
	elsewhere *pktgen.Generator // to a hardware address that nobody has
	sender    *cell
}

// serverAddr is the address of the program under test. Every source is routed back over the wire, where nothing takes the answers.
var serverAddr = netip.MustParseAddr("192.0.2.1")

// connect joins a cell with a sender.
func connect(server *cell) (w *wire, err error) {
	w = new(wire)
	if w.sender, err = newCell("sender-"+filepath.Base(server.group), nil); err != nil {
		return nil, err
	}
	var door net.HardwareAddr
	namespace := -1
	w.sender.do(func() {
		var f *os.File
		if f, err = os.Open("/proc/thread-self/ns/net"); err == nil {
			namespace = int(f.Fd())
			server.do(func() { door, err = plug(namespace) })
			f.Close()
		}
	})
	if err == nil {
		w.sender.do(func() {
			if err = exec.Command("ip", "link", "set", "wire1", "up").Run(); err == nil {
				w.Generator, err = pktgen.Open("wire1", door, serverAddr)
			}
			if err == nil {
				w.elsewhere, err = pktgen.Open("wire1", net.HardwareAddr{2, 0, 0, 0, 0, 9}, serverAddr)
			}
		})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect a sender: %w", err), w.sender.close())
	}
	return w, nil
}

// plug makes the pair, of which the far end is in another namespace, and returns the hardware address of the near one.
func plug(namespace int) (net.HardwareAddr, error) {
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "wire0"}, PeerName: "wire1", PeerNamespace: netlink.NsFd(namespace)}
	if err := netlink.LinkAdd(veth); err != nil {
		return nil, err
	}
	for _, args := range []string{"addr add 192.0.2.1/24 dev wire0", "link set wire0 up", "neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev wire0", "route add default via 192.0.2.2"} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("ip %s: %w: %s", args, err, out)
		}
	}
	link, err := net.InterfaceByName("wire0")
	if err != nil {
		return nil, err
	}
	return link.HardwareAddr, nil
}

func (w *wire) close() error { return errors.Join(w.Close(), w.elsewhere.Close(), w.sender.close()) }

// anySource returns the i-th of 16 million sources in a pseudo-random order, to a port of 1 to 1024.
func anySource(i int) pktgen.Packet {
	x := uint32(i) * 2654435761
	p := pktgen.Packet{From: [4]byte{20}, Port: uint16(x>>7)%1024 + 1}
	p.From[1], p.From[2], p.From[3] = byte(x>>24), byte(x>>16), byte(x>>8)
	return p
}

// from sends to port 22 from each of some sources in turn. Sources that take part in a large attack are banned from the service's port only.
func from(sources []netip.Addr) func(int) pktgen.Packet {
	return func(i int) pktgen.Packet { return pktgen.Packet{From: sources[i%len(sources)].As4(), Port: 22} }
}

// packets measures what packets cost: the daemon in floods of them, the table for each, and the time from a scan to its ban.
func (b *bench) packets(ctx context.Context, p *product, s *section) error {
	if p.ctlPath == "" {
		return nil // detects no packets
	}
	dir, err := os.MkdirTemp(b.dir, p.name+"-")
	if err != nil {
		return err
	}
	in, err := launch(p, dir, func(table, set string) bool { return p.bans(table, set) || strings.HasPrefix(set, "susp") })
	if err != nil {
		return err
	}
	if err = in.ready(ctx, 30*time.Second); err == nil {
		err = b.packetsOf(in, s)
	}
	return errors.Join(err, in.stop())
}

func (b *bench) packetsOf(in *instance, s *section) error {
	w, err := connect(in.cell)
	if err != nil {
		return err
	}
	defer w.close()
	if err := in.scans(w, s); err != nil {
		return err
	}
	if err := in.spoofed(w, s); err != nil {
		return err
	}
	_, bans, _, err := in.flood(100_000, b.limit)
	if err != nil {
		return err
	}
	if len(bans) < 100_000 {
		return fmt.Errorf("only %d of 100,000 bans were made", len(bans))
	}
	banned, _ := in.watch.banned()
	if err := in.underFlood(w, s, "banned sources", "≤ 1 %", 2_000_000, from(banned)); err != nil {
		return err
	}
	return w.throughput(in, s, banned)
}

// scans times bans of sources that come to a seventh closed port: ps_limit is 5, and the first packet of an unknown source counts.
func (in *instance) scans(w *wire, s *section) error {
	const trials = 200
	if err := in.firstScan(w); err != nil {
		return err
	}
	var took []float64
	for range trials {
		source := in.fresh()
		var sendErr error
		for port := range 6 {
			begun := time.Now()
			w.sender.do(func() {
				sendErr = w.Send(1, 0, func(int) pktgen.Packet { return pktgen.Packet{From: source.As4(), Port: uint16(1000 + port)} })
			})
			if sendErr != nil {
				return sendErr
			}
			if port < 5 {
				continue
			}
			if at, ok := in.watch.wait(source, begun.Add(time.Second)); ok {
				took = append(took, float64(at.Sub(begun))/float64(time.Millisecond))
			}
		}
		time.Sleep(200 * time.Millisecond) // more packets a second than these are taken for a flood
	}
	if len(took) == 0 {
		return errors.New("no scan was banned")
	}
	s.set(in.product, "packet beyond ps_limit to ban: median (least to greatest)", "", "%s", spread(took, milliseconds))
	s.set(in.product, "packet beyond ps_limit to ban: 99 % within", "≤ 20 ms", "%s", milliseconds(quantile(took, 0.99)))
	s.set(in.product, "scans banned", "", "%d of %d", len(took), trials)
	return nil
}

// firstScan waits until scans are found.
func (in *instance) firstScan(w *wire) error {
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		source := in.fresh()
		var err error
		w.sender.do(func() {
			err = w.Send(8, 0, func(i int) pktgen.Packet { return pktgen.Packet{From: source.As4(), Port: uint16(2000 + i)} })
		})
		if err != nil {
			return err
		}
		if _, ok := in.watch.wait(source, time.Now().Add(time.Second)); ok {
			return nil
		}
	}
	return fmt.Errorf("no scan was banned within 30 s: %s", in.tail())
}

// spoofed sends five million packets, nearly all of which have a source of their own, with a scan among them.
func (in *instance) spoofed(w *wire, s *section) error {
	const each = 500 // packets between two of the scan
	scanner := in.fresh()
	memory := in.status("VmRSS")
	var begun time.Time
	err := in.underFlood(w, s, "random sources", "≤ 2 %", 5_000_000, func(i int) pktgen.Packet {
		if i == 0 {
			begun = time.Now()
		}
		if i%each == 0 {
			return pktgen.Packet{From: scanner.As4(), Port: uint16(2000 + i/each)}
		}
		return anySource(i)
	})
	if err != nil {
		return err
	}
	found := "no"
	if at, ok := in.watch.wait(scanner, time.Now().Add(time.Second)); ok {
		found = fmt.Sprintf("banned %.1f s after the first packet", at.Sub(begun).Seconds())
	}
	s.set(in.product, "the same: a scan among them", "≤ 60 s", "%s", found)
	s.set(in.product, "the same: memory before and after", "flat", "%s, %s", megabytes(memory), in.settled())
	var full []byte
	in.do(func() { full, err = exec.Command("nft", "list", "counter", "inet", "mefdaemon", "scan_full").Output() })
	_, rest, _ := strings.Cut(string(full), "\tpackets ") // behind the comment
	packets, _, _ := strings.Cut(rest, " ")
	s.set(in.product, "the same: packets that found a set full", "0", "%s", packets)
	return err
}

// underFlood measures the CPU time of the daemon while n packets come.
func (in *instance) underFlood(w *wire, s *section, of, budget string, n int, next func(int) pktgen.Packet) error {
	const rate = 1_000_000
	s.set(in.product, "before the flood from "+of+": CPU of the daemon", "", "%.2f %%", 100*in.quiet())
	cpu, begun := in.cpu(), time.Now()
	sent := 0
	var err error
	w.sender.do(func() {
		for sent < n && err == nil {
			at := sent
			err = w.Send(rate/10, rate, func(i int) pktgen.Packet { return next(at + i) })
			sent += rate / 10
		}
	})
	took := time.Since(begun)
	s.set(in.product, "SYN flood from "+of+": CPU of the daemon, of one core", budget, "%.2f %%", 100*(in.cpu()-cpu).Seconds()/took.Seconds())
	s.set(in.product, "SYN flood from "+of+": packets a second", "1,000,000", "%s", count(float64(sent)/took.Seconds()))
	return err
}

const quietWindow = 10 * time.Second

// quiet waits until a burst of work is over, and returns the share of a core that the daemon used in the last ten seconds.
func (in *instance) quiet() (share float64) {
	for range 6 {
		cpu, begun := in.cpu(), time.Now()
		time.Sleep(quietWindow)
		if share = (in.cpu() - cpu).Seconds() / time.Since(begun).Seconds(); share < 0.005 {
			break
		}
	}
	return share
}

// throughput compares the packets of banned sources with those to a closed port of a host without rules.
func (w *wire) throughput(in *instance, s *section, banned []netip.Addr) error {
	free, err := newCell("free", nil)
	if err != nil {
		return err
	}
	defer free.close()
	bare, err := connect(free)
	if err != nil {
		return err
	}
	defer bare.close()
	const n = 2_000_000
	var each []time.Duration // CPU time of a packet
	for _, of := range []struct {
		what string
		at   *cell
		g    *pktgen.Generator
	}{{"banned sources, 100,000 bans", w.sender, w.Generator}, {"closed ports, no rules", bare.sender, bare.Generator}, {"to another hardware address: sending alone", bare.sender, bare.elsewhere}} {
		var rates []float64
		least := time.Hour
		for range 3 {
			var sendErr error
			used, begun := ownTime(), time.Now()
			of.at.do(func() { sendErr = of.g.Send(n, 0, from(banned)) })
			if sendErr != nil {
				return sendErr
			}
			rates = append(rates, n/time.Since(begun).Seconds())
			least = min(least, (ownTime()-used)/n)
		}
		each = append(each, least)
		s.set(in.product, "packets a second of all cores: "+of.what, "", "%s", spread(rates, count))
		s.set(in.product, "CPU time of a packet: "+of.what, "", "%v", least)
	}
	s.set(in.product, "of that, receiving: banned sources, 100,000 bans (closed ports, no rules)", "", "%v (%v)", each[0]-each[2], each[1]-each[2])
	return in.dropped(banned[0])
}

// ownTime returns the CPU time that this process has used. Over a veth pair it has that of receiving, too.
func ownTime() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// dropped checks that the table dropped packets of a source.
func (in *instance) dropped(source netip.Addr) error {
	var out []byte
	for _, set := range []string{"ban4_32", "ban4_32_p22"} {
		in.do(func() {
			out, _ = exec.Command("nft", "get", "element", "inet", "mefdaemon", set, fmt.Sprintf("{ %s }", source)).CombinedOutput()
		})
		if _, rest, ok := strings.Cut(string(out), "counter packets "); ok && !strings.HasPrefix(rest, "0 ") {
			return nil
		}
	}
	return fmt.Errorf("%s is banned, and none of its packets was dropped: %s", source, out)
}

const blockPort = 8480

// blockpage measures what a flood of connections to the page for blocked customers costs, and whether a customer gets it meanwhile.
func (b *bench) blockpage(ctx context.Context, p *product, s *section) error {
	if p.ctlPath == "" {
		return nil // has no page
	}
	return b.with(ctx, p, func(in *instance) error {
		w, err := connect(in.cell)
		if err != nil {
			return err
		}
		defer w.close()
		const customer, attacker = "192.0.2.7", "192.0.2.8"
		var there *os.File
		w.sender.do(func() {
			there, err = os.Open("/proc/thread-self/ns/net")
			for _, addr := range []string{customer, attacker} {
				err = errors.Join(err, exec.Command("ip", "addr", "add", addr+"/24", "dev", "wire1").Run())
			}
		})
		if err != nil {
			return fmt.Errorf("add addresses: %w", err)
		}
		defer there.Close()
		f, err := os.OpenFile(filepath.Join(in.dir, "mef.conf"), os.O_APPEND|os.O_WRONLY, 0)
		if err == nil {
			_, err = fmt.Fprintf(f, "block_page=%d\n", blockPort)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			return err
		}
		client := control.NewClient(filepath.Join(in.dir, "mefdaemon.sock"))
		if _, err := client.Reload(ctx); err != nil {
			return err
		}
		entries := []string{customer, attacker}
		var sources []netip.Addr
		for range 1000 {
			sources = append(sources, in.fresh())
			entries = append(entries, sources[len(sources)-1].String())
		}
		if done, err := client.BanAll(ctx, control.Batch{Entries: entries, For: time.Hour, Ports: "80,443"}); err != nil || done.Done < len(entries) {
			return errors.Join(err, fmt.Errorf("%d of %d bans", done.Done, len(entries)))
		}
		ask := func(from string) (took time.Duration, err error) {
			begun := time.Now()
			var conn net.Conn
			dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}
			dialed := make(chan struct{})
			go func() {
				defer close(dialed)
				runtime.LockOSThread() // the thread ends with this goroutine, as it cannot be used elsewhere
				if err = unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err == nil {
					conn, err = dialer.Dial("tcp", "192.0.2.1:80")
				}
			}()
			if <-dialed; err != nil {
				return 0, err
			}
			defer conn.Close()
			_ = conn.SetDeadline(begun.Add(5 * time.Second))
			if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n"); err != nil {
				return 0, err
			}
			page, err := io.ReadAll(conn)
			if err == nil && !strings.Contains(string(page), "Your address is blocked") {
				err = fmt.Errorf("the answer is %.100q", page)
			}
			return time.Since(begun), err
		}
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Second) {
			if _, err = ask(customer); err == nil {
				break
			} else if time.Now().After(deadline) {
				return fmt.Errorf("no page: %w", err)
			}
		}
		for _, of := range []struct {
			what    string
			sources []netip.Addr
		}{{"one source", sources[:1]}, {"1,000 sources", sources}} {
			if err := in.pageFlood(w, s, of.what, func(i int) pktgen.Packet { return pktgen.Packet{From: of.sources[i%len(of.sources)].As4(), Port: 80} },
				func() (time.Duration, error) { return ask(customer) }, func() { _, _ = ask(attacker) }); err != nil {
				return err
			}
		}
		bans, err := client.Bans(ctx)
		s.set(p, "bans more than before", "0", "%d", len(bans)-len(entries)-1)
		return err
	})
}

// pageFlood measures a flood: next is its packets, ask and pester are the requests of the customer and of an attacker.
func (in *instance) pageFlood(w *wire, s *section, of string, next func(int) pktgen.Packet, ask func() (time.Duration, error), pester func()) error {
	const rate, seconds = 10_000, 10
	stop := make(chan struct{})
	var group errgroup.Group
	var took []float64
	var asked int
	group.Go(func() error {
		var each errgroup.Group
		var mu sync.Mutex
		for ; ; time.Sleep(time.Second) {
			select {
			case <-stop:
				return each.Wait()
			default:
			}
			asked++
			each.Go(func() error {
				if d, err := ask(); err == nil {
					mu.Lock()
					took = append(took, float64(d)/float64(time.Millisecond))
					mu.Unlock()
				}
				return nil
			})
		}
	})
	group.Go(func() error {
		for {
			select {
			case <-stop:
				return nil
			default:
				pester()
			}
		}
	})
	cpu, begun := in.cpu(), time.Now()
	err := w.Send(rate*seconds, rate, next)
	span := time.Since(begun).Seconds()
	used := (in.cpu() - cpu).Seconds() / span
	close(stop)
	if err = errors.Join(err, group.Wait()); err != nil {
		return err
	}
	least := [2]time.Duration{time.Hour, time.Hour}
	for range 3 {
		for i, g := range []*pktgen.Generator{w.Generator, w.elsewhere} {
			const n = 300_000
			before := ownTime()
			if err := g.Send(n, 0, next); err != nil {
				return err
			}
			least[i] = min(least[i], (ownTime()-before)/n)
		}
	}
	kernel := (least[0] - least[1]).Seconds() * rate
	s.set(in.product, "flood from "+of+": connections a second", "10,000", "%s", count(rate*seconds/span))
	s.set(in.product, "flood from "+of+": CPU of daemon, page and kernel, of one core", "≤ 5 %", "%.2f %% (kernel: %.2f %%, %v a packet)", 100*(used+kernel), 100*kernel, least[0]-least[1])
	s.set(in.product, "flood from "+of+": pages that another banned client got", "all", "%d of %d", len(took), asked)
	if len(took) > 0 {
		s.set(in.product, "flood from "+of+": time of such a page", "", "%s", spread(took, milliseconds))
	}
	return nil
}
