package decide_test

import (
	"net/netip"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/decide"
	"mef/internal/exempt"
	"mef/internal/prefixset"
)

func TestCrowd(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	crowd := ban.Wider{Prefix: netip.MustParsePrefix("203.0.113.0/24"), Banned: 70, Limit: decide.CrowdedAt}
	inside := prefixset.New(netip.MustParsePrefix("203.0.113.9/32"))
	for name, tt := range map[string]struct {
		facts         exempt.Facts
		banned, known int
		ok            bool
	}{
		"crowded":                    {exempt.Facts{}, 70, 0, true},
		"not quite":                  {exempt.Facts{}, 63, 0, false},
		"a known login":              {exempt.Facts{}, 70, 1, false},
		"this host's own address":    {exempt.Facts{Own: inside}, 70, 0, false},
		"a gateway of this host":     {exempt.Facts{Gateways: inside}, 70, 0, false},
		"a resolver of this host":    {exempt.Facts{Resolvers: inside}, 70, 0, false},
		"a DHCP server of this host": {exempt.Facts{Servers: inside}, 70, 0, false},
		"somebody allowed":           {exempt.Facts{Allowed: inside}, 70, 0, false},
		"a proxy":                    {exempt.Facts{Proxies: inside}, 70, 0, false},
		"a session":                  {exempt.Facts{Sessions: inside}, 70, 0, false},
		"our link":                   {exempt.Facts{OnLink: inside}, 70, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			crowd.Banned, crowd.Known = tt.banned, tt.known
			b, ok := decide.Crowd(crowd, now.Add(time.Hour), tt.facts, now)
			if ok != tt.ok {
				t.Fatalf("banned whole: %v, want %v", ok, tt.ok)
			}
			if ok && (b.Key.String() != "203.0.113.0/24" || !b.Until.Equal(now.Add(time.Hour)) || b.ID == "" ||
				b.Reason != "70 of its addresses are banned, and there is no room for more bans: all of it") {
				t.Errorf("ban %+v", b)
			}
		})
	}
}
