package conf

import (
	"strings"
	"testing"

	"mef/internal/conf/conftest"
)

func FuzzList(f *testing.F) {
	conftest.Seed(f, "mefconf/testdata/*/*list/*.conf")
	f.Fuzz(func(t *testing.T, text []byte) {
		entries, errs := ParseList("list.conf", text)
		conftest.Inside(t, "list.conf", []byte(strings.ToValidUTF8(string(text), "\uFFFD")), errs)
		for _, e := range entries {
			prefixes, ok := e.Prefixes()
			if ok != (len(prefixes) > 0) {
				t.Errorf("entry %q has prefixes %v", e.Text, prefixes)
			}
			for _, p := range prefixes {
				if p != p.Masked() || p.Addr().Is4In6() || p.Addr().Zone() != "" {
					t.Errorf("entry %q has prefix %v", e.Text, p)
				}
			}
		}
	})
}
