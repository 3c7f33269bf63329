package nftlist_test

import (
	"flag"
	"os"
	"path/filepath"
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
