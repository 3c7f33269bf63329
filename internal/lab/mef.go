//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"mef/internal/control"
)

const (
	mefConf   = "/etc/mef/mef.conf"
	mefSocket = "/run/mef/mefdaemon.sock"
)

// A Mef is a running mefdaemon. New must have been given the programs mefdaemon and mefctl.
type Mef struct {
	Process *Process
	*control.Client
}

// StartMef starts mefdaemon with the text of a configuration, which may be empty, and waits until it follows the log and
// its table is in the kernel.
func (w *World) StartMef(ctx context.Context, config string) (*Mef, error) {
	return w.startMef(ctx, config, Command{Path: Program("mefdaemon")}, (*Mef).watches)
}

// StartMefWithout is StartMef without capabilities, such as "net_admin". It does not wait for the table.
func (w *World) StartMefWithout(ctx context.Context, config string, capabilities ...string) (*Mef, error) {
	drop := "-" + strings.Join(capabilities, ",-")
	return w.startMef(ctx, config, Command{Path: "/usr/bin/setpriv", Args: []string{"--bounding-set=" + drop, "--inh-caps=" + drop, Program("mefdaemon")}}, (*Mef).follows)
}

func (w *World) startMef(ctx context.Context, config string, c Command, ready func(*Mef, context.Context) error) (*Mef, error) {
	if err := w.Configure(config); err != nil {
		return nil, err
	}
	// systemd makes these before it starts the service (RuntimeDirectory, StateDirectory).
	for _, d := range []string{filepath.Dir(mefSocket), "/var/lib/mef"} {
		if err := os.MkdirAll(d, 0o750); err != nil {
			return nil, err
		}
	}
	c.Unit = "system.slice/mefdaemon.service"
	p, err := w.Start(c)
	if err != nil {
		return nil, err
	}
	m := &Mef{Process: p, Client: control.NewClient(mefSocket)}
	if err := p.ready(ctx, func() error { return ready(m, ctx) }); err != nil {
		return m, errors.Join(err, p.Stop(os.Kill)) // two daemons would restore the table in turn
	}
	return m, nil
}

// Configure writes the text of the configuration.
func (w *World) Configure(config string) error { return writeFiles(map[string]string{mefConf: config}) }

// watches returns nil if the daemon's table is in the kernel and at least one source is active.
func (m *Mef) watches(ctx context.Context) error {
	status, err := m.Status(ctx)
	if err != nil {
		return err
	}
	if !status.Kernel.Present {
		return fmt.Errorf("%s is not in the kernel yet", status.Kernel.Table)
	}
	return m.follows(ctx)
}

// follows returns nil if at least one source of the daemon is active.
func (m *Mef) follows(ctx context.Context) error {
	status, err := m.Status(ctx)
	if err != nil {
		return err
	}
	var waiting []string
	for _, source := range status.Sources {
		if source.State == "active" {
			return nil
		}
		waiting = append(waiting, fmt.Sprintf("%s is %s (%s)", source.Name, source.State, source.Reason))
	}
	return fmt.Errorf("no source is active yet: %s", strings.Join(waiting, ", "))
}

// ForgetMef removes what mefdaemon keeps on disk, as if it had never run here. The daemon must not be running.
func (w *World) ForgetMef() error {
	return errors.Join(os.RemoveAll("/var/lib/mef"), os.RemoveAll(filepath.Dir(mefSocket)), os.RemoveAll(filepath.Dir(mefConf)))
}

// Mefctl runs the operator's tool and returns what it prints.
func (w *World) Mefctl(ctx context.Context, args ...string) (string, error) {
	return w.Run(ctx, Command{Path: Program("mefctl"), Args: args})
}
