package lifecycle

import (
	"context"
	"strings"
	"testing"

	"mef/internal/control"
	"mef/internal/mefctl/cli"
	"mef/internal/mefctl/cli/clitest"
	"mef/internal/selftest"
)

// reporter is a daemon that only tells its status.
type reporter struct {
	control.Service
	status control.Status
}

func (r reporter) Status(context.Context) (control.Status, error) { return r.status, nil }

// TestSelftestAsksForTheLiveTable shows what an operator reads when the packets vanished as they should.
func TestSelftestAsksForTheLiveTable(t *testing.T) {
	kernel := control.Kernel{Backend: "nftables", Table: "table inet mefdaemon", Present: true, Elements: 3, Matches: true}
	damaged := kernel
	damaged.Matches, damaged.Problems = false, []string{"set ban4_32 is missing"}
	for name, tt := range map[string]struct {
		status control.Status
		want   string
	}{
		"as it should be": {control.Status{Mode: "enforce", Kernel: kernel},
			"  ok      live table: nftables: table inet mefdaemon holds 3 bans, as it should be\n"},
		"damaged": {control.Status{Mode: "enforce", Kernel: damaged},
			"  FAILED  live table: nftables: table inet mefdaemon holds 3 bans, NOT as it should be: set ban4_32 is missing\n"},
		"gone": {control.Status{Mode: "enforce", Kernel: control.Kernel{Backend: "nftables", Table: "table inet mefdaemon"}},
			"  FAILED  live table: nftables: table inet mefdaemon is MISSING\n"},
		"observing": {control.Status{Mode: "observe"},
			"  ok      live table: mode=observe, bans are not applied\n"},
	} {
		t.Run(name, func(t *testing.T) {
			g := &cli.Global{Config: clitest.Config(t, reporter{status: tt.status}, "")}
			v := verdict{Packets: selftest.Result{OK: true}, Live: liveTable(t.Context(), g)}
			v.OK = v.Live.OK
			var out strings.Builder
			v.show(&out)
			headline := "Self-test: bans block, tested in 0s\n"
			if !v.OK {
				headline = "Self-test: FAILED\n"
			}
			if got := out.String(); got != headline+tt.want {
				t.Errorf("output\n%swant\n%s", got, headline+tt.want)
			}
		})
	}
}
