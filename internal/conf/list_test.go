package conf

import (
	"fmt"
	"strings"
	"testing"
)

func TestEntries(t *testing.T) {
	for line, want := range map[string]string{
		"192.0.2.7":                  "[192.0.2.7/32] true",
		"2001:db8::7":                "[2001:db8::7/128] true",
		"::ffff:192.0.2.7":           "[192.0.2.7/32] true",
		"::ffff:192.0.2.0/120":       "[192.0.2.0/24] true",
		"192.0.2.0/24":               "[192.0.2.0/24] true",
		"192.0.2.7/24":               "[192.0.2.0/24] true",
		"192.0.2.0/255.255.255.0":    "[192.0.2.0/24] true",
		"10.1.2.3/255.255.255.255":   "[10.1.2.3/32] true",
		"0.0.0.0/0.0.0.0":            "[0.0.0.0/0] true",
		"192.0.2.1-192.0.2.6":        "[192.0.2.1/32 192.0.2.2/31 192.0.2.4/31 192.0.2.6/32] true",
		"2001:db8::-2001:db8::ffff":  "[2001:db8::/112] true",
		"home.example.org":           "[] false",
		"home-2.example.org.":        "[] false",
		"1-2.example.org":            "[] false",
		"  192.0.2.7  # the office ": "[192.0.2.7/32] true",
		"192.0.2.7;printer":          "[192.0.2.7/32] true",
	} {
		t.Run(line, func(t *testing.T) {
			entries, errs := ParseList("a.conf", []byte(line))
			if len(errs) > 0 || len(entries) != 1 {
				t.Fatalf("%v, %v", entries, errs)
			}
			prefixes, ok := entries[0].Prefixes()
			if got := fmt.Sprint(prefixes, ok); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

func TestEntryErrors(t *testing.T) {
	const hint = "; write an address, a prefix such as 192.0.2.0/24, a range a-b, or a host name with its domain"
	for line, want := range map[string]string{
		"192.0.2.300":             `"192.0.2.300" is not an entry` + hint,
		"192.0.2":                 `"192.0.2" is not an entry` + hint,
		"192.0.2.0/33":            `"192.0.2.0/33" is not an entry` + hint,
		"2001:db8::g":             `"2001:db8::g" is not an entry` + hint,
		"fe80::1%eth0":            `"fe80::1%eth0" is not an entry` + hint,
		"office":                  `"office" is not an entry` + hint,
		"-x.example.org":          `"-x.example.org" is not an entry` + hint,
		"192.0.2.0/255.0.255.0":   `"192.0.2.0/255.0.255.0" is not an address with a mask; write it as 192.0.2.0/24 or 192.0.2.0/255.255.255.0`,
		"2001:db8::/255.0.0.0":    `"2001:db8::/255.0.0.0" is not an address with a mask; write it as 192.0.2.0/24 or 192.0.2.0/255.255.255.0`,
		"192.0.2.9-192.0.2.1":     `range "192.0.2.9-192.0.2.1" ends before it begins; write 192.0.2.1-192.0.2.9`,
		"192.0.2.9-12":            `"192.0.2.9-12" is not a range of addresses; write two addresses of the same family, as in 192.0.2.7-192.0.2.99`,
		"192.0.2.9-2001:db8::1":   `"192.0.2.9-2001:db8::1" is not a range of addresses; write two addresses of the same family, as in 192.0.2.7-192.0.2.99`,
		"192.0.2.7 192.0.2.8":     `"192.0.2.7 192.0.2.8" is more than one entry; write one entry per line, and a comment after #`,
		"192.0.2.7\x00":           `"192.0.2.7\x00" is not an entry` + hint,
		"\xff\xfe1.2.3.4":         `"�1.2.3.4" is not an entry` + hint,
		strings.Repeat("a.", 200): `"` + strings.Repeat("a.", 40) + `…" is not an entry` + hint,
	} {
		t.Run(line, func(t *testing.T) {
			entries, errs := ParseList("a.conf", []byte("# first\n 192.0.2.1\n  "+line+"\n192.0.2.2\n"))
			if got := errs.Error(); got != "a.conf:3:3: "+want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			if len(entries) != 2 || entries[1].Pos != (Pos{File: "a.conf", Line: 4, Col: 1}) {
				t.Errorf("the rest is %v", entries)
			}
		})
	}
}

// A large file in another format costs no more memory than its first mistakes.
func TestEntryErrorsAreBounded(t *testing.T) {
	text := strings.Repeat("192.0.2.7,2026-01-02,malware\n", 5000)
	entries, errs := ParseList("a.conf", []byte("192.0.2.1\n"+text+"192.0.2.2\n"))
	if len(entries) != 2 || len(errs) != maxErrors+1 {
		t.Fatalf("%d entries and %d errors, want 2 and %d", len(entries), len(errs), maxErrors+1)
	}
	if got := errs[maxErrors].Error(); !strings.HasPrefix(got, "a.conf:102: 4900 more lines from here on are not entries; ") {
		t.Errorf("the last error is %s", got)
	}
}
