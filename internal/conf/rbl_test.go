package conf

import (
	"net/netip"
	"testing"
)

func TestMatchAnswer(t *testing.T) {
	for _, tt := range []struct {
		match, answer string
		want          bool
	}{
		{"127.0.0.2", "127.0.0.2", true},
		{"127.0.0.2", "127.0.0.3", false},
		{"127.0.0.*", "127.0.0.255", true},
		{"127.0.0.*", "127.0.1.2", false},
		{"127.*", "127.9.8.7", true},
		{"127.0.0.4-7", "127.0.0.4", true},
		{"127.0.0.4-7", "127.0.0.7", true},
		{"127.0.0.4-7", "127.0.0.8", false},
		{"*", "127.0.0.9", true},
		// What is no answer of a list is none by any description.
		{"*", "127.255.255.254", false},
		{"127.*", "127.255.255.1", false},
		{"127.255.255.254", "127.255.255.254", false},
		{"*", "203.0.113.1", false},
		{"203.0.113.1", "203.0.113.1", false},
		{"*", "2001:db8::1", false},
		{"127.0.0", "127.0.0.1", false},
	} {
		if got := MatchAnswer(tt.match, netip.MustParseAddr(tt.answer)); got != tt.want {
			t.Errorf("%s matches %s: %v", tt.match, tt.answer, got)
		}
	}
	for _, s := range []string{"", ".", "127", "127.0.0", "127.0.0.", "127.0.0.2.3", "127.0.0.256", "127.*.0.1", "*.0.0.1", "127.0.0.7-4", "127.0.1-2.3", "127.0.0.-1", "127.0.0.1-"} {
		if IsAnswer(s) {
			t.Errorf("%q is taken", s)
		}
	}
}
