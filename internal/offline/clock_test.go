package offline_test

import (
	"strings"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/offline"
)

// Five failures, one in six hours, are no attack, whatever other dates stand in the log.
func TestStrangeDates(t *testing.T) {
	failures := func(dates ...string) string {
		var b strings.Builder
		for _, d := range dates {
			b.WriteString(d + ":00:00Z web1 sshd[3]: Failed password for bob from 203.0.113.9 port 50 ssh2\n")
		}
		return b.String()
	}
	const stray = "2036-02-07T06:28:16Z web1 sshd[1]: Server listening on 0.0.0.0 port 22.\n"
	first := failures("2026-11-01T01", "2026-11-01T07")
	last := failures("2026-11-01T13", "2026-11-01T19", "2026-11-02T01")
	burst := strings.Repeat(failures("2026-11-02T07"), 5)
	for name, tt := range map[string]struct {
		log  string
		bans int
	}{
		"none":                {first + last, 0},
		"first":               {stray + first + last, 0},
		"twice first":         {stray + stray + first + last, 0},
		"in between":          {first + stray + last, 0},
		"twice in between":    {first + stray + stray + last, 0},
		"last":                {first + last + stray, 0},
		"long ago":            {first + strings.Replace(stray, "2036", "1970", 1) + last, 0},
		"an attack afterward": {first + stray + last + burst, 1},
		"an attack, shifted":  {stray + stray + burst, 1},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := offline.NewReplay(configuration(t), offline.Options{Service: "sshd"})
			if err != nil {
				t.Fatal(err)
			}
			bans := 0
			err = r.Run(strings.NewReader(tt.log), time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC), func(ban.Ban) error { bans++; return nil })
			if err != nil || bans != tt.bans {
				t.Errorf("%d bans, %v; want %d", bans, err, tt.bans)
			}
		})
	}
}
