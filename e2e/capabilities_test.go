//go:build integration

package e2e_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"mef/internal/control"
)

// beginWithout begins a scene whose daemon lacks capabilities.
func beginWithout(t *testing.T, config string, capabilities ...string) *scene {
	t.Helper()
	s := prepare(t)
	mef, err := s.w.StartMefWithout(s.ctx, config, capabilities...)
	if err != nil {
		t.Fatal(err)
	}
	s.mef = mef
	t.Cleanup(func() { s.stop(os.Kill) })
	return s
}

// Without CAP_NET_ADMIN, as in a container, the daemon follows logs, detects and keeps records. Status is red and names the capability, and the
// commands that explain work. With the capability, the next start enforces what was decided.
func TestWithoutNetAdmin(t *testing.T) {
	const from = "203.0.113.7"
	s := beginWithout(t, "", "net_admin")
	s.fail(ssh, "root", repeat(from, 5)...)
	s.sees(control.Record{Event: "failure", Rule: "sshd", Addr: from, User: "root"})
	s.sees(control.Record{Event: "error", Rule: "sshd", Prefix: from})
	s.until("status to name the capability", func() error {
		st := s.status()
		if st.Protected || len(st.Missing) != 1 || !strings.HasPrefix(st.Missing[0], "bans are not enforced: ") || !strings.Contains(st.Missing[0], "CAP_NET_ADMIN") {
			return fmt.Errorf("protected %v, missing %q", st.Protected, st.Missing)
		}
		if !slices.ContainsFunc(st.Warnings, func(w string) bool {
			return strings.HasPrefix(w, "port scans are not detected: ") && strings.Contains(w, "CAP_NET_ADMIN")
		}) {
			return fmt.Errorf("warnings %q do not say that port scans are not detected", st.Warnings)
		}
		return nil
	})
	why, err := s.mef.Why(s.ctx, netip.MustParseAddr(from))
	if err != nil || why.Banned || !strings.HasPrefix(why.Verdict, "should be banned by sshd") || !strings.Contains(why.Verdict, "CAP_NET_ADMIN") || len(why.Evidence) == 0 {
		t.Errorf("why: %+v, %v; want the ban that should be, why it is not, and the evidence", why, err)
	}
	if out := s.mefctl("reload"); !strings.Contains(out, "rules") {
		t.Errorf("reload printed %q", out)
	}
	s.reaches(22, from)
	s.stop(os.Interrupt)
	s.start("")
	s.banned(from)
	if st := s.status(); !st.Kernel.Matches {
		t.Errorf("with the capability: %+v", st.Kernel)
	}
}

// A log that the daemon must not read is named with the reason and what to do. The others are followed.
func TestUnreadableLog(t *testing.T) {
	const log = "/var/log/secret.log"
	if err := errors.Join(os.WriteFile(log, nil, 0o600), os.Chown(log, 1000, 1000)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(log) })
	s := prepare(t)
	if err := errors.Join(os.MkdirAll("/etc/mef/rules.d", 0o755), os.WriteFile("/etc/mef/rules.d/secret.conf", []byte(
		"[rule]\nsource=file\nfiles="+log+"\nports=9999\nfailregex=^bad login from <HOST>$\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	mef, err := s.w.StartMefWithout(s.ctx, "", "dac_override", "dac_read_search")
	if err != nil {
		t.Fatal(err)
	}
	s.mef = mef
	t.Cleanup(func() { s.stop(os.Kill) })
	s.until("status to name the log", func() error {
		st := s.status()
		if !st.Protected && slices.ContainsFunc(st.Missing, func(m string) bool {
			return strings.HasPrefix(m, log+" cannot be read") && strings.Contains(m, "CAP_DAC_READ_SEARCH")
		}) {
			return nil
		}
		return fmt.Errorf("missing %q, sources %+v", st.Missing, st.Sources)
	})
	s.fail(ssh, "root", repeat("203.0.113.8", 5)...)
	s.banned("203.0.113.8")
}
