package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mef/internal/control"
)

// hasWarning reports whether status has a warning that begins like that.
func (h *house) hasWarning(begin string) bool {
	h.Helper()
	s, err := h.Status(h.Context())
	if err != nil {
		h.Fatal(err)
	}
	return slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.HasPrefix(w, begin) })
}

// Block lists that cannot be asked, and reports that cannot be sent, make status yellow until the configuration is right.
func TestReputationInStatus(t *testing.T) {
	const lists, reports = "block list own (bl.example.org) is not used: ", "bans are not reported to abuseipdb: key file "
	h := settle(t, "rbl_enabled=true\nrbl_servers=127.0.0.1:1\nrbl_own_enabled=true\nrbl_own_zone=bl.example.org\nrbl_own_timeout=1s\nreport_abuseipdb=true\nreport_abuseipdb_key_file=HERE/none\n", nil)
	answers, err := h.CheckDNSBL(t.Context(), netip.MustParseAddr("203.0.113.7"))
	if err != nil || len(answers) != 1 || answers[0].Listed || answers[0].Problem == "" {
		t.Errorf("check: %+v, %v", answers, err)
	}
	if tests, err := h.TestReports(t.Context()); err != nil || len(tests) != 1 || tests[0].OK {
		t.Errorf("test: %+v, %v", tests, err)
	}
	for _, want := range []string{lists, reports} {
		if !h.hasWarning(want) {
			t.Errorf("no warning %q", want)
		}
	}
	h.configure("")
	if _, err := h.Reload(t.Context(), "alice"); err != nil {
		t.Fatal(err)
	}
	if h.hasWarning(lists) || h.hasWarning(reports) {
		t.Error("warnings remain although nothing is asked or sent")
	}
	if _, err := h.CheckDNSBL(t.Context(), netip.MustParseAddr("203.0.113.7")); err == nil || !strings.Contains(err.Error(), "rbl_enabled=true") {
		t.Errorf("check: %v", err)
	}
	if _, err := h.TestReports(t.Context()); err == nil || !strings.Contains(err.Error(), "report_abuseipdb=true") {
		t.Errorf("test: %v", err)
	}
}

// Bans reach the reports, and what was reported before a restart is not reported again.
func TestReportedBeforeRestart(t *testing.T) {
	h := settle(t, "report_abuseipdb=true\nreport_abuseipdb_key_file=HERE/key\n", nil)
	h.SaveNotes(map[string]string{"reported": fmt.Sprintf(`{"abuseipdb":{"203.0.113.7":%d}}`, time.Now().Unix())})
	h.end()
	h.start()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Reputation.Reports.Run(ctx, func(context.Context, string) {}) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	h.Records.Add(control.Record{Time: time.Now(), Event: "ban", Rule: "sshd", Service: "sshd", Prefix: "203.0.113.7/32", Class: "verified"})
	h.await("it is left out", func() bool {
		s := h.Reputation.Reports.Status(time.Now())
		return len(s) == 1 && s[0].Repeated == 1
	})
	if err := os.WriteFile(filepath.Join(h.dir, "key"), []byte("x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if h.hasWarning("bans are not reported") {
		t.Error("a warning although all is well")
	}
}
