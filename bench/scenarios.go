package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"mef/bench/gen"
	"mef/internal/control"
)

// A bench is one run of the scenarios.
type bench struct {
	dir      string // temporary
	limit    time.Duration
	products []*product
	results  results
}

func newBench(bin string, limit time.Duration, names []string) (*bench, error) {
	products, err := findProducts(bin, names)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "mef-bench-")
	if err != nil {
		return nil, err
	}
	return &bench{
		dir: dir, limit: limit, products: products,
		results: results{begun: time.Now(), machine: describeMachine(), products: products},
	}, nil
}

func (b *bench) close() { os.RemoveAll(b.dir) }

// A scenario measures one product and fills its column of a section.
type scenario struct {
	name, title, text string
	measure           func(b *bench, ctx context.Context, p *product, s *section) error
}

// scenarios lists all scenarios, in the order of the results.
func scenarios() []scenario {
	return []scenario{
		{"match", "Recognising lines", "The matcher alone over 1,000,000 lines of `bench gen` (fail2ban 100,000), three runs: median (least to greatest).", (*bench).match},
		{"replay", "Replaying a log", "`mefctl replay` over 1,000,000 lines of the mix: recognized, counted and decided on, in order of time. MB of text; three runs: median (least to greatest).", (*bench).replay},
		{"follow", "Following a log", "The daemon reads a log of the same mix that is written as fast as it can take it, and bans: mef 1,000,000 lines, the others 100,000. Time until all of it was read.", (*bench).follow},
		{"latency", "From line to kernel", "One write of the lines that make a ban; until the kernel tells that the element is in the set. Idle, then with 20,000 lines a second of the mix in the same log.", (*bench).latency},
		{"storm", "Storm", "1,000 and 10,000 addresses cross the threshold in one write, their lines in rounds; for mef also 100,000, one after the other. CPU time includes recognising the lines.", (*bench).storm},
		{"restore", "Restart", "The daemon is stopped, its namespace thrown away, and started in a new one on the same state: until all bans are in the kernel again (fail2ban: 1,000 only).", (*bench).restore},
		{"memory", "Memory", "Resident, of all processes, 5 s afterwards (and the most it ever was): after the first ban, and after one failure of each of 100,000 addresses. With 10,000 bans: see Storm.", (*bench).memory},
		{"packets", "Packets", "SYN packets over a veth pair, sent by all cores, which also do the work of the receiving end: 5,000,000 to closed ports from as many sources, of which one in 500 belongs to a scan, and 2,000,000 from 100,000 banned sources. The same to a host without rules, which answers them, and to a hardware address that nobody has, show the limit of the sender.", (*bench).packets},
		{"blockpage", "Page for blocked customers", "SYN packets to port 80 from banned sources for 10 s, 10,000 a second, while one of these also connects and asks as fast as it can. Another banned client asks for the page once a second, and waits at most 5 s. What the kernel does for a packet is measured as for Packets.", (*bench).blockpage},
		{"viewers", "Viewers", "Five viewers ask for the picture of a host with 100,000 bans once a second for 30 s, over the control socket.", (*bench).viewers},
		{"idle", "At rest", "30 s without a line.", (*bench).idle},
		{"fleet", "Own hosts", "A community server with 500 connected own hosts, which are connections only, and two hosts with a daemon: a ban by one until the last connection has it, and one write of the lines that make a ban on one host until the kernel of the other tells that the element is in the set. 150 times each.", (*bench).fleet},
		{"zone", "DNS block list", "The DNS server of `mefcloud` with 1,000,000 entries on one core, asked by dnsperf from another one: 16 clients, 400 queries at a time, 95 % A and 5 % TXT, 30 % of the addresses listed. rbldnsd has the same entries. Three runs of 8 s in turn: median (least to greatest).", (*bench).zone},
		{"rules", "Loading a policy", "Whole processes, seven runs each, three of 50,000 rules: median (least to greatest).", (*bench).rules},
	}
}

func scenarioNames() []string {
	var names []string
	for _, s := range scenarios() {
		names = append(names, s.name)
	}
	return names
}

// run runs the scenarios named in only, or all. An error of one product is shown in its column.
func (b *bench) run(ctx context.Context, only string) error {
	for _, sc := range scenarios() {
		if only != "" && !strings.Contains(","+only+",", ","+sc.name+",") {
			continue
		}
		s := b.results.section(sc.title, sc.text)
		for _, p := range b.products {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := sc.measure(b, ctx, p, s); err != nil {
				s.set(p, "trouble", "none", "%v", err)
			}
		}
	}
	return ctx.Err()
}

// with runs f on a newly started daemon that has made its first ban.
func (b *bench) with(ctx context.Context, p *product, f func(in *instance) error) error {
	dir, err := os.MkdirTemp(b.dir, p.name+"-")
	if err != nil {
		return err
	}
	in, err := launch(p, dir, p.bans)
	if err != nil {
		return err
	}
	if err = in.ready(ctx, 30*time.Second); err == nil {
		err = f(in)
	}
	return errors.Join(err, in.stop())
}

// lines returns how many lines of the mix a product gets.
func lines(p *product) int {
	if p.slow {
		return 100_000
	}
	return 1_000_000
}

// mixes are the logs that matchers read. The budget is for the first.
func mixes() []mix {
	return []mix{
		{"lines per CPU-second", "≥ 0.9 × the build before, aim 3,500,000", gen.Config{Seed: 1}},
		{"the same with RFC 3339 stamps and sshd-session", "≥ 1,000,000", gen.Config{Seed: 1, RFC3339: true}},
		{"sshd's lines only", "", gen.Config{Seed: 1, Shares: gen.Shares{gen.SSHD: 1}}},
		{"no line that any rule is about", "", gen.Config{Seed: 1, Shares: gen.Shares{gen.Cron: 2, gen.Kernel: 2, gen.Sudo: 1, gen.Logind: 1}}},
	}
}

type mix struct {
	what, budget string
	cfg          gen.Config
}

// match times the matcher alone.
func (b *bench) match(ctx context.Context, p *product, s *section) error {
	n := 1_000_000
	if p.name == "fail2ban" {
		n = 100_000
	}
	for i, m := range mixes() {
		path, err := b.logFile(fmt.Sprintf("mix%d-%d.log", i, n), m.cfg, n)
		if err != nil {
			return err
		}
		var rates []float64
		var peak int64
		for range 3 {
			if err := ctx.Err(); err != nil {
				return err
			}
			cmd := p.matcher(path)
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%v: %w: %.200q", cmd.Args, err, out)
			}
			rates = append(rates, rate(n, cmd))
			peak = max(peak, int64(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)<<10)
		}
		s.set(p, m.what, m.budget, "%s", spread(rates, count))
		if i == 0 {
			s.set(p, "peak memory of the matcher", "", "%s", megabytes(peak))
		}
		if i == 0 && p.name == "mef" {
			if err := b.floor(p, s, path, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// floor times grep on a log of n lines: the cost of one regular expression.
func (b *bench) floor(p *product, s *section, path string, n int) error {
	var rates []float64
	for range 3 {
		cmd := exec.Command("grep", "-cE", `sshd[^:]*: (Failed|Invalid|Accepted) .* from [0-9a-f.:]+ port [0-9]+`, path)
		cmd.Env = append(os.Environ(), "LC_ALL=C") // bytes, as mef reads them
		if _, err := cmd.Output(); err != nil {    // not to /dev/null: grep would stop at the first match
			return fmt.Errorf("grep: %w", err)
		}
		rates = append(rates, rate(n, cmd))
	}
	s.set(p, "for comparison: `grep -cE` with one expression", "", "%s", spread(rates, count))
	return nil
}

// rate returns how many of n lines a command that has ended processed per CPU-second, with its children.
func rate(n int, cmd *exec.Cmd) float64 {
	return float64(n) / (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
}

// logFile returns the path of a log of n lines, which the first call writes.
func (b *bench) logFile(name string, cfg gen.Config, n int) (string, error) {
	path := filepath.Join(b.dir, name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	return path, errors.Join(writeLog(f, cfg, n), f.Close())
}

// replay times mefctl replay, on plain and on compressed logs.
func (b *bench) replay(ctx context.Context, p *product, s *section) error {
	const n = 1_000_000
	if p.ctlPath == "" {
		return nil
	}
	plain, err := b.logFile(fmt.Sprintf("mix0-%d.log", n), mixes()[0].cfg, n)
	if err != nil {
		return err
	}
	info, err := os.Stat(plain)
	if err != nil {
		return err
	}
	conf := filepath.Join(b.dir, "replay.conf")
	if err := writeFiles(map[string]string{conf: "[global]\n"}); err != nil {
		return err
	}
	measure := func(what, budget, file string, flags ...string) error {
		var rates []float64
		var peak int64
		for range 3 {
			if err := ctx.Err(); err != nil {
				return err
			}
			cmd := exec.Command(p.ctlPath, append(append([]string{"--config", conf, "replay"}, flags...), file)...)
			if out, err := cmd.Output(); err != nil {
				return fmt.Errorf("%v: %w: %.200q", cmd.Args, err, out)
			}
			rates = append(rates, rate(int(info.Size()), cmd)/(1<<20))
			peak = max(peak, int64(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)<<10)
		}
		s.set(p, what, budget, "%s, peak memory %s", spread(rates, count), megabytes(peak))
		return nil
	}
	if err := measure("MB per CPU-second", "≥ 200", plain); err != nil {
		return err
	}
	if err := measure("the same as what-if", "", plain, "--what-if"); err != nil {
		return err
	}
	for _, tool := range []string{"gzip", "zstd", "xz"} {
		packed := plain + "." + tool
		if out, err := exec.Command("sh", "-c", tool+` -1 -c -q < "$0" > "$1"`, plain, packed).CombinedOutput(); err != nil {
			s.set(p, "compressed by "+tool, "", "%s: %v: %.100q", tool, err, out)
		} else if err := measure("compressed by "+tool, "", packed); err != nil {
			return err
		}
	}
	return nil
}

// follow times the daemon on a log that grows.
func (b *bench) follow(ctx context.Context, p *product, s *section) error {
	return b.with(ctx, p, func(in *instance) error {
		n := lines(p)
		in.watch.reset()
		cpu, begun := in.cpu(), time.Now()
		start := begun.Add(-time.Duration(n) * time.Second / 200) // so that the log's own clock ends now
		if err := writeLog(in.log, gen.Config{Seed: 1, Start: start}, n); err != nil {
			return err
		}
		_, ok := in.caughtUp(b.limit)
		wall, used := time.Since(begun), in.cpu()-cpu
		bans := in.watch.waitCount(1<<30, time.Now()) // all bans so far
		if !ok {
			s.set(p, "lines per CPU-second, bans included", "", "%s lines not read within %v (%s bans)", count(float64(n)), b.limit, count(float64(bans)))
			return nil
		}
		s.set(p, "lines per CPU-second, bans included", "≥ 400,000, aim 600,000", "%s", count(float64(n)/used.Seconds()))
		s.set(p, "wall time", "", "%.1f s for %s lines", wall.Seconds(), count(float64(n)))
		s.set(p, "bans", "", "%s", count(float64(bans)))
		s.set(p, "memory afterwards", "", "%s", in.settled())
		return nil
	})
}

// latency times single bans.
func (b *bench) latency(ctx context.Context, p *product, s *section) error {
	return b.with(ctx, p, func(in *instance) error {
		trials, pause := 300, 100*time.Millisecond
		if p.slow {
			trials, pause = 25, time.Second // programs that poll do so about once a second
		}
		if err := b.trials(ctx, in, s, "idle", trials, pause, "≤ 1.5 ms, aim 1"); err != nil {
			return err
		}
		if p.slow {
			trials = 15
		}
		cpu, begun := in.cpu(), time.Now()
		background, stop := context.WithCancel(ctx)
		written := make(chan error)
		go func() { written <- in.chatter(background, 20_000) }()
		err := b.trials(ctx, in, s, "at 20,000 lines/s", trials, pause, "≤ 5 ms, aim 3")
		share := float64(in.cpu()-cpu) / float64(time.Since(begun)) * 100
		stop()
		s.set(p, "at 20,000 lines/s: share of one CPU", "", "%.0f %%", share)
		return errors.Join(err, <-written)
	})
}

// trials times n bans with pauses of random length, up to twice pause, so that no poller's phase is favoured.
// It gives up after three addresses that were not banned within ten seconds.
func (b *bench) trials(ctx context.Context, in *instance, s *section, when string, n int, pause time.Duration, budget string) error {
	var took []float64
	lost := 0
	for lost < 3 && len(took)+lost < n && ctx.Err() == nil {
		time.Sleep(rand.N(2 * pause)) // waits for nothing: it spreads the trials
		addr := in.fresh()
		begun, err := in.attack(addr)
		if err != nil {
			return err
		}
		if at, ok := in.watch.wait(addr, begun.Add(10*time.Second)); ok {
			took = append(took, float64(at.Sub(begun))/float64(time.Millisecond))
		} else {
			lost++
		}
	}
	p := in.product
	if len(took) > 0 {
		all := spread(took, milliseconds) // sorts
		s.set(p, when+": median (least to greatest)", "", "%s", all)
		s.set(p, when+": 99 % within", budget, "%s", milliseconds(quantile(took, 0.99)))
	}
	s.set(p, when+": trials", "", "%d, %d not banned within 10 s", len(took)+lost, lost)
	return ctx.Err()
}

// chatter writes the mix into the log at a rate of lines a second, in 200 writes a second, until ctx is done.
func (in *instance) chatter(ctx context.Context, rate int) error {
	const writes = 200
	g := gen.New(gen.Config{Seed: 3})
	tick := time.NewTicker(time.Second / writes)
	defer tick.Stop()
	var block []byte
	for begun, sent := time.Now(), 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			block = block[:0]
			for due := int(now.Sub(begun).Seconds() * float64(rate)); sent < due; sent++ {
				block = g.AppendAt(block, now)
			}
			if _, err := in.log.Write(block); err != nil {
				return err
			}
		}
	}
}

// maxAtOnce is the number of addresses up to which lines are written in rounds. Beyond it, they are written one address after the other:
// no tracker remembers an unlimited number of sources, and mef's has 100,000 entries.
const maxAtOnce = 10_000

// flood makes n addresses cross the threshold in one write, and returns the times at which the bans were in the kernel, in order.
func (in *instance) flood(n int, limit time.Duration) (begun time.Time, bans []time.Time, lost bool, err error) {
	addrs := make([]netip.Addr, n)
	member := make(map[netip.Addr]bool, n)
	for i := range addrs {
		addrs[i] = in.fresh()
		member[addrs[i]] = true
	}
	var lines []byte
	together := n // in rounds, so that all cross the threshold at the end
	if n > maxAtOnce {
		together = 1
	}
	for group := range slices.Chunk(addrs, together) {
		for range in.product.failures {
			for _, addr := range group {
				lines = in.appendFailures(lines, addr, 1)
			}
		}
	}
	in.watch.reset()
	begun = time.Now()
	if _, err := in.log.Write(lines); err != nil {
		return begun, nil, false, err
	}
	in.watch.waitCount(n, begun.Add(limit))
	bans, lost = in.watch.times(func(addr netip.Addr) bool { return member[addr] })
	return begun, bans, lost, nil
}

// storm times many bans at once.
func (b *bench) storm(ctx context.Context, p *product, s *section) error {
	sizes := []int{1_000, 10_000, 100_000}
	if p.slow {
		sizes = sizes[:2]
	}
	for _, n := range sizes {
		err := b.with(ctx, p, func(in *instance) error {
			cpu := in.cpu()
			begun, bans, lost, err := in.flood(n, b.limit)
			if err != nil {
				return err
			}
			used, of := in.cpu()-cpu, count(float64(n))+" addresses: "
			budget := map[int]string{10_000: "≤ 0.5 s, aim 0.3", 100_000: "≤ 4 s, aim 2.5"}[n]
			if len(bans) == n {
				s.set(p, of+"all in the kernel after", budget, "%.2f s", bans[n-1].Sub(begun).Seconds())
			} else {
				s.set(p, of+"all in the kernel after", budget, "not within %v: %s", b.limit, count(float64(len(bans))))
			}
			if len(bans) > 0 {
				s.set(p, of+"half of those after", "", "%.2f s", bans[len(bans)/2].Sub(begun).Seconds())
				s.set(p, of+"CPU time a ban", "", "%.3f ms", used.Seconds()*1e3/float64(len(bans)))
			}
			if lost {
				s.set(p, of+"notifications lost", "none", "yes: the figures above are too low")
			}
			s.set(p, of+"memory", map[int]string{10_000: "≤ 24 MB", 100_000: "≤ 60 MB, peak 120"}[n], "%s", in.settled())
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// restore times a start with many bans to restore.
func (b *bench) restore(ctx context.Context, p *product, s *section) error {
	if !p.keeps {
		s.set(p, "1,000 bans", "", "keeps none")
		return nil
	}
	sizes := []int{1_000, 10_000, 100_000}
	if p.slow {
		sizes = sizes[:1]
	}
	for _, n := range sizes {
		if err := b.restoreOf(ctx, p, s, n); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) restoreOf(ctx context.Context, p *product, s *section, n int) error {
	var dir string
	var banned []netip.Addr
	var sets []set
	err := b.with(ctx, p, func(in *instance) error {
		_, _, _, err := in.flood(n, b.limit)
		time.Sleep(3 * time.Second) // a store that is written once a second is complete by then
		dir = in.dir
		banned, sets = in.watch.banned()
		return err
	})
	if err != nil {
		return err
	}
	rand.Shuffle(len(banned), func(i, j int) { banned[i], banned[j] = banned[j], banned[i] })
	in, err := launch(p, dir, nil)
	if err != nil {
		return err
	}
	what, budget := count(float64(n))+" bans", map[int]string{100_000: "≤ 0.8 s, aim 0.4"}[n]
	limit := 15 * time.Second
	if p.slow {
		limit = b.limit
	}
	var ask *asker
	if in.do(func() { ask, err = newAsker(sets) }); err != nil {
		return errors.Join(err, in.stop())
	}
	defer ask.close()
	at, found, err := ask.await(banned, time.Now().Add(limit))
	switch {
	case err != nil:
		return errors.Join(err, in.stop())
	case found < len(banned):
		s.set(p, what, budget, "not all within %v", limit)
	default:
		s.set(p, what, budget, "%.2f s", at.Sub(in.begun).Seconds())
		s.set(p, what+": CPU time", "", "%.2f s", in.cpu().Seconds())
		s.set(p, what+": memory", "", "%s", in.settled())
	}
	return in.stop()
}

// memory measures the resident memory in two states. The storm measures it with 10,000 bans.
func (b *bench) memory(ctx context.Context, p *product, s *section) error {
	return b.with(ctx, p, func(in *instance) error {
		s.set(p, "just started", "≤ 18 MB, aim 12", "%s", in.settled())
		if info, err := os.Stat(in.cmd.Path); p.name == "mef" && err == nil {
			s.set(p, "size of mefdaemon on disk", "≤ 14 MB", "%s", megabytes(info.Size()))
		}
		const n = 100_000
		var lines []byte
		for range n {
			lines = in.appendFailures(lines, in.fresh(), 1)
		}
		begun := time.Now()
		if _, err := in.log.Write(lines); err != nil {
			return err
		}
		what, budget := "100,000 addresses with one failure each", "≤ 40 MB, aim 32"
		if _, ok := in.caughtUp(b.limit); ok {
			s.set(p, "the time to read them", "", "%.2f s", time.Since(begun).Seconds())
			s.set(p, what, budget, "%s", in.settled())
		} else {
			s.set(p, what, budget, "not read within %v (%s then)", b.limit, in.settled())
		}
		return nil
	})
}

// viewers measures what those cost who look at a daemon with many bans.
func (b *bench) viewers(ctx context.Context, p *product, s *section) error {
	if p.name != "mef" {
		s.set(p, "CPU of the daemon, of one core", "", "shows no picture")
		return nil
	}
	return b.with(ctx, p, func(in *instance) error {
		const n, seconds, viewers = 100_000, 30, 5
		if _, bans, _, err := in.flood(n, b.limit); err != nil || len(bans) < n {
			return errors.Join(err, fmt.Errorf("%d of %d bans", len(bans), n))
		}
		s.set(p, "without viewers: CPU of the daemon, of one core", "", "%.2f %%", 100*in.quiet())
		var group errgroup.Group
		client := control.NewClient(filepath.Join(in.dir, "mefdaemon.sock"))
		cpu, begun := in.cpu(), time.Now()
		for range viewers {
			group.Go(func() error {
				for range seconds {
					at := time.Now()
					if pic, err := client.Picture(ctx); err != nil || pic.Bans.Total < n {
						return errors.Join(err, fmt.Errorf("the picture has %d bans", pic.Bans.Total))
					}
					time.Sleep(time.Second - time.Since(at))
				}
				return nil
			})
		}
		err := group.Wait()
		s.set(p, "CPU of the daemon, of one core", "≤ 1 %", "%.2f %%", 100*(in.cpu()-cpu).Seconds()/time.Since(begun).Seconds())
		return err
	})
}

// idle measures a daemon that has nothing to do.
func (b *bench) idle(ctx context.Context, p *product, s *section) error {
	return b.with(ctx, p, func(in *instance) error {
		const window = 30 * time.Second
		time.Sleep(5 * time.Second) // the work after a start and a ban is over by then
		cpu, wakeups := in.cpu(), in.wakeups()
		wakes, err := in.wakes(ctx, window)
		if err != nil {
			return err
		}
		s.set(p, "times a second that it wakes from rest", "< 0.1", "%.2f", float64(wakes)/window.Seconds())
		s.set(p, "times a second that a thread is put on a CPU", "", "%.2f", float64(in.wakeups()-wakeups)/window.Seconds())
		s.set(p, "CPU time a minute", "", "%.1f ms", (in.cpu()-cpu).Seconds()*1e3*60/window.Seconds())
		s.set(p, "memory", "≤ 18 MB", "%s", megabytes(in.status("VmRSS")))
		return nil
	})
}

// wakes counts how often the cell's processes wake from rest within a window. Several wakes within a moment count once: a program with
// threads is put on a CPU many times for one task.
func (in *instance) wakes(ctx context.Context, window time.Duration) (n int, err error) {
	const moment = 50 * time.Millisecond
	tick := time.NewTicker(moment)
	defer tick.Stop()
	before, awake := in.wakeups(), false
	for end := time.Now().Add(window); time.Now().Before(end); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return n, ctx.Err()
		}
		now := in.wakeups()
		if now != before && !awake {
			n++
		}
		before, awake = now, now != before
	}
	return n, nil
}

// settled shows the memory a while after a burst of work, and its maximum so far.
func (in *instance) settled() string {
	time.Sleep(5 * time.Second)
	return fmt.Sprintf("%s (peak %.1f)", megabytes(in.status("VmRSS")), float64(in.status("VmHWM"))/(1<<20))
}
