// Command bench measures mef beside the programs it replaces, on the machine it runs on.
//
//	bench              is what "make bench" runs: all scenarios, results to bench/RESULTS.md (about 20 minutes)
//	bench run [flags]  runs some or all scenarios and prints the results
//	bench gen [flags]  writes a mixed log to standard output
//
// Every program under test runs in a network namespace and a control group of its own, with its files in a temporary
// directory: the host's firewall and logs are not touched. CPU time is what the kernel charged to the control group,
// children included; times of bans come from the kernel's own notifications. Fail2ban and sshguard take part where Debian's
// packages are installed. Needs root, and mefctl and mefdaemon in bin/.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"mef/bench/gen"
)

func main() {
	if err := command(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

func command(args []string) error {
	if len(args) == 0 {
		return run([]string{"-write", "bench/RESULTS.md"})
	}
	switch args[0] {
	case "gen":
		return generate(args[1:])
	case "run":
		return run(args[1:])
	case "zone": // for the scenario of this name
		return serveZone(args[1:])
	}
	return fmt.Errorf("unknown command %q; say gen or run", args[0])
}

// generate is the command bench gen.
func generate(args []string) error {
	fs := flag.NewFlagSet("bench gen", flag.ExitOnError)
	n := fs.Int("lines", 1_000_000, "number of `lines`")
	share := fs.String("share", "", "`service=N,...`: parts of the log, by lines; services not named are left out (default "+shareText(gen.DefaultShares())+")")
	var cfg gen.Config
	fs.Uint64Var(&cfg.Seed, "seed", 1, "where the pseudo-random numbers start")
	fs.IntVar(&cfg.Attackers, "attackers", 0, "number of hostile `addresses` (default 20000)")
	fs.IntVar(&cfg.PerSecond, "rate", 0, "lines a `second` by the log's own clock (default 200)")
	fs.BoolVar(&cfg.RFC3339, "rfc3339", false, "RFC 3339 stamps and sshd-session instead of RFC 3164 and sshd")
	fs.Parse(args) // exits on -h and on a wrong flag
	var err error
	if cfg.Shares, err = parseShares(*share); err != nil {
		return err
	}
	return writeLog(os.Stdout, cfg, *n)
}

// writeLog writes the first n lines of a log to f.
func writeLog(f *os.File, cfg gen.Config, n int) error {
	g := gen.New(cfg)
	w := bufio.NewWriterSize(f, 1<<20)
	var line []byte
	for range n {
		line = g.Append(line[:0])
		w.Write(line) // Flush returns its error
	}
	return w.Flush()
}

// parseShares reads "sshd=40,cron=10". Empty text means the default.
func parseShares(text string) (gen.Shares, error) {
	var shares gen.Shares
	if text == "" {
		return shares, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(part, "=")
		service := slices.IndexFunc(gen.Services(), func(s gen.Service) bool { return s.String() == name })
		n, err := strconv.Atoi(value)
		if service < 0 || err != nil || n < 0 {
			return shares, fmt.Errorf("share %q: want service=number, with a service of %v", part, gen.Services())
		}
		shares[service] = n
	}
	return shares, nil
}

// shareText is the reverse of parseShares.
func shareText(shares gen.Shares) string {
	var parts []string
	for s, n := range shares {
		parts = append(parts, fmt.Sprintf("%v=%d", gen.Service(s), n))
	}
	return strings.Join(parts, ",")
}

// run is the command bench run.
func run(args []string) error {
	fs := flag.NewFlagSet("bench run", flag.ExitOnError)
	bin := fs.String("bin", "bin", "`directory` of mefctl and mefdaemon")
	write := fs.String("write", "", "`file` whose generated part is replaced; without it the results are printed")
	only := fs.String("only", "", "comma-separated `scenarios` to run (default all: "+strings.Join(scenarioNames(), ",")+")")
	products := fs.String("products", "mef,fail2ban,sshguard", "comma-separated `programs` to measure")
	limit := fs.Duration("limit", 2*time.Minute, "longest `time` to wait for one program in one scenario")
	fs.Parse(args) // exits on -h and on a wrong flag

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b, err := newBench(*bin, *limit, strings.Split(*products, ","))
	if err != nil {
		return err
	}
	defer b.close()
	if err := b.run(ctx, *only); err != nil {
		return err
	}
	if *write == "" {
		fmt.Print(b.results.markdown())
		return nil
	}
	return b.results.replaceIn(*write)
}
