package rulefile

import (
	"os"
	"strings"
	"testing"

	"mef/internal/conf"
)

// Bans that no rule made have names of their own.
func TestReservedRuleNames(t *testing.T) {
	for _, name := range []string{"score", "manual", "crowd", "blacklist", "unknown"} {
		for file, text := range map[string]string{name + ".conf": "[rule]\n", "other.conf": "[rule]\nname=" + name + "\n"} {
			_, _, errs := Parse("rules.d/"+file, []byte(text+"programs=x\nfiles=/var/log/x.log\nfailregex=^refused <HOST>$\n"), nil)
			if len(errs) != 1 || !strings.Contains(errs[0].Error(), "is reserved") || errs[0].Hint == "" {
				t.Errorf("%s, %q: %v; want that the name is reserved", file, text, errs)
			}
		}
	}
}

// No built-in rule bans for what clients write whole lines into.
func TestShippedLogsAreSafe(t *testing.T) {
	rules, errs := ReadShipped(os.DirFS("../../filter/shipped"))
	if err := errs.Err(); err != nil || len(rules) == 0 {
		t.Fatal(err)
	}
	for _, r := range rules {
		if r.Action == conf.ActionDetect {
			continue
		}
		for _, image := range append(r.Images, r.Containers...) {
			if log := clientsPrint(image); log != nil {
				t.Errorf("rule %s reads containers of %s, into which clients write by %s", r.Name, image, log.by)
			}
		}
		for _, path := range r.Files {
			if log := clientsWrite(path); log != nil {
				t.Errorf("rule %s reads %s, into which clients write by %s", r.Name, path, log.by)
			}
		}
	}
}
