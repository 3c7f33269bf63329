package main

import (
	"context"
	"strings"
	"testing"

	"mef/internal/control"
	"mef/internal/mefctl/cli/clitest"
)

// A mending daemon's table is as it should be from the n-th look on.
type mending struct {
	control.Service
	looks *int
	n     int
}

func (m mending) Status(context.Context) (control.Status, error) {
	*m.looks++
	k := control.Kernel{Backend: "nftables", Table: "table inet mefdaemon", Present: true, Matches: *m.looks >= m.n}
	return control.Status{Mode: "enforce", Kernel: k}, nil
}

// The command fails if the live table is not as it should be and stays so; what is repaired within a second is none.
func TestSelftestExitStatus(t *testing.T) {
	for name, tt := range map[string]struct{ looks, status int }{
		"as it should be": {1, 0},
		"being mended":    {2, 0},
		"damaged":         {1000, 1},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errOut strings.Builder
			config := clitest.Config(t, mending{looks: new(int), n: tt.looks}, "")
			status := execute(t.Context(), "test", []string{"--config", config, "selftest"}, strings.NewReader(""), &out, &errOut)
			if status != tt.status || strings.Contains(out.String(), "FAILED") != (tt.status != 0) {
				t.Errorf("exit status %d, want %d; output\n%s%s", status, tt.status, out.String(), errOut.String())
			}
		})
	}
}
