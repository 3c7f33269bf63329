package pipeline

import (
	"net/netip"
	"slices"
	"testing"

	"mef/internal/ban"
	"mef/internal/enforce"
)

// A ban is found by its prefix, and one of a network also by an IPv6 address in it: an operator knows the address, not what was banned.
func TestIndex(t *testing.T) {
	key := func(prefix string, ports ban.Ports) ban.Key {
		return ban.Key{Prefix: netip.MustParsePrefix(prefix), Ports: ports}
	}
	v4, ssh, wide := key("192.0.2.7/32", ""), key("192.0.2.7/32", "22"), key("192.0.2.0/24", "")
	v6, v6wide := key("2001:db8::/64", ""), key("2001:db8::/48", "")
	var held []enforce.Held
	for _, k := range []ban.Key{v4, ssh, wide, v6, v6wide} {
		held = append(held, enforce.Held{Key: k})
	}
	x := newIndex(held)
	if len(x.keys) != len(held) {
		t.Errorf("%d keys, want %d", len(x.keys), len(held))
	}
	for prefix, want := range map[string][]ban.Key{
		"192.0.2.7/32":       {v4, ssh},
		"192.0.2.0/24":       {wide},
		"192.0.2.8/32":       nil, // of IPv4, networks are banned by an operator's word only
		"2001:db8::1/128":    {v6wide, v6},
		"2001:db8:0:1::/128": {v6wide},
		"2001:db8::/64":      {v6},
		"2001:db9::1/128":    nil,
	} {
		got := x.find(netip.MustParsePrefix(prefix))
		slices.SortFunc(got, func(a, b ban.Key) int { return a.Prefix.Bits() - b.Prefix.Bits() })
		if !slices.Equal(got, want) {
			t.Errorf("find(%s) = %v, want %v", prefix, got, want)
		}
	}
}
