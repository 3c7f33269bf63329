package mefconf

import (
	"fmt"
	"testing"
)

// TestCommunityLookup checks which list of the community server is asked, and what a listing leads to.
func TestCommunityLookup(t *testing.T) {
	for name, tt := range map[string]struct{ text, zones, notice string }{
		"feed":          {"community_cloud_protection=true\n", "[]", ""},
		"feed with TTL": {"community_cloud_protection=true\ncommunity_cloud_timeout=1s\ncommunity_cloud_error_ttl=1m\n", "[]", "mef.conf:6:1: community_cloud_timeout, community_cloud_error_ttl: with community_cloud_lookup=feed no addresses are looked up: ignored"},
		"no protection": {"community_cloud_lookup=prefix\n", "[]", ""},
		"prefix":        {"community_cloud_protection=true\ncommunity_cloud_lookup=prefix\ncommunity_cloud_ports=22\n", "[community server true 1 22 1h0m0s 2s 1h0m0s 15m0s 30s]", ""},
		"zone": {"community_cloud_protection=true\ncommunity_cloud_lookup=BL.example.org.\ncommunity_cloud_bantime=2h\ncommunity_cloud_timeout=3s\ncommunity_cloud_positive_ttl=4m\ncommunity_cloud_negative_ttl=5m\ncommunity_cloud_error_ttl=6s\n",
			"[bl.example.org false 1  2h0m0s 3s 4m0s 5m0s 6s]", ""},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, notices := load(t, complete(map[string]string{"mef.conf": dirs + tt.text}))
			var zones []string
			for _, z := range cfg.RBL.Zones {
				zones = append(zones, fmt.Sprint(z.Zone, " ", z.Prefix, " ", z.Action, " ", z.Ports, " ", z.BanTime, " ", z.Timeout, " ", z.Positive, " ", z.Negative, " ", z.Error))
			}
			if got := fmt.Sprint(zones); got != tt.zones || notices != tt.notice {
				t.Errorf("%s, %q; want %s, %q", got, notices, tt.zones, tt.notice)
			}
		})
	}
}
