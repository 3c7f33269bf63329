package lifecycle

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
	"mef/internal/console"
	"mef/internal/mefctl/cli"
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

func newManager(g *cli.Global) *manager {
	_, err := os.Stat("/run/systemd/system") // sd_booted(3)
	return &manager{
		root: os.Geteuid() == 0, systemd: err == nil, config: g.Config,
		unitDir: []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"},
		call: func(ctx context.Context, args ...string) error {
			_, err := programs.Output(ctx, 64<<10, "systemctl", args...)
			return err
		},
	}
}

// can returns why a service cannot be steered here, and what to do instead; nil if it can.
func (m *manager) can(verb, service string) error {
	instead := "start it by hand: mefdaemon --config " + m.config
	switch {
	case service == policy && (verb == "stop" || verb == "disable"):
		instead = "mef --config " + m.config + " clear removes the policy"
	case service == policy:
		instead = "mef --config " + m.config + " load loads the policy"
	case verb == "stop" || verb == "disable":
		instead = "mefctl off stops the daemon and removes its table"
	}
	switch {
	case !m.systemd:
		return fmt.Errorf("systemd does not run on this host; %s", instead)
	case m.config != conf.DefaultPath:
		return fmt.Errorf("the service %s reads only %s; %s", service, conf.DefaultPath, instead)
	case !m.root:
		return fmt.Errorf("mefctl %s needs root", verb)
	case m.installed(service):
		return nil
	}
	return fmt.Errorf("%s.service is not installed; run make install as root, or %s", service, instead)
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

// The services that can be steered: the daemon, and what loads the static policy at boot.
const (
	daemon = "mefdaemon"
	policy = "mef"
)

// gone is true of the static policy when its service ends.
const gone = "Its rules are removed, unless rules_on_stop=keep; mef load loads them again."

// A serviceVerb is a command that only passes a word on.
type serviceVerb struct {
	verb, short, long string
	args              []string          // of systemctl
	done              map[string]string // what is reported of each service
}

// kept is true of every ban when the daemon ends.
const kept = "Its bans stay in force until they end; mefctl off lifts them."

var serviceVerbs = []serviceVerb{
	{"start", "Start mefdaemon", "start starts mefdaemon and returns when its bans are in force.", []string{"start"}, map[string]string{
		daemon: "mefdaemon has started; mefctl status reports whether this host is protected.",
		policy: "mef has started: the firewall policy is loaded.",
	}},
	{"stop", "Stop mefdaemon, and leave its bans in force", "stop stops mefdaemon. " + kept, []string{"stop"}, map[string]string{
		daemon: "mefdaemon has stopped. " + kept,
		policy: "mef has stopped. " + gone,
	}},
	{"restart", "Stop mefdaemon and start it again", "restart stops mefdaemon and starts it again; bans stay in force meanwhile.", []string{"restart"}, map[string]string{
		daemon: "mefdaemon has started again; mefctl status reports whether this host is protected.",
		policy: "mef has started again: the firewall policy is loaded.",
	}},
	{"disable", "Stop mefdaemon and do not start it at boot", "disable stops mefdaemon and does not start it at boot. " + kept, []string{"disable", "--now"}, map[string]string{
		daemon: "mefdaemon has stopped and is not started at boot. " + kept,
		policy: "mef has stopped and is not started at boot. " + gone,
	}},
}

// reloadPolicy is what mefctl reload mef does. The daemon reloads by itself, and reports what is wrong.
var reloadPolicy = serviceVerb{verb: "reload", args: []string{"reload"}, done: map[string]string{policy: "mef has loaded the firewall policy again."}}

func newServices(g *cli.Global) (cmds []*cobra.Command) {
	for _, v := range serviceVerbs {
		cmds = append(cmds, &cobra.Command{
			Use:       v.verb + " [mefdaemon|mef]",
			Short:     v.short,
			Long:      v.long + "\nmef is the service that loads the firewall policy.",
			Args:      serviceArg(v.verb),
			ValidArgs: []string{daemon, policy},
			RunE: func(cmd *cobra.Command, args []string) error {
				return v.run(g, cmd, serviceOf(args))
			},
		})
	}
	return cmds
}

// run has systemd do it, and reports it.
func (v *serviceVerb) run(g *cli.Global, cmd *cobra.Command, service string) error {
	m := newManager(g)
	if err := m.can(v.verb, service); err != nil {
		return err
	}
	if err := m.do(cmd.Context(), service, v.args...); err != nil {
		return fmt.Errorf("%s %s: %w; see journalctl -u %s", v.verb, service, err, service)
	}
	return g.Print(cmd, map[string]string{"service": service, "done": v.verb}, func(w io.Writer) { fmt.Fprintln(w, v.done[service]) })
}

// serviceOf returns the service that the arguments of a command mean.
func serviceOf(args []string) string {
	if len(args) == 0 {
		return daemon
	}
	return args[0]
}

func serviceArg(verb string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) > 1 || len(args) == 1 && args[0] != daemon && args[0] != policy {
			return console.Usage("mefctl %s takes mefdaemon or mef, not %q", verb, strings.Join(args, " "))
		}
		return nil
	}
}
