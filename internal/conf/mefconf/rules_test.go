package mefconf

import "testing"

func TestOverrideCanDisable(t *testing.T) {
	cfg, said := load(t, map[string]string{"rules.d/sshd.conf": "[rule]\nenabled=false\n"})
	if cfg == nil {
		t.Fatal(said)
	}
	if sshd := ruleNamed(t, cfg, "sshd"); sshd.Enabled || len(sshd.Fail) != 1 {
		t.Errorf("sshd %+v", sshd)
	}
}

// The name counts, not the file's.
func TestOverrideByName(t *testing.T) {
	cfg, said := load(t, map[string]string{"rules.d/10-ssh.conf": "[rule]\nname=sshd\nmaxretry=2\n"})
	if cfg == nil {
		t.Fatal(said)
	}
	if sshd := ruleNamed(t, cfg, "sshd"); sshd.MaxRetry != 2 || len(cfg.Rules) != 2 {
		t.Errorf("rules %+v", cfg.Rules)
	}
}

// A file of MEF 1.0 has the name of an ordinary rule, and one without engine= is told so.
func TestWebscanDir(t *testing.T) {
	cfg, said := load(t, map[string]string{
		"rules.d/shop.conf":   "[rule]\nfailregex=^no <HOST>$\n",
		"webscan.d/shop.conf": "[rule]\nengine=webscan\nfiles=/var/log/shop.log\n" + "[thresholds]\nrule_1_requests_min=9\n",
	})
	if said != "" || ruleNamed(t, cfg, "shop").Web != nil || ruleNamed(t, cfg, "webscan-shop").Web == nil {
		t.Errorf("rules %v, %s", cfg, said)
	}
	for text, want := range map[string]string{
		"[rule]\nname=x\n[thresholds]\nrule_1_requests_min=9\n": `no engine=webscan in a file of webscan_dir; write it under [rule], with the keys that mefdaemon.rules(5) lists for it`,
		"[scan]\nlimit=9\n": `no engine=webscan in a file of webscan_dir; write it under [rule], with the keys that mefdaemon.rules(5) lists for it`,
	} {
		if _, said := load(t, map[string]string{"webscan.d/shop.conf": text}); said != "webscan.d/shop.conf:1:1: "+want {
			t.Errorf("%q says %s", text, said)
		}
	}
	if _, said := load(t, map[string]string{"rules.d/shop.conf": "[rule]\nname=x\n[thresholds]\nrule_1_requests_min=9\n"}); said !=
		`rules.d/shop.conf:3:1: section "thresholds" in a rule about single lines; for a rule about web requests, write engine=webscan under [rule]` {
		t.Errorf("in rules.d it says %s", said)
	}
}
