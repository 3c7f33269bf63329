package lifecycle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mef/internal/conf"
	"mef/internal/console"
	"mef/internal/control"
	"mef/internal/mefctl/cli"
	"mef/internal/mefctl/exposure"
	"mef/internal/offline"
	"mef/internal/sleep"
)

const (
	// justStarted is how young a daemon is that is armed: one that has been running was confirmed once, or needs no confirming.
	justStarted = time.Minute
	// startTimeout is how long a daemon may take to answer.
	startTimeout = 20 * time.Second
	// allowedFor is how long the operator's address is allowed: it may be somebody else's tomorrow.
	allowedFor = 24 * time.Hour
)

func newEnable(g *cli.Global) *cobra.Command {
	var allowMe bool
	cmd := &cobra.Command{
		Use:   "enable [mefdaemon|mef]",
		Short: "Start mefdaemon now and at boot, on trial until you confirm",
		Long: "enable shows the address you are logged in from, other programs that ban on this host, and the services that listen and\n" +
			"which rule covers each. Then it starts mefdaemon, now and at boot, on trial: unless you log in again and run\n" +
			"mefctl confirm within ten minutes, it lifts its bans and from then on only logs bans. A daemon that has been running\n" +
			"for a while gets no new trial.\n" +
			"enable mef loads the firewall policy at every boot, if it has no mistakes; and now, if it was confirmed.",
		Args:      serviceArg("enable"),
		ValidArgs: []string{daemon, policy},
		RunE: func(cmd *cobra.Command, args []string) error {
			if serviceOf(args) == policy && allowMe {
				return console.Usage("--allow-me has no meaning for mefctl enable mef")
			}
			if serviceOf(args) == policy {
				return enablePolicy(g, cmd)
			}
			m := newManager(g)
			if !m.root {
				return errors.New("mefctl enable needs root")
			}
			cfg, mistakes, err := offline.Check(g.Config)
			if err != nil {
				return err
			}
			if err := beyondLists(cfg, mistakes).Err(); err != nil {
				return fmt.Errorf("fix the configuration first:\n%w", err)
			}
			report, err := survey(cfg)
			if err != nil {
				return err
			}
			report.Blind = exposure.Blind(cmd.Context(), func(rule string) bool { return ruleEnabled(cfg, rule) })
			for _, e := range cfg.ListErrors {
				console.Complain(cmd.ErrOrStderr(), "mefctl", fmt.Errorf("ignored: %w", e))
			}
			if !g.JSON {
				report.show(cmd.OutOrStdout())
				allowMe = allowMe || report.offer(cmd.InOrStdin(), cmd.OutOrStdout())
			}
			if err := report.begin(cmd.Context(), m, control.NewClient(cfg.Paths.ControlSocket), allowMe); err != nil {
				return err
			}
			return g.Print(cmd, report, report.showOutcome)
		},
	}
	cmd.Flags().BoolVar(&allowMe, "allow-me", false, "allow the address you are logged in from for a day, without asking")
	return cmd
}

// ruleEnabled reports whether the configuration has an enabled rule of this name.
func ruleEnabled(cfg *conf.Config, name string) bool {
	return slices.ContainsFunc(cfg.Rules, func(r conf.Rule) bool { return r.Name == name && r.Enabled })
}

// beyondLists returns the mistakes for which a daemon would not start. A line of a list that is no entry costs that line only.
func beyondLists(cfg *conf.Config, mistakes conf.Errors) conf.Errors {
	if cfg == nil {
		return mistakes
	}
	return mistakes[:len(mistakes)-len(cfg.ListErrors)] // which offline.Check appends
}

// A report is what mefctl enable found and did.
type report struct {
	From         *netip.Addr        `json:"ssh_from"`                // null: not logged in over SSH
	Allowed      bool               `json:"allowed"`                 // it is on the allow list
	AllowedUntil *time.Time         `json:"allowed_until,omitempty"` // by this command
	Tools        []string           `json:"ban_tools"`
	Services     []exposure.Service `json:"services"`
	Blind        []string           `json:"blind,omitempty"` // services whose log does not show failed logins
	Mode         string             `json:"mode"`
	Armed        *control.Armed     `json:"armed"` // null: nothing has to be confirmed
}

// survey looks around on this host.
func survey(cfg *conf.Config) (*report, error) {
	r := &report{Tools: append([]string{}, exposure.BanTools()...)} // programs that read JSON want a list, if an empty one
	if from, ok := exposure.Caller(os.Getenv("SSH_CONNECTION")); ok {
		r.From = &from
		r.Allowed = slices.ContainsFunc(cfg.Whitelist, func(e conf.Entry) bool {
			prefixes, _ := e.Prefixes()
			return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(from) })
		})
	}
	services, err := exposure.Here(cfg.Rules)
	r.Services = append([]exposure.Service{}, services...)
	return r, err
}

func (r *report) show(w io.Writer) {
	switch {
	case r.From == nil:
		fmt.Fprintln(w, "You do not seem to be logged in over SSH.")
	case r.Allowed:
		fmt.Fprintf(w, "You are logged in from %s, which is on the allow list: it is never banned.\n", r.From)
	default:
		fmt.Fprintf(w, "You are logged in from %s, which is not on the allow list.\n", r.From)
	}
	if len(r.Tools) > 0 {
		fmt.Fprintf(w, "Other programs that ban on this host: %s. mefctl off does not lift their bans; mefctl why ADDR shows which program drops an address.\n", strings.Join(r.Tools, ", "))
	}
	if len(r.Services) == 0 {
		fmt.Fprintln(w, "No service of this host can be reached from other hosts.")
		return
	}
	fmt.Fprintln(w)
	rows := [][]string{{"PORT", "PROGRAM", "RULES"}}
	for _, s := range r.Services {
		rules := cmp.Or(strings.Join(s.Rules, ","), "none: failed logins are not detected")
		rows = append(rows, []string{s.Protocol + "/" + strconv.Itoa(int(s.Port)), cmp.Or(s.Program, "?"), rules})
	}
	console.Table(w, rows)
	fmt.Fprintln(w)
	for _, text := range r.Blind {
		fmt.Fprintf(w, "warning: %s\n", text)
	}
}

// offer asks whether to put the operator's address on the allow list, if there is one to ask about and somebody to ask.
func (r *report) offer(in io.Reader, out io.Writer) bool {
	if r.From == nil || r.Allowed || !console.Terminal(in) {
		return false
	}
	return asked(in, out, fmt.Sprintf("Allow %s for a day, so that it is not banned while you try mef?", r.From))
}

// asked asks a question. Only "y" and "yes" mean yes.
func asked(in io.Reader, out io.Writer, question string) bool {
	fmt.Fprintf(out, "%s [y/N] ", question)
	return console.Yes(in)
}

// begin starts the daemon unless it runs, allows the operator's address if that is wished, and arms the daemon if it has just
// started.
func (r *report) begin(ctx context.Context, m *manager, client *control.Client, allowMe bool) error {
	can := m.can("enable", "mefdaemon")
	switch _, err := client.Status(ctx); {
	case can == nil:
		if err := m.do(ctx, "mefdaemon", "enable", "--now"); err != nil {
			return fmt.Errorf("enable mefdaemon: %w; see journalctl -u mefdaemon", err)
		}
	case errors.Is(err, control.ErrNotRunning):
		return &console.Exit{Code: 3, Err: fmt.Errorf("%w, then run mefctl enable again within a minute", can)}
	}
	s, err := answering(ctx, client)
	if err != nil {
		return err
	}
	if allowMe && r.From != nil && !r.Allowed {
		if _, err := client.Allow(ctx, control.AllowRequest{Entry: r.From.String(), For: allowedFor, Note: "by mefctl enable"}); err != nil {
			return fmt.Errorf("allow %s: %w", r.From, err)
		}
		until := time.Now().Add(allowedFor)
		r.AllowedUntil = &until
		r.Allowed = true
	}
	r.Mode, r.Armed = s.Mode, s.Armed
	if s.Mode == "observe" || s.Armed != nil || time.Since(s.Since) > justStarted {
		return nil
	}
	armed, err := client.Arm(ctx, control.ArmRequest{From: exposure.Connection()})
	r.Armed = &armed
	return err
}

// answering waits until the daemon answers.
func answering(ctx context.Context, client *control.Client) (control.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		s, err := client.Status(ctx)
		if err == nil || !errors.Is(err, control.ErrNotRunning) {
			return s, err
		}
		if !sleep.For(ctx, 100*time.Millisecond) {
			return s, fmt.Errorf("%w; see journalctl -u mefdaemon", err)
		}
	}
}

func (r *report) showOutcome(w io.Writer) {
	if r.AllowedUntil != nil {
		fmt.Fprintf(w, "%s is on the allow list %s; mefctl allow add %s keeps it there.\n", r.From, cli.Lasting(r.AllowedUntil), r.From)
	}
	switch {
	case r.Armed != nil && r.Armed.Lapsed:
		fmt.Fprintln(w, "mefdaemon runs but applies no bans, because its trial was not confirmed in time. If you can log in, run mefctl confirm.")
	case r.Armed != nil:
		fmt.Fprintf(w, "mefdaemon bans from now on, on trial. Open another SSH session to see that you can still log in, and run there\n"+
			"  mefctl confirm\nbefore %s. Otherwise mefdaemon lifts its bans, and from then on only logs bans.\n", r.Armed.Until.Local().Format("15:04:05"))
	case r.Mode == "observe":
		fmt.Fprintln(w, "mefdaemon runs with mode=observe: bans are logged, not applied, so there is nothing to confirm.")
	default:
		fmt.Fprintln(w, "mefdaemon was already running; there is nothing to confirm.")
	}
}
