package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"mef/internal/conf"
	programs "mef/internal/run"
)

// A manager steers services. The one of this machine is systemd, or nobody.
type manager struct {
	root    bool
	systemd bool
	unitDir []string // where unit files stand
	config  string   // of the daemon that is meant
	call    func(ctx context.Context, args ...string) error
}

func newManager(g *global) *manager {
	_, err := os.Stat("/run/systemd/system") // sd_booted(3)
	return &manager{
		root: os.Geteuid() == 0, systemd: err == nil, config: g.config,
		unitDir: []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"},
		call: func(ctx context.Context, args ...string) error {
			_, err := programs.Output(ctx, 64<<10, "systemctl", args...)
			return err
		},
	}
}

// can returns why a service cannot be steered here, and what to do instead; nil if it can.
func (m *manager) can(verb, service string) error {
	byHand := map[string]string{"stop": "mefctl off stops the daemon and removes its table", "disable": "mefctl off stops the daemon and removes its table"}[verb]
	if byHand == "" {
		byHand = "start it by hand: mefdaemon --config " + m.config
	}
	switch {
	case !m.systemd:
		return fmt.Errorf("systemd does not run here; %s", byHand)
	case m.config != conf.DefaultPath:
		return fmt.Errorf("the service %s reads %s and no other configuration; %s", service, conf.DefaultPath, byHand)
	case !m.root:
		return fmt.Errorf("mefctl %s needs root; use sudo", verb)
	case service == "mef" && !m.installed(service):
		return fmt.Errorf("mef.service is not installed: there is no static policy to load; mefdaemon works without it")
	case !m.installed(service):
		return fmt.Errorf("%s.service is not installed; run sudo make install, or %s", service, byHand)
	}
	return nil
}

func (m *manager) installed(service string) bool {
	return slices.ContainsFunc(m.unitDir, func(dir string) bool {
		_, err := os.Stat(filepath.Join(dir, service+".service"))
		return err == nil
	})
}

// do runs systemctl for a service, which must be possible.
func (m *manager) do(ctx context.Context, service string, args ...string) error {
	return m.call(ctx, append(args, service+".service")...)
}

// serviceVerbs are the commands that only pass a word on.
var serviceVerbs = []struct {
	verb, short, long string
	args              []string
	done              string
}{
	{"start", "Start mefdaemon", "start starts mefdaemon and returns when the kernel holds its bans.",
		[]string{"start"}, "%s has started; mefctl status says whether this host is protected."},
	{"stop", "Stop mefdaemon, and leave its bans in force",
		"stop stops mefdaemon. What it banned stays banned until it ends; mefctl off lifts it.",
		[]string{"stop"}, "%s has stopped. What it banned stays banned until it ends; mefctl off lifts it."},
	{"restart", "Stop mefdaemon and start it again", "restart stops mefdaemon and starts it again; bans stay in force meanwhile.",
		[]string{"restart"}, "%s has started again; mefctl status says whether this host is protected."},
	{"disable", "Stop mefdaemon and do not start it at boot",
		"disable stops mefdaemon and does not start it at boot. What it banned stays banned until it ends; mefctl off lifts it.",
		[]string{"disable", "--now"}, "%s has stopped and is not started at boot. What it banned stays banned until it ends; mefctl off lifts it."},
}

func newServices(g *global) (cmds []*cobra.Command) {
	for _, v := range serviceVerbs {
		cmds = append(cmds, &cobra.Command{
			Use:       v.verb + " [mefdaemon|mef]",
			Short:     v.short,
			Long:      v.long,
			Args:      serviceArg(v.verb),
			ValidArgs: []string{"mefdaemon", "mef"},
			RunE: func(cmd *cobra.Command, args []string) error {
				service := "mefdaemon"
				if len(args) > 0 {
					service = args[0]
				}
				m := newManager(g)
				if err := m.can(v.verb, service); err != nil {
					return err
				}
				if err := m.do(cmd.Context(), service, v.args...); err != nil {
					return fmt.Errorf("%s %s: %w; journalctl -u %s says more", v.verb, service, err, service)
				}
				return g.print(cmd, map[string]string{"service": service, "done": v.verb}, func(w io.Writer) { fmt.Fprintf(w, v.done+"\n", service) })
			},
		})
	}
	return cmds
}

func serviceArg(verb string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) > 1 || len(args) == 1 && args[0] != "mefdaemon" && args[0] != "mef" {
			return usage("mefctl %s takes mefdaemon or mef, not %q", verb, strings.Join(args, " "))
		}
		return nil
	}
}
