package logtext

import (
	"net/netip"
	"testing"
)

func TestAddr(t *testing.T) {
	for text, want := range map[string]string{
		"203.0.113.7":           "203.0.113.7",
		"192.030.0.06":          "192.30.0.6",
		"::ffff:203.0.113.7":    "203.0.113.7",
		"2001:db8::a%eth0":      "2001:db8::a",
		"2001:DB8:0:0:0:0:0:A":  "2001:db8::a",
		"fe80::1%25":            "fe80::1",
		"64:ff9b::203.0.113.7":  "64:ff9b::cb00:7107",
		"::1":                   "::1",
		"1::":                   "1::",
		"0.0.0.0":               "",
		"::":                    "",
		"256.0.0.1":             "",
		"1.2.3":                 "",
		"1.2.3.4.5":             "",
		"1.2.3.":                "",
		"0001.2.3.4":            "",
		"1:2:3:4:5:6:7":         "",
		"1:2:3:4:5:6:7:8:9":     "",
		"1::2::3":               "",
		"12345::":               "",
		":1::":                  "",
		"1:":                    "",
		"1:2:3:4:5:6:7:1.2.3.4": "",
		"":                      "",
		":":                     "",
		"beef":                  "",
		"1:2:3:4:5:6:7::8":      "",
	} {
		got, ok := Addr([]byte(text))
		if ok != (want != "") || ok && got.String() != want {
			t.Errorf("Addr(%q) = %v, %v, want %q", text, got, ok, want)
		}
	}
}

// Addr reads all that netip reads, apart from what it changes on purpose.
func FuzzParseAddr(f *testing.F) {
	for _, text := range []string{"203.0.113.7", "2001:db8::a%eth0", "::ffff:203.0.113.7", "1:2:3:4:5:6:7:8", "1::2::3", "::1.2.3.4"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, ok := Addr([]byte(text))
		if ok && (got.Is4In6() || got.Zone() != "" || got.IsUnspecified()) {
			t.Errorf("Addr(%q) = %v", text, got)
		}
		want, err := netip.ParseAddr(text)
		if err == nil && !want.WithZone("").Unmap().IsUnspecified() && got != want.WithZone("").Unmap() {
			t.Errorf("Addr(%q) = %v, netip reads %v", text, got, want)
		}
	})
}
