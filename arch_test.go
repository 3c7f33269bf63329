package mef_test

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What each package is in the data flow. A package that is not listed fails the test, so that nothing comes in unseen.
var (
	words    = []string{"event", "ban", "prefixset", "conf", "duration", "exempt", "printable", "logtext", "ordered", "sleep"}
	stages   = []string{"source", "filter", "webscan", "portscan", "logtime", "track", "decide", "enforce"}
	middle   = []string{"engine", "lists", "coverage", "feed", "pipeline", "answers", "hostwatch"} // between programs and stages
	programs = []string{"daemon", "offline", "selftest", "firewall"}
	commands = []string{"mefctl", "page"} // the body of a cmd that is more than one file
	shared   = []string{"atomicfile", "cloud", "confirm", "console", "control", "dns", "dnsbl", "eventlog", "geodb", "history", "host", "inotify", "metrics", "netlink", "notify", "owner", "pagechild", "report", "reputation", "run", "duty", "sdnotify", "store", "webclient"}
	support  = []string{"netnstest", "lab", "corpus"} // tests, demo and benchmarks only
)

// kernelUsers may import packages that talk to the kernel.
var kernelUsers = []string{"source", "enforce", "host", "inotify", "netlink", "control", "page", "run", "sdnotify", "selftest", "firewall", "netnstest", "lab"}

type pkg struct {
	ImportPath string
	Imports    []string
	GoFiles    []string
}

// part returns the first folder below internal/ of one of our import paths, "" for any other path.
func part(path string) string {
	rest, ok := strings.CutPrefix(path, "mef/internal/")
	if !ok {
		return ""
	}
	first, _, _ := strings.Cut(rest, "/")
	return first
}

func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-tags", "integration", "-json=ImportPath,Imports,GoFiles", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); err == io.EOF {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

// TestImports checks that imports follow the data flow: program -> stage -> word, and that only the packages made for it
// touch the kernel or start other programs.
func TestImports(t *testing.T) {
	for _, p := range packages(t) {
		from := part(p.ImportPath)
		if from == "" || slices.Contains(support, from) {
			continue
		}
		if all := slices.Concat(words, stages, middle, programs, commands, shared); !slices.Contains(all, from) {
			t.Errorf("%s is no known part of the data flow; name it in arch_test.go and docs/ARCHITECTURE.md", p.ImportPath)
		}
		for _, imp := range p.Imports {
			if why := refuse(from, imp); why != "" {
				t.Errorf("%s imports %s: %s", p.ImportPath, imp, why)
			}
		}
	}
}

// firewall says what the packages of mef's wing may import of it, and whether they may start programs and talk to the kernel.
var firewall = map[string]struct {
	imports []string
	acts    bool
}{
	"policy":   {nil, false},
	"nft":      {[]string{"policy"}, false},
	"iptables": {[]string{"policy"}, false},
	"importer": {[]string{"policy", "importer"}, false},
	"inforce":  {nil, true},
	"loader":   {[]string{"policy", "nft", "iptables", "inforce"}, true},
	"command":  {[]string{"policy", "importer", "inforce", "loader"}, true},
}

// TestFirewall checks that the wing of mef has the same order: command -> loader -> backend -> policy.
func TestFirewall(t *testing.T) {
	const wing = "mef/internal/firewall/"
	for _, p := range packages(t) {
		name, in := strings.CutPrefix(p.ImportPath, wing)
		first, _, _ := strings.Cut(name, "/")
		rule, known := firewall[first]
		if !in || strings.HasSuffix(name, "test") {
			continue
		}
		if !known {
			t.Errorf("%s is no known part of the firewall; name it in arch_test.go and docs/ARCHITECTURE.md", p.ImportPath)
		}
		for _, imp := range p.Imports {
			to, inWing := strings.CutPrefix(imp, wing)
			to, _, _ = strings.Cut(to, "/")
			if inWing && !slices.Contains(rule.imports, to) || !rule.acts && (isKernel(imp) || imp == "mef/internal/run") {
				t.Errorf("%s imports %s", p.ImportPath, imp)
			}
		}
	}
}

// TestCloud checks that the rules of reputation and what is sent are pure, and that no program but mefcloud has its broker linked into it.
func TestCloud(t *testing.T) {
	for _, p := range packages(t) {
		for _, imp := range p.Imports {
			if slices.Contains([]string{"mef/internal/cloud/reputation", "mef/internal/cloud/wire"}, p.ImportPath) && strings.Contains(imp, ".") {
				t.Errorf("%s imports %s, but only the standard library is for it", p.ImportPath, imp)
			}
			if strings.HasPrefix(imp, "github.com/nats-io/") && p.ImportPath != "mef/internal/cloud/natslog" {
				t.Errorf("%s imports %s; package natslog is what the server uses of it", p.ImportPath, imp)
			}
			if imp == "mef/internal/cloud/server" && p.ImportPath != "mef/cmd/mefcloud" {
				t.Errorf("%s imports %s, which is for mefcloud", p.ImportPath, imp)
			}
		}
	}
	out, err := exec.Command("go", "list", "-deps", "./cmd/mefdaemon", "./cmd/mefctl", "./cmd/mef").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for dep := range strings.FieldsSeq(string(out)) {
		if strings.HasPrefix(dep, "github.com/nats-io/") {
			t.Errorf("%s is linked into a program of the host", dep)
		}
	}
}

// refuse returns why a package of the part from must not import imp, or "".
func refuse(from, imp string) string {
	to := part(imp)
	switch {
	case imp == "os/exec" && from != "run":
		return "only run starts other programs"
	case isKernel(imp) && !slices.Contains(kernelUsers, from):
		return "it talks to the kernel"
	case slices.Contains(support, to):
		return "it is for tests"
	case to == "" || to == from:
		if slices.Contains(words, from) && strings.Contains(strings.SplitN(imp, "/", 2)[0], ".") {
			return "words import only the standard library"
		}
		return ""
	case slices.Contains(words, to):
		return ""
	case slices.Contains(words, from):
		return "words import only words"
	case slices.Contains(commands, from) && slices.Contains(programs, to):
		return ""
	case slices.Contains(programs, to), slices.Contains(commands, to):
		return "programs are imported by cmd only"
	case from == "engine":
		if !slices.Contains([]string{"filter", "webscan", "portscan", "track", "decide"}, to) {
			return "the engine is filter, webscan, portscan, track and decide as one value, without I/O"
		}
		return ""
	case imp == "mef/internal/filter/tdfa", imp == "mef/internal/track/bounded":
		return "" // a matcher, and containers: no stages
	case slices.Contains(stages, from) && to != "run" && to != "logtime" && to != "netlink" && to != "inotify":
		return "a stage takes and returns words; only programs see several stages"
	}
	return ""
}

func isKernel(imp string) bool {
	return slices.ContainsFunc([]string{"golang.org/x/sys", "github.com/google/nftables", "github.com/mdlayher", "github.com/vishvananda", "github.com/cilium"},
		func(prefix string) bool { return strings.HasPrefix(imp, prefix) })
}

// What one head can hold: packages of ours that a package imports, files in a package, and imports from a command down to a word.
const (
	mostImports = 12
	mostFiles   = 12
	longestWay  = 6
)

// larger are the packages that are larger than that, each with its size now. Numbers here go down, never up.
var larger = struct{ imports, files, way map[string]int }{
	imports: map[string]int{},
	files:   map[string]int{},
	way:     map[string]int{},
}

// TestSizes checks that no package outgrows its reader.
func TestSizes(t *testing.T) {
	byPath := make(map[string]pkg)
	for _, p := range packages(t) {
		byPath[p.ImportPath] = p
	}
	var way func(path string) []string
	ways := make(map[string][]string)
	way = func(path string) (longest []string) {
		if known, ok := ways[path]; ok {
			return known
		}
		for _, imp := range byPath[path].Imports {
			if _, ours := byPath[imp]; ours {
				if w := way(imp); len(w) >= len(longest) {
					longest = append([]string{imp}, w...)
				}
			}
		}
		ways[path] = longest
		return longest
	}
	for path, p := range byPath {
		if from := part(path); slices.Contains(support, from) || strings.HasPrefix(path, "mef/bench") || path == "mef/cmd/demo" {
			continue
		}
		ours := slices.DeleteFunc(slices.Clone(p.Imports), func(imp string) bool { _, ok := byPath[imp]; return !ok })
		if most := max(mostImports, larger.imports[path]); len(ours) > most {
			t.Errorf("%s imports %d packages of ours, at most %d: %s", path, len(ours), most, strings.Join(ours, ", "))
		}
		if most := max(mostFiles, larger.files[path]); len(p.GoFiles) > most {
			t.Errorf("%s has %d files, at most %d", path, len(p.GoFiles), most)
		}
		if w, most := way(path), max(longestWay, larger.way[path]); len(w) > most {
			t.Errorf("%s is %d imports above the lowest word, at most %d: %s", path, len(w), most, strings.Join(w, " -> "))
		}
	}
}

// mostWiring is how many lines the daemon may have: it connects packages, and what it would compute belongs into one of these.
const mostWiring = 1350

// TestDaemonOnlyWires checks that the daemon does not grow again.
func TestDaemonOnlyWires(t *testing.T) {
	files, err := filepath.Glob("internal/daemon/*.go")
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		lines += bytes.Count(text, []byte("\n"))
	}
	if lines == 0 || lines > mostWiring {
		t.Errorf("internal/daemon has %d lines without its tests, at most %d: give what it computes to the package whose state that is", lines, mostWiring)
	}
}

// TestPackageComments checks that every package teaches its idea.
func TestPackageComments(t *testing.T) {
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		files, err := filepath.Glob(filepath.Join(path, "*.go"))
		if err != nil {
			return err
		}
		files = slices.DeleteFunc(files, func(f string) bool { return strings.HasSuffix(f, "_test.go") })
		if len(files) > 0 && !slices.ContainsFunc(files, func(f string) bool { return hasComment(t, f) }) {
			t.Errorf("package in %s has no package comment", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func hasComment(t *testing.T, file string) bool {
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.PackageClauseOnly)
	if err != nil {
		t.Fatal(err)
	}
	return f.Doc != nil
}

// TestNoInit checks the house rule that nothing happens before main: what exists is listed in plain sight.
func TestNoInit(t *testing.T) {
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range f.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s has a func init", path)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// rawWriters are the only files that may name the standard streams: they hand them to what makes text printable, or belong to what
// runs without an operator.
var rawWriters = []string{"cmd/mef/main.go", "cmd/mefdaemon/main.go", "cmd/mefctl/main.go", "cmd/mefcloud/main.go", "cmd/mefpage/main.go", "internal/selftest/spawn.go"}

// TestOnlyPrintableTextReachesTerminals checks that nothing is written to the standard streams but through package printable: names of processes
// and files can hold escape sequences.
func TestOnlyPrintableTextReachesTerminals(t *testing.T) {
	for _, root := range []string{"cmd", "internal"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			for _, tests := range []string{"cmd/demo", "internal/lab", "internal/netnstest"} {
				if strings.HasPrefix(path, tests+"/") {
					return nil
				}
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if name := rawWrite(n); name != "" && !(strings.HasPrefix(name, "os.") && slices.Contains(rawWriters, path)) {
					t.Errorf("%s uses %s: write to the streams of the command, which show only what is printable", path, name)
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// rawWrite returns the name of a standard stream or of a function that writes to one, or "".
func rawWrite(n ast.Node) string {
	switch n := n.(type) {
	case *ast.SelectorExpr:
		pkg, ok := n.X.(*ast.Ident)
		if !ok || pkg.Obj != nil { // a local name, not a package
			return ""
		}
		name := pkg.Name + "." + n.Sel.Name
		if slices.Contains([]string{"os.Stdout", "os.Stderr", "fmt.Print", "fmt.Printf", "fmt.Println", "log.Print", "log.Printf", "log.Println", "log.Fatal", "log.Fatalf"}, name) {
			return name
		}
	case *ast.CallExpr:
		if f, ok := n.Fun.(*ast.Ident); ok && f.Obj == nil && (f.Name == "print" || f.Name == "println") {
			return f.Name
		}
	}
	return ""
}
