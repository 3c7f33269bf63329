package nftlist_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mef/internal/firewall/importer"
	"mef/internal/firewall/importer/importertest"
	"mef/internal/firewall/importer/nftlist"
)

var update = flag.Bool("update", false, "write the expected files anew; with the tag integration, what nft lists as well")

func parse(t testing.TB, l nftlist.Listing) *importer.Ruleset {
	t.Helper()
	rs, err := nftlist.Parse(l, "The rules of a test")
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

// TestGolden reads what nft listed for the rulesets below testdata. A directory is a case: ruleset.nft is what was loaded,
// listing.json and listing.txt what nft listed, mef.rules and left what comes out.
func TestGolden(t *testing.T) {
	dirs, err := filepath.Glob("testdata/*/ruleset.nft")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, dir := range dirs {
		dir = filepath.Dir(dir)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			var l nftlist.Listing
			var err error
			if l.JSON, err = os.ReadFile(filepath.Join(dir, "listing.json")); err != nil {
				t.Fatal(err)
			}
			if l.Text, err = os.ReadFile(filepath.Join(dir, "listing.txt")); err != nil {
				t.Fatal(err)
			}
			importertest.Golden(t, dir, parse(t, l), *update)
		})
	}
}

// TestConditionsOfElements reads sets and maps whose elements accept no more than a number of packets: without the limit, more would pass.
func TestConditionsOfElements(t *testing.T) {
	const port = `{"payload": {"protocol": "tcp", "field": "dport"}}`
	for name, tt := range map[string]struct {
		objects, expr string
		left          string // the reason; empty: it is imported
	}{
		"set with limits": {`{"set": {"family": "inet", "table": "t", "name": "s", "type": "inet_service", "stmt": [{"limit": {"rate": 1, "burst": 5, "per": "second"}}],
			"elem": [{"elem": {"val": 22, "limit": {"rate": 1, "burst": 5, "per": "second"}}}]}},`,
			`{"match": {"op": "==", "left": ` + port + `, "right": "@s"}}, {"accept": null}`, "mef.rules has no elements of sets with limit"},
		"set with counters": {`{"set": {"family": "inet", "table": "t", "name": "s", "type": "inet_service", "stmt": [{"counter": null}],
			"elem": [{"elem": {"val": 22, "comment": "x", "counter": {"packets": 0, "bytes": 0}}}]}},`,
			`{"match": {"op": "==", "left": ` + port + `, "right": "@s"}}, {"accept": null}`, ""},
		"set in the rule": {"", `{"match": {"op": "==", "left": ` + port + `, "right": {"set": [80, {"elem": {"val": 22, "quota": {"val": 5, "val_unit": "mbytes"}}}]}}}, {"accept": null}`,
			"mef.rules has no elements of sets with quota"},
		"verdict map": {"", `{"vmap": {"key": ` + port + `, "data": {"set": [[{"elem": {"val": 22, "limit": {"rate": 1, "burst": 5, "per": "second"}}}, {"accept": null}]]}}}`,
			"mef.rules has no elements of sets with limit"},
	} {
		t.Run(name, func(t *testing.T) {
			json := `{"nftables": [{"table": {"family": "inet", "name": "t", "handle": 1}}, ` + tt.objects + `
				{"chain": {"family": "inet", "table": "t", "name": "input", "handle": 1, "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}},
				{"rule": {"family": "inet", "table": "t", "chain": "input", "handle": 2, "expr": [` + tt.expr + `]}}]}`
			got := importer.Translate(parse(t, nftlist.Listing{JSON: []byte(json)}), "mef import nft")
			if imported := strings.Contains(got.Text, "\nrule "); imported != (tt.left == "") || len(got.Left) > 0 == imported || !imported && got.Left[0].Reason != tt.left {
				t.Errorf("left %v, want %q:\n%s", got.Left, tt.left, got.Text)
			}
		})
	}
}

// FuzzParse reads listings that nobody has made.
func FuzzParse(f *testing.F) {
	dirs, err := filepath.Glob("testdata/*/listing.json")
	if err != nil || len(dirs) == 0 {
		f.Fatalf("no cases: %v", err)
	}
	for _, file := range dirs {
		json, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(filepath.Dir(file), "listing.txt"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(json, text)
	}
	f.Fuzz(func(t *testing.T, json, text []byte) {
		if rs, err := nftlist.Parse(nftlist.Listing{JSON: json, Text: text}, "A test"); err == nil {
			importertest.Check(t, rs, 50)
		}
	})
}
