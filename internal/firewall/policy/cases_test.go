package policy_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mef/internal/firewall/iptables"
	"mef/internal/firewall/nft"
	"mef/internal/firewall/policy"
)

var update = flag.Bool("update", false, "write what the cases want instead of comparing")

// TestCases reads the policy mef.rules of each folder in testdata/cases and compares what becomes of it with the files beside it:
//
//	want.errors    mistakes, and what a backend cannot do
//	want.warnings  what its author may not have meant, and expectations that are not met; only where there is such a file
//	want.format    the text in its canonical form, if it is not
//	want.nft       the script for nft
//	want.iptables  the texts for iptables-restore and ipset
//
// What is empty has no file. A new case is a folder, and -update. Interfaces of default routes are eth0; a file "hosts" reports which
// addresses names have, such as "www.example.org 192.0.2.7 2001:db8::7".
func TestCases(t *testing.T) {
	for _, dir := range cases(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			t.Chdir(dir)
			compare(t, outputs(t))
		})
	}
}

func cases(t *testing.T) []string {
	t.Helper()
	dirs, err := filepath.Glob("testdata/cases/*")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	return dirs
}

// outputs returns what becomes of the policy in the working directory, by name of the file that wants it.
func outputs(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("mef.rules")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	if formatted, err := policy.Format("mef.rules", text); err == nil && !bytes.Equal(formatted, text) {
		out["want.format"] = string(formatted)
	}
	src, err := policy.Read("mef.rules")
	if err != nil {
		out["want.errors"] = err.Error() + "\n"
		return out
	}
	p := src.Policy(policy.Facts{Auto: []string{"eth0"}, Hosts: hosts(t)})
	if out["want.nft"], err = nft.Script(p); err != nil {
		out["want.errors"] += "nft: " + err.Error() + "\n"
	}
	ruleset, err := iptables.Compile(p, iptables.State{})
	if err != nil {
		out["want.errors"] += "iptables: " + err.Error() + "\n"
	}
	out["want.iptables"] = ruleset.String()
	if _, err := os.Stat("want.warnings"); err == nil {
		out["want.warnings"] = warnings(p)
	}
	return out
}

func warnings(p *policy.Policy) string {
	var b strings.Builder
	m := policy.NewModel(p)
	for _, w := range m.Warnings(policy.Any, policy.DHCP()...) {
		fmt.Fprintln(&b, w)
	}
	for _, f := range m.Unmet(p.Expects) {
		fmt.Fprintf(&b, "%s: %s\n", f.Expect.At, f)
	}
	return b.String()
}

// hosts reads the addresses of names.
func hosts(t *testing.T) map[string][]netip.Addr {
	t.Helper()
	text, err := os.ReadFile("hosts")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	all := map[string][]netip.Addr{}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		for _, word := range words[1:] {
			all[words[0]] = append(all[words[0]], netip.MustParseAddr(word))
		}
	}
	return all
}

// compare compares outputs with the files in the working directory that want them.
func compare(t *testing.T, got map[string]string) {
	t.Helper()
	maps.DeleteFunc(got, func(name, text string) bool { return text == "" && name != "want.warnings" })
	wants, err := filepath.Glob("want.*")
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		for _, name := range wants {
			os.Remove(name)
		}
		for name, text := range got {
			if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	for _, name := range slices.Compact(slices.Sorted(slices.Values(append(wants, slices.Collect(maps.Keys(got))...)))) {
		want, err := os.ReadFile(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got[name]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
