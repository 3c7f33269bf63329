package nftset

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/enforce/enforcetest"
	"mef/internal/netlink/nfnl"
)

func TestSetNamesSayAll(t *testing.T) {
	for key, want := range map[string]string{
		"192.0.2.7":                               "ban4_32",
		"192.0.2.0/25":                            "ban4_25",
		"0.0.0.0/0":                               "ban4_0",
		"2001:db8::/64":                           "ban6_64",
		"2001:db8::1 unverified":                  "susp6_128",
		"192.0.2.7 ports 25,465":                  "ban4_32_p25.465",
		"2001:db8::/56 ports 22,8000-8010,9":      "ban6_56_p9.22.8000-8010",
		"192.0.2.7 ports 53 unverified":           "susp4_32_p53",
		"::ffff:192.0.2.7/128 ports 1 unverified": "susp6_128_p1",
	} {
		c := kindOf(enforcetest.Key(key))
		if got := c.set(); got != want {
			t.Errorf("set of %s is %q, want %q", key, got, want)
		}
		if back, ok := parseKind(want); !ok || back != c {
			t.Errorf("parseClass(%q) = %+v, %v; want %+v", want, back, ok, c)
		}
	}
	for _, name := range []string{"", "ban4", "ban4_", "ban4_33", "ban6_129", "ban5_32", "ban4_032", "ban4_-1", "ban44_32", "ban4_32_p", "ban4_32_p25.24",
		"ban4_32_p0", "ban4_32_px", "ban4_32_p22_p23", "allow4", "grace6", "susp", "mine", "ban4_32x", "ban_32"} {
		if c, ok := parseKind(name); ok {
			t.Errorf("parseClass(%q) = %+v, want none", name, c)
		}
	}
}

func TestClassesAreMadeOnceAndInOrder(t *testing.T) {
	wide, ports := setKind{bits: 8}, setKind{bits: 32, ports: "22"}
	got := withBase([]setKind{ports, {bits: 32}, wide, ports, {trust: ban.Unverified, v6: true, bits: 64}})
	if len(got) != len(baseKinds)+2 || got[len(got)-2] != ports || got[len(got)-1] != wide {
		t.Errorf("withBase = %+v, want the base, then ports, then /8", got)
	}
}

func TestServicePorts(t *testing.T) {
	for ports, want := range map[ban.Ports]string{
		"53":                   "53-53;",
		"53,5060-5061":         "53-53 5060-5061;",
		"51820":                "51820-51820;",
		"1-21,23-65535":        "1-21; 23-1023",
		"1-39999,40001-65535":  "; 1-1023",
		"40000-40100":          ";",
		"2000-2063":            "2000-2063;",
		"22,32768,40000-50000": "22-22 32768-32768;",
	} {
		parsed, err := ban.ParsePorts(string(ports))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		served, wide := servicePorts(parsed)
		for i, ranges := range [][]ban.PortRange{served, wide} {
			if i == 1 {
				got = append(got, ";")
			}
			for _, r := range ranges {
				got = append(got, fmt.Sprintf("%d-%d", r.First, r.Last))
			}
		}
		if text := strings.ReplaceAll(strings.Join(got, " "), " ;", ";"); text != want {
			t.Errorf("of ports %s, UDP services have %q, want %q", ports, text, want)
		}
	}
}

func TestFirstLocalPort(t *testing.T) {
	for text, want := range map[string]uint16{"32768\t60999\n": 32768, "1024\t65535\n": 1024, "40000\t50000": 32768, "": 32768, "0 1": 32768, "99999 1": 32768} {
		if got := firstLocalPort(text); got != want {
			t.Errorf("of %q the first port is %d, want %d", text, got, want)
		}
	}
}

func TestStampsTellRulesApart(t *testing.T) {
	seen := map[uint64]rule{}
	on := tableSpec{log: conf.DropLog{Enabled: true, Rate: 1, Burst: 5}}
	rules := append(tableSpec{}.fixedRules(), on.logRules()...)
	for _, key := range []string{"192.0.2.7", "192.0.2.0/24", "192.0.2.7 ports 25", "192.0.2.7 ports 26", "192.0.2.7 ports 25-26", "2001:db8::/64",
		"2001:db8::/65", "192.0.2.7 unverified", "192.0.2.7 ports 25 unverified"} {
		c := kindOf(enforcetest.Key(key))
		rules = append(rules, tableSpec{}.rules(c)...)
		rules = append(rules, on.rules(c)[0]) // the one that drops by another chain
	}
	for _, r := range rules {
		s, err := r.fingerprint()
		if err != nil {
			t.Fatal(err)
		}
		if old, ok := seen[s]; ok && old.chain == r.chain {
			t.Errorf("two rules of chain %s have one stamp", r.chain)
		}
		seen[s] = r
		if again, _ := r.fingerprint(); again != s {
			t.Errorf("a rule of chain %s has two stamps", r.chain)
		}
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	for err, want := range map[error]string{
		syscall.EPERM:           "CAP_NET_ADMIN",
		syscall.EPROTONOSUPPORT: "load the modules nf_tables",
		syscall.EOPNOTSUPP:      "load the modules nf_tables",
	} {
		if got := nfnl.Explain(err); !strings.Contains(got.Error(), want) || !errors.Is(got, err) {
			t.Errorf("nfnl.Explain(%v) = %q, want it to name %q", err, got, want)
		}
	}
}

func FuzzAttributes(f *testing.F) {
	var a nfnl.Attrs
	at := a.Begin(3)
	element{addr: enforcetest.Key("192.0.2.7").Prefix.Addr(), timeout: 1000}.append(&a)
	a.End(at)
	f.Add([]byte(a))
	f.Add([]byte{4, 0, 3, 0, 3, 0, 1, 0})
	f.Fuzz(func(_ *testing.T, b []byte) { // no message of the kernel may cause a panic
		_ = slices.Collect(elements(b))
		parseSet(b)
		parseFingerprint(nfnl.Find(b, 7))
		author(b)
	})
}
