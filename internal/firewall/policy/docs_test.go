package policy

import (
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"mef/internal/conf"
	"mef/internal/prefixset"
)

// manual is the page that has the language.
const manual = "../../../man/mef.rules.5"

func readPage(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.NewReplacer(`\-`, "-", `\fI`, "", `\fR`, "", `\e`, `\`).Replace(string(text))
}

// TestManualNamesEverything finds each statement, field and value in mef.rules(5).
func TestManualNamesEverything(t *testing.T) {
	page := readPage(t, manual)
	word := func(word string) {
		if !regexp.MustCompile(`(^|\W)` + regexp.QuoteMeta(word) + `(\W|$)`).MatchString(page) {
			t.Errorf("mef.rules(5) does not name %q", word)
		}
	}
	for kind, k := range kinds {
		word(kind)
		for _, key := range k.keys {
			if !strings.Contains(page, key+"=") {
				t.Errorf("mef.rules(5) does not name %s=", key)
			}
		}
	}
	for _, names := range [][]string{dirNames, actionNames, natNames, familyNames[1:], slices.Collect(maps.Keys(protoNames)), slices.Collect(maps.Keys(icmpNames)), slices.Collect(maps.Keys(icmp6Names)), stateNames, {"addr", "port", "auto", nothing, "prefix:", "ipset:"}} {
		for _, name := range names {
			word(name)
		}
	}
}

// Where documents have examples: unfilled text in manual pages, and indented lines and code in Markdown.
var (
	unfilled = regexp.MustCompile(`(?s)\n\.nf\n(.*?)\n\.fi\n`)
	code     = regexp.MustCompile("(?m)((?:^ {4}.*\n)+)|(?s:```[a-z]*\n(.*?)```)")
	policies = regexp.MustCompile(`^(#.*\n|\n)*((policy|rule|nat|set|expect) [a-z]+=[^ ]|include=[^ ])`)
)

// examples returns the policies, and parts of policies, in a document.
func examples(path, page string) (all []string) {
	blocks := unfilled
	if strings.HasSuffix(path, ".md") {
		blocks = code
	}
	for _, m := range blocks.FindAllStringSubmatch(page, -1) {
		var text string
		for line := range strings.Lines(strings.Join(m[1:], "")) {
			if line = strings.TrimSpace(line); line != ".RS" && line != ".RE" {
				text += line + "\n"
			}
		}
		if policies.MatchString(text) {
			all = append(all, text)
		}
	}
	return all
}

// TestExamples reads every example, with a default for each way of which it says nothing, and proves its expectations. None may have
// a rule that never decides.
func TestExamples(t *testing.T) {
	found := 0
	for _, glob := range []string{"../../../README.md", "../../../docs/*.md", "../../../man/*"} {
		paths, err := filepath.Glob(glob)
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s: %q, %v", glob, paths, err)
		}
		for _, path := range paths {
			for _, text := range examples(path, readPage(t, path)) {
				found++
				tryExample(t, path, text)
			}
		}
	}
	if found < 6 {
		t.Errorf("found %d examples", found)
	}
}

func tryExample(t *testing.T, path, text string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"office.txt", "networks.txt"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("192.0.2.0/24\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	whole := text
	for _, d := range dirNames {
		if !strings.Contains(text, "policy dir="+d) {
			whole += "policy dir=" + d + " action=drop\n"
		}
	}
	src, err := Parse(filepath.Join(dir, "mef.rules"), []byte(whole))
	if err != nil {
		t.Errorf("%s: %v, in\n%s", path, err, text)
		return
	}
	facts := Facts{Auto: []string{"eth0"}, Groups: map[conf.GeoGroup]*prefixset.Packed{}}
	for g := range src.Groups() { // each has a network of its own
		var b prefixset.Packer
		b.Add(netip.PrefixFrom(netip.AddrFrom4([4]byte{45, 83, byte(len(facts.Groups)), 0}), 24))
		facts.Groups[g] = b.Pack()
	}
	policy := src.Policy(facts)
	m := NewModel(policy)
	for _, f := range m.Unmet(policy.Expects) {
		t.Errorf("%s: line %d: %s, in\n%s", path, f.Expect.At.Line, f, text)
	}
	for _, w := range m.silent() {
		t.Errorf("%s: %s, in\n%s", path, w, text)
	}
}
