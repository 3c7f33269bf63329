package lifecycle

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"mef/internal/console"
	"mef/internal/firewall/loader"
	"mef/internal/mefctl/cli"
)

// A policyReport is what mefctl enable mef found and did.
type policyReport struct {
	Service  string   `json:"service"`
	Policy   string   `json:"policy"`
	Started  bool     `json:"started"` // this very policy was confirmed, so the service runs now
	Refused  bool     `json:"refused"` // it was tried and not confirmed, so a boot loads what was before
	Warnings []string `json:"warnings"`
}

// enablePolicy has the static policy loaded at boot, unless there is something wrong with it.
func enablePolicy(g *cli.Global, cmd *cobra.Command) error {
	m := newManager(g)
	if err := m.can("enable", policy); err != nil {
		return err
	}
	settings, err := g.Settings()
	if err != nil {
		console.Complain(cmd.ErrOrStderr(), "mefctl", fmt.Errorf("mistakes in the configuration; these keys have their defaults:\n%w", err))
	}
	l, err := loader.New(settings)
	if err != nil {
		return err
	}
	r, err := m.enable(cmd.Context(), l)
	if err != nil {
		return err
	}
	return g.Print(cmd, r, r.show)
}

// enable reads the policy and enables its service. What has been confirmed is loaded now, too; anything else needs a trial first.
func (m *manager) enable(ctx context.Context, l *loader.Loader) (*policyReport, error) {
	c, err := l.Read(ctx, l.RulesFile())
	if err == nil {
		err = c.Fatal()
	}
	if err != nil {
		return nil, fmt.Errorf("fix the policy first, as mef check reports:\n%w", err)
	}
	r := &policyReport{Service: policy, Policy: l.RulesFile(), Started: l.Confirmed(c), Refused: l.Refused(c), Warnings: []string{}}
	for _, w := range c.Warnings {
		r.Warnings = append(r.Warnings, w.String())
	}
	for _, verb := range []string{"enable", "start"} {
		if verb == "start" && !r.Started {
			break
		}
		if err := m.do(ctx, policy, verb); err != nil {
			return nil, fmt.Errorf("%s mef: %w; see journalctl -u mef", verb, err)
		}
	}
	return r, nil
}

func (r *policyReport) show(w io.Writer) {
	for _, text := range r.Warnings {
		fmt.Fprintf(w, "warning: %s\n", text)
	}
	fmt.Fprintf(w, "mef loads %s at every boot from now on.\n", r.Policy)
	switch {
	case r.Started:
		fmt.Fprintln(w, "It was confirmed before, and is in force now.")
		return
	case r.Refused:
		fmt.Fprintln(w, "It was tried and not confirmed: until it is, a boot loads the rules confirmed before, or rescue rules that accept only SSH.")
	default:
		fmt.Fprintln(w, "Nothing was loaded now, because this policy was never confirmed.")
	}
	fmt.Fprintln(w, "Load it now with\n  mef apply\nwhich restores the previous rules unless you confirm that you can still log in.")
}
