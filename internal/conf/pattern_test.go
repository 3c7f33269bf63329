package conf

import (
	"net/netip"
	"regexp"
	"testing"
)

func TestHostPattern(t *testing.T) {
	re := regexp.MustCompile("^from " + HostPattern + ", port")
	for in, want := range map[string]string{
		"192.0.2.7":          "192.0.2.7",
		"[192.0.2.7]":        "192.0.2.7",
		"2001:DB8::1":        "2001:db8::1",
		"[2001:db8::1]":      "2001:db8::1",
		"::ffff:192.0.2.7":   "::ffff:192.0.2.7",
		"[::ffff:192.0.2.7]": "::ffff:192.0.2.7",
		"fe80::1%eth0.100":   "fe80::1%eth0.100",
		"[fe80::1%br-lan]":   "fe80::1%br-lan",
		"host.example.org":   "",
	} {
		t.Run(in, func(t *testing.T) {
			got := ""
			if m := re.FindStringSubmatch("from " + in + ", port"); m != nil {
				got = netip.MustParseAddr(m[re.SubexpIndex("ip")]).String()
			}
			if got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestGlobPattern(t *testing.T) {
	for glob, want := range map[string]string{"*/.env": `(?s)^.*/\.env$`, "/a?b[c]": `(?s)^/a.b\[c\]$`} {
		if got := GlobPattern(glob); got != want {
			t.Errorf("%s is %s, want %s", glob, got, want)
		}
	}
}
