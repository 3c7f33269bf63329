package selftest_test

import (
	"testing"

	"mef/internal/selftest"
)

func TestResultInALine(t *testing.T) {
	ok := selftest.Step{Name: "IPv4 ban", OK: true, Detail: "3 packets counted"}
	bad := selftest.Step{Name: "IPv6 ban", Detail: "got through"}
	for name, tt := range map[string]struct {
		r       selftest.Result
		failed  bool
		problem string
	}{
		"passed":       {selftest.Result{OK: true, Steps: []selftest.Step{ok}}, false, ""},
		"failed":       {selftest.Result{Steps: []selftest.Step{ok, bad}}, true, "IPv6 ban: got through"},
		"failed twice": {selftest.Result{Steps: []selftest.Step{bad, bad}}, true, "IPv6 ban: got through; IPv6 ban: got through"},
		"impossible":   {selftest.Result{Impossible: "no namespaces"}, false, "not possible on this host: no namespaces"},
	} {
		if tt.r.Failed() != tt.failed || tt.r.Problem() != tt.problem {
			t.Errorf("%s: Failed = %v, Problem = %q; want %v, %q", name, tt.r.Failed(), tt.r.Problem(), tt.failed, tt.problem)
		}
	}
}

func TestChildLeavesOtherCommandLinesAlone(t *testing.T) {
	for _, args := range [][]string{nil, {"selftest"}, {"status"}, {"selftest-child", "now"}, {"selftest-child=ipfw"}, {"--config", "selftest-child"}} {
		if handled, _ := selftest.Child(args, nil); handled {
			t.Errorf("Child(%q) took it for its own", args)
		}
	}
}
