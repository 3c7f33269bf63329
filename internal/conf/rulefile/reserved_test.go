package rulefile

import (
	"strings"
	"testing"
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
