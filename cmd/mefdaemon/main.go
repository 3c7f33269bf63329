// Command mefdaemon reads the journal and log files, recognises attacks, and bans their sources in the kernel's packet
// filter. It runs in the foreground until SIGTERM, which leaves the bans in force.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"mef/internal/conf"
	"mef/internal/conf/mefconf"
	"mef/internal/daemon"
	"mef/internal/enforce/kernel"
	"mef/internal/filter"
	"mef/internal/firewall/inforce"
	"mef/internal/history"
	"mef/internal/notify"
	"mef/internal/pagechild"
	"mef/internal/printable"
	"mef/internal/sdnotify"
	"mef/internal/selftest"
)

// version is set by the linker.
var version = "unknown"

func main() {
	if handled, exit := selftest.Child(os.Args[1:], kernel.Open); handled {
		os.Exit(exit)
	}
	stderr := printable.Text(os.Stderr)
	if err := run(os.Args[1:], os.Stdout, stderr); err != nil {
		fmt.Fprintf(stderr, "mefdaemon: %s\n", strings.ReplaceAll(err.Error(), "\n", "\nmefdaemon: "))
		os.Exit(1)
	}
}

// options are those of the command line.
type options struct {
	config, level string
	version       bool
}

func newFlags() (*flag.FlagSet, *options) {
	fs, opt := flag.NewFlagSet("mefdaemon", flag.ExitOnError), new(options)
	fs.StringVar(&opt.config, "config", conf.DefaultPath, "configuration `file`")
	fs.StringVar(&opt.level, "log-level", "", "debug, info, warn or error; overrides the configuration")
	fs.BoolVar(&opt.version, "version", false, "print the version and exit")
	return fs, opt
}

func run(args []string, stdout, stderr io.Writer) error {
	debug.SetGCPercent(50) // garbage is a larger share of memory than of time here
	fs, given := newFlags()
	fs.Parse(args) // exits on -h and on a wrong flag
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; mefdaemon takes flags only, see mefdaemon -h", fs.Arg(0))
	}
	if given.version {
		fmt.Fprintln(stdout, "mefdaemon", version)
		return nil
	}
	load := func() (*conf.Config, error) { // the lists are the daemon's to read
		return mefconf.Loader{Shipped: filter.Shipped(), Optional: given.config == conf.DefaultPath, SkipLists: true}.Load(given.config)
	}
	cfg, err := load()
	if err != nil {
		return err // has file:line:col and what to do
	}
	if given.level != "" {
		if err := cfg.LogLevel.UnmarshalText([]byte(given.level)); err != nil {
			return fmt.Errorf("--log-level %q: write debug, info, warn or error", given.level)
		}
	}
	logLevel := new(slog.LevelVar)
	logLevel.Set(cfg.LogLevel)
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: logLevel}))
	for _, n := range cfg.Notices {
		log.Warn("configuration", "at", n.Pos.String(), "note", n.Text)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	manager, err := sdnotify.New(os.Getenv)
	if err != nil {
		log.Warn("service manager", "err", err)
	}
	opt := daemon.Options{Version: version, Log: log, Level: logLevel, Load: load, Manager: manager, Notify: notify.New(cfg.Notify, log), History: history.New(version, cfg.Paths.StateDir, log),
		Page: pagechild.New(log, cfg.Page, cfg.Paths.StateDir, version), SelfTest: selfTest(cfg.Firewall.Backend), Firewall: inforce.Check}
	if given.level != "" {
		opt.Level = nil
	}
	hangups := make(chan os.Signal, 1) // one that waits stands for all that came meanwhile
	signal.Notify(hangups, syscall.SIGHUP)
	opt.Hangups = hangups
	return daemon.Run(ctx, cfg, opt)
}

// selfTest returns a function that returns why bans cannot be tried here, or what is wrong with them.
func selfTest(backend conf.Backend) func(context.Context) (impossible, problem string) {
	return func(ctx context.Context) (impossible, problem string) {
		result, err := selftest.Spawn(ctx, backend)
		switch {
		case err != nil:
			return "", err.Error()
		case result.Impossible != "":
			return result.Impossible, ""
		case !result.OK:
			return "", result.Problem()
		}
		return "", ""
	}
}
