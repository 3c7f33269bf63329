package filter_test

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"mef/internal/conf"
)

var update = flag.Bool("update", false, "write the table of shipped rules in the documentation instead of comparing it")

// docs/services.md lists the shipped rules as they are: each with its service, and where it reads.
func TestServicesAreDocumented(t *testing.T) {
	const file = "../../docs/services.md"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "| service | rule |", "\n\n"
	head, rest, ok := strings.Cut(string(text), begin)
	if !ok {
		t.Fatalf("%s has no table of rules", file)
	}
	_, tail, _ := strings.Cut(rest, end)
	want := head + serviceTable(allShipped(t)) + "\n" + tail
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(text) != want {
		t.Errorf("%s does not list the shipped rules as they are; go test ./internal/filter -run Documented -update writes it", file)
	}
}

func serviceTable(rules []conf.Rule) string {
	var b strings.Builder
	b.WriteString("| service | rule | journal entries of | files | images of Docker | action |\n|---|---|---|---|---|---|\n")
	slices.SortFunc(rules, func(a, b conf.Rule) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Name, b.Name))
	})
	for _, r := range rules {
		journal := strings.Join(r.Programs, ", ")
		if r.Source == conf.SourceFile {
			journal = ""
		}
		files := ""
		if r.Source != conf.SourceJournal && len(r.Files) > 0 {
			files = "`" + strings.Join(r.Files, "` `") + "`"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", r.Service, r.Name, strings.ReplaceAll(journal, "*", `\*`), files, strings.Join(r.Images, ", "), r.Action)
	}
	return b.String()
}
