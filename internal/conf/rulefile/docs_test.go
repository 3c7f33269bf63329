package rulefile

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"mef/internal/conf"
)

const guide = "../../../docs/configuration.md"

// The table of refused and taken patterns is true.
func TestDocPatterns(t *testing.T) {
	text, err := os.ReadFile(guide)
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "| refused | accepted |\n|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	found := regexp.MustCompile("(?m)^\\| `(.*)` \\| `(.*)` \\|$").FindAllStringSubmatch(table, -1)
	if len(found) < 4 {
		t.Fatalf("found %d rows", len(found))
	}
	for _, m := range found {
		if steerable(conf.Expand(m[1])) == flawless {
			t.Errorf("%s is taken", m[1])
		}
		if why := steerable(conf.Expand(m[2])); why != flawless {
			t.Errorf("%s is refused: %s", m[2], why.why)
		}
	}
	for _, want := range []string{conf.HostPattern, conf.UserPattern} {
		if !strings.Contains(string(text), "`"+want+"`") {
			t.Errorf("%s is not explained", want)
		}
	}
}
