package lifecycle

import (
	"strings"
	"testing"

	"mef/internal/control"
	"mef/internal/mefctl/cli/clitest"
)

// An SSH connection that was there before mefctl enable does not show that a new one can be made.
func TestConfirmWantsANewLogin(t *testing.T) {
	const here = "192.0.2.7 50000 192.0.2.1 22"
	for name, tt := range map[string]struct {
		armed   *control.Armed
		from    string
		refused bool
	}{
		"the connection of enable": {&control.Armed{From: here}, here, true},
		"another from there":       {&control.Armed{From: here}, "192.0.2.7 50002 192.0.2.1 22", false},
		"the console":              {&control.Armed{From: here}, "", false},
		"enabled at the console":   {&control.Armed{}, "", false},
		"after its time":           {&control.Armed{From: here, Lapsed: true}, here, false},
		"not armed":                {nil, here, false},
	} {
		t.Run(name, func(t *testing.T) {
			client := control.NewClient(clitest.Socket(t, reporter{status: control.Status{Armed: tt.armed}}))
			err := newLogin(t.Context(), client, tt.from)
			if (err != nil) != tt.refused || err != nil && !strings.Contains(err.Error(), "open another one") {
				t.Errorf("confirm from %q: %v, want refused: %v", tt.from, err, tt.refused)
			}
		})
	}
}
