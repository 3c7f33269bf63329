package loader

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"mef/internal/conf"
	"mef/internal/firewall/policy"
	"mef/internal/geodb/geodbtest"
)

// TestCountries checks that a policy with countries is read with their addresses, or not at all: an empty set would let in what it should
// keep out, or the reverse.
func TestCountries(t *testing.T) {
	src, err := policy.Parse("mef.rules", []byte("policy dir=in action=drop\nrule dir=in action=accept proto=tcp src=!@country:CN dport=22\nrule dir=in action=drop proto=tcp src=@as:64500\n"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	country := geodbtest.Write(t, filepath.Join(dir, "country.mmdb"), geodbtest.Form{}, geodbtest.Country("45.83.1.0/24", "CN"))
	as := geodbtest.Write(t, filepath.Join(dir, "as.mmdb"), geodbtest.Form{}, geodbtest.AS("45.83.2.0/24", 64500, "x"))
	for name, tt := range map[string]struct {
		paths []string
		want  []string
	}{
		"none":    {nil, []string{"mef.rules:2:42: the addresses of @country:CN are not known; name a database in mef.conf: geo_databases=PATH", "mef.rules:3:39: the addresses of @as:64500 are not known"}},
		"one":     {[]string{country}, []string{"mef.rules:3:39: the addresses of @as:64500 are not known; no database has autonomous systems"}},
		"missing": {[]string{country, filepath.Join(dir, "x.mmdb")}, []string{"mef.conf: geo_databases: " + dir + "/x.mmdb: no such file or directory", "mef.rules:3:39: "}},
		"both":    {[]string{country, as}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			l := &Loader{settings: &conf.Config{Path: "mef.conf", GeoDatabases: tt.paths}}
			facts, _, err := l.Facts(t.Context(), src)
			if (err == nil) != (tt.want == nil) {
				t.Fatalf("error %v", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want %q in it", err, want)
				}
			}
			if err == nil && (!facts.Groups[conf.GeoGroup{Country: "CN"}].Contains(netip.MustParseAddr("45.83.1.7")) || !facts.Groups[conf.GeoGroup{AS: 64500}].Contains(netip.MustParseAddr("45.83.2.7"))) {
				t.Errorf("groups %v", facts.Groups)
			}
		})
	}
}
