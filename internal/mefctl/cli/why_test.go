package cli

import (
	"strings"
	"testing"
	"time"

	"mef/internal/control"
	"mef/internal/geodb"
)

// What an operator reads of an address about which there is everything to say.
func TestShowWhy(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.Local)
	began, ends, over := now.Add(-time.Minute), now.Add(9*time.Minute), now.Add(-23*time.Hour)
	packets := uint64(42)
	why := control.Why{
		Addr: "2001:db8:bad::7", Banned: true, Verdict: "BANNED by sshd", Score: 41, Limit: 100,
		Bans: []control.Ban{
			{Prefix: "2001:db8:bad::/64", Ports: "all", Rule: "sshd", Start: began, Until: &ends, Packets: &packets, Set: "ban6_64",
				Reason: "5 failures in 3s (limit 5 in 10m); second ban in 30d: 10m × 4 = 40m"},
			{Prefix: "2001:db8::/32", Ports: "25,465", Rule: "manual", Start: began, Set: "ban6_32_p25.465", Reason: "added by alice", Note: "spam\x1b[2J"},
		},
		Arithmetic: []string{"counted as 2001:db8:bad::/64, all addresses together"},
		Rules:      []control.RuleWhy{{Rule: "sshd", Attempts: 2.25, MaxRetry: 5, FindTime: "10m"}},
		Known:      []string{"bob"},
		History: []control.Ban{
			{Prefix: "2001:db8:bad::/64", Rule: "sshd", Start: began, Until: &ends, Reason: "in force"},
			{Prefix: "2001:db8:bad::/64", Rule: "sshd", Start: over.Add(-10 * time.Minute), Until: &over, Reason: "ended"},
		},
		Prefix:   []control.Neighbor{{Prefix: "2001:db8:bad:1::/64", Score: 12, Banned: true}},
		Requests: []string{"webscan/attack_paths: 2 of 3 different paths in 10m"},
		Foreign:  []string{"table inet filter chain input: policy drop, for packets that none of its rules accepts"},
		Evidence: []string{"Failed password for root\x07 from 2001:db8:bad::7 port 4711 ssh2"},
	}
	const want = `2001:db8:bad::7: BANNED by sshd
  from DE, AS64500 "Example \"Net\""
  banned as 2001:db8:bad::/64 on all ports by sshd since 2026-01-02 11:59:00, 9m left; set ban6_64, 42 packets dropped
    5 failures in 3s (limit 5 in 10m); second ban in 30d: 10m × 4 = 40m
  banned as 2001:db8::/32 on ports 25,465 by manual since 2026-01-02 11:59:00, until lifted; set ban6_32_p25.465, - packets dropped
    added by alice
    note "spam\x1b[2J"
  known logins: "bob"
  score 41.0 of 100
    counted as 2001:db8:bad::/64, all addresses together
  sshd: 2.25 of 5 attempts within 10m
  web requests: webscan/attack_paths: 2 of 3 different paths in 10m
  earlier ban: 2001:db8:bad::/64 by sshd, 2026-01-01 12:50:00 until 2026-01-01 13:00:00, ended
  same network: 2001:db8:bad:1::/64, score 12.0, banned
  another table: table inet filter chain input: policy drop, for packets that none of its rules accepts
  evidence:
    "Failed password for root\a from 2001:db8:bad::7 port 4711 ssh2"
mefctl bans delete 2001:db8:bad::7 lifts the ban.
`
	var out strings.Builder
	if (Why{why, geodb.Place{Country: "DE", AS: 64500, ASName: `Example "Net"`}}).Show(&out, now); out.String() != want {
		t.Errorf("mefctl why says\n%s\nwant\n%s", out.String(), want)
	}
}

// A list is not lifted by mefctl bans delete.
func TestWayOut(t *testing.T) {
	made := []control.Ban{{Rule: "sshd"}}
	for name, tt := range map[string]struct {
		bans  []control.Ban
		lists []string
		want  string
	}{
		"listed":          {nil, []string{"blacklist", "drop"}, "Remove the entry from the blacklist, or allow the address with mefctl allow add 192.0.2.7."},
		"in a feed":       {nil, []string{"drop"}, "mefctl allow add 192.0.2.7 lets the address through."},
		"made":            {made, nil, "mefctl bans delete 192.0.2.7 lifts the ban."},
		"listed and made": {made, []string{"blacklist"}, "mefctl bans delete 192.0.2.7 lifts the ban."},
	} {
		t.Run(name, func(t *testing.T) {
			if got := wayOut(control.Why{Addr: "192.0.2.7", Bans: tt.bans, Lists: tt.lists}); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}
