package daemon

import (
	"testing"
	"time"

	"mef/internal/control"
)

func TestProofDecidesProtection(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, tt := range map[string]struct {
		proof             *proof
		state             string
		missing, warnings int
	}{
		"still running": {nil, "running", 0, 0},
		"passed":        {&proof{at: now.Add(-time.Hour), ok: true}, "passed", 0, 0},
		"too old":       {&proof{at: now.Add(-2 * time.Hour), ok: true}, "old", 1, 0},
		"failed":        {&proof{at: now, detail: "IPv6 ban: packets pass"}, "failed", 1, 0},
		"not possible":  {&proof{at: now, impossible: "no user namespaces"}, "impossible", 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			var s control.Status
			tt.proof.show(&s, now)
			if s.Proof.State != tt.state || len(s.Missing) != tt.missing || len(s.Warnings) != tt.warnings {
				t.Errorf("state %q, missing %q, warnings %q; want %q, %d missing, %d warnings",
					s.Proof.State, s.Missing, s.Warnings, tt.state, tt.missing, tt.warnings)
			}
		})
	}
}
