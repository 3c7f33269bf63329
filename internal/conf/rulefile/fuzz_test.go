package rulefile

import (
	"strings"
	"testing"

	"mef/internal/conf/conftest"
	"mef/internal/conf/diag"
	"mef/internal/conf/ini"
)

func FuzzParseRule(f *testing.F) {
	conftest.Seed(f, "../mefconf/testdata/*/rules.d/*.conf")
	f.Fuzz(func(t *testing.T, text []byte) {
		rule, notices, errs := Parse("fuzz.conf", text, nil)
		conftest.Inside(t, "fuzz.conf", text, errs)
		for _, n := range notices {
			conftest.Inside(t, "fuzz.conf", text, diag.Errors{{Pos: n.Pos, Msg: n.Text}})
		}
		if len(errs) > 0 || rule.Enabled && strings.Contains(string(text), "webscan") {
			return
		}
		if rule.Enabled && len(rule.Fail)+len(rule.Probe) == 0 {
			t.Errorf("enabled without pattern: %+v", rule)
		}
		if rule.MaxRetry < 1 || rule.FindTime <= 0 || rule.BanTime <= 0 || !ini.IsName(rule.Name) || !ini.IsName(rule.Service) {
			t.Errorf("out of bounds: %+v", rule)
		}
	})
}
