package ask

import (
	"strings"
	"testing"

	"mef/internal/control"
)

func TestShowServices(t *testing.T) {
	usual := 3.25
	var b strings.Builder
	showServices(&b, []control.ListeningService{
		{Name: "ssh", Protocol: "tcp", Ports: []uint16{22, 2222}, Rules: []string{"sshd"}, Failures: 12, Logins: 1, Sources: 1024, More: true, Usual: &usual},
		{Name: "shopd", Protocol: "tcp", Ports: []uint16{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, Rules: []string{}, Help: "mefctl rules suggest --program shopd"},
		{Name: "postgres", Protocol: "tcp", Ports: []uint16{5432}, Local: true, Rules: []string{}},
	})
	want := `
SERVICE   PORTS                                     FROM       RULES                                       FAILURES  LOGINS  SOURCES    USUAL
ssh       tcp 22, 2222                              others     sshd                                        12        1       over 1024  3.2
shopd     tcp 1, 2, 3, 4, 5, 6, 7, 8, and 2 more    others     none; mefctl rules suggest --program shopd  -         -       -          -
postgres  tcp 5432                                  this host  none                                        -         -       -          -
`[1:]
	if got := b.String(); strings.Join(strings.Fields(got), " ") != strings.Join(strings.Fields(want), " ") {
		t.Errorf("showServices prints\n%s\nwant\n%s", got, want)
	}
}
