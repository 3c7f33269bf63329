package exposure

import (
	"context"
	"strings"
	"time"

	"mef/internal/run"
)

// Blind names the services on this host whose settings keep failed logins out of their log, with the setting to change. enabled reports
// whether a rule is; one that is not reads no log.
func Blind(ctx context.Context, enabled func(rule string) bool) (all []string) {
	const program = "doveconf"
	if !enabled("dovecot") || !run.Installed(program) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	out, err := run.Output(ctx, 64<<10, program, "-h", "auth_verbose")
	if err != nil {
		return nil // it may be for root alone to read
	}
	return blindDovecot(string(out))
}

// blindDovecot reads what doveconf prints of auth_verbose.
func blindDovecot(value string) []string {
	if strings.TrimSpace(value) != "no" {
		return nil
	}
	return []string{"Dovecot has auth_verbose=no and does not log every wrong password: a client that guesses and then logs in as another user is not noticed. " +
		"Write auth_verbose=yes into /etc/dovecot/local.conf and run doveadm reload"}
}
