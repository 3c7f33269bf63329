package ban_test

import (
	"encoding/json"
	"net/netip"
	"testing"

	"mef/internal/ban"
)

func TestParsePorts(t *testing.T) {
	for in, want := range map[string]ban.Ports{
		"":                   "",
		"all":                "",
		"22":                 "22",
		"587, 25,465":        "25,465,587",
		"8000-8010,22":       "22,8000-8010",
		"22-25,24-30":        "22-30",
		"1,2,3":              "1-3",
		"1-65535":            "",
		"443,443":            "443",
		"65535,1":            "1,65535",
		"8000-8010,8005,900": "900,8000-8010",
	} {
		if got, err := ban.ParsePorts(in); err != nil || got != want {
			t.Errorf("ParsePorts(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"0", "65536", "22,", "25-22", "ssh", "-1", "1-", "22;25", "٢٢"} {
		if got, err := ban.ParsePorts(in); err == nil {
			t.Errorf("ParsePorts(%q) = %q, want an error", in, got)
		}
	}
}

func TestPortsCovers(t *testing.T) {
	for _, tt := range []struct {
		p, q ban.Ports
		want bool
	}{
		{"", "22", true},
		{"22", "", false},
		{"22-25", "23,25", true},
		{"22,25", "22-25", false},
		{"22", "22", true},
	} {
		if got := tt.p.Covers(tt.q); got != tt.want {
			t.Errorf("%q covers %q = %v, want %v", tt.p, tt.q, got, tt.want)
		}
	}
}

func TestPortsWithout(t *testing.T) {
	for name, tt := range map[string]struct {
		p, q, want ban.Ports
		none       bool
	}{
		"all":          {"", "22", "1-21,23-65535", false},
		"all, several": {"", "1,22,65535", "2-21,23-65534", false},
		"one of some":  {"21-23,80", "22", "21,23,80", false},
		"others":       {"80", "22", "80", false},
		"the same":     {"22", "22", "", true},
		"inside":       {"22", "20-30", "", true},
		"of all":       {"22", "", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := tt.p.Without(tt.q)
			if got != tt.want || ok == tt.none {
				t.Errorf("%q without %q: %q, %t; want %q, %t", tt.p, tt.q, got, ok, tt.want, !tt.none)
			}
			if overlaps := tt.p.Overlaps(tt.q); overlaps != (got != tt.p || tt.none) {
				t.Errorf("%q overlaps %q: %t", tt.p, tt.q, overlaps)
			}
		})
	}
}

func TestKeyAsOperatorsSeeIt(t *testing.T) {
	for _, tt := range []struct {
		key  ban.Key
		want string
	}{
		{ban.Key{Prefix: netip.MustParsePrefix("192.0.2.7/32")}, "192.0.2.7"},
		{ban.Key{Prefix: netip.MustParsePrefix("2001:db8::/64")}, "2001:db8::/64"},
		{ban.Key{Prefix: netip.MustParsePrefix("192.0.2.7/32"), Ports: "25,465"}, "192.0.2.7 ports 25,465"},
	} {
		if got := tt.key.String(); got != tt.want {
			t.Errorf("String = %q, want %q", got, tt.want)
		}
	}
}

func TestBanSurvivesJSON(t *testing.T) {
	want := ban.Ban{Key: ban.Key{Prefix: netip.MustParsePrefix("2001:db8::/64"), Ports: "22,25-30", Class: ban.Unverified}, Rule: "sshd"}
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got ban.Ban
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if got.Key != want.Key || got.Rule != want.Rule {
		t.Errorf("after JSON: %+v, want %+v", got, want)
	}
	if err := json.Unmarshal([]byte(`{"Class":"sure"}`), &got); err == nil {
		t.Error("an unknown class was accepted")
	}
}

func TestLists(t *testing.T) {
	for port, want := range map[uint16]bool{21: false, 22: true, 79: false, 80: true, 90: true, 91: false} {
		if got := ban.Ports("22,80-90").Lists(port); got != want {
			t.Errorf("port %d: %v, want %v", port, got, want)
		}
	}
	if ban.Ports("").Lists(22) {
		t.Error("every port is no list")
	}
}
