package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// rules times the firewall loader on policies of three sizes, and nft on the scripts that the loader writes. The other products have no loader.
func (b *bench) rules(ctx context.Context, p *product, s *section) error {
	if p.name != "mef" {
		return nil
	}
	for _, n := range []int{200, 10_000, 50_000} {
		if err := b.rulesOf(ctx, p, s, n); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) rulesOf(ctx context.Context, p *product, s *section, n int) error {
	cell, err := newCell("mef", nil)
	if err != nil {
		return err
	}
	defer cell.close()
	dir, err := os.MkdirTemp(b.dir, "rules-")
	if err != nil {
		return err
	}
	conf, policy, script := filepath.Join(dir, "mef.conf"), filepath.Join(dir, "mef.rules"), filepath.Join(dir, "script.nft")
	err = errors.Join(
		os.WriteFile(conf, []byte("[global]\nrules_file="+policy+"\ncache_dir="+filepath.Join(dir, "state")+"\n"), 0o600),
		os.WriteFile(policy, []byte(randomPolicy(n)), 0o600))
	if err != nil {
		return err
	}
	mef := filepath.Join(filepath.Dir(p.daemonPath), "mef")
	shown, err := exec.Command(mef, "--config", conf, "show").Output()
	if err != nil {
		return fmt.Errorf("mef show: %w", err)
	}
	if err := os.WriteFile(script, shown, 0o600); err != nil {
		return err
	}
	of := count(float64(n)) + " rules: "
	budget := map[int]string{200: "≤ 60 ms", 10_000: "≤ 1.3 × nft -f", 50_000: "≤ 2 × nft -f"}[n]
	runs := map[int]int{50_000: 3}[n]
	if runs == 0 {
		runs = 7
	}
	for _, row := range []struct {
		what, budget string
		line         []string
	}{
		{"mef load: checked, compiled, in the kernel", budget, []string{mef, "--config", conf, "load"}},
		{"mef apply --yes: checked, compared, loaded, confirmed", "≤ 2 × mef load", []string{mef, "--config", conf, "apply", "--yes"}},
		{"mef check: expectations, unreachable rules, this host", "", []string{mef, "--config", conf, "check"}},
		{"for comparison: nft -f of the same rules, ready made", "", []string{"nft", "-f", script}},
	} {
		var took []float64
		for range runs {
			if err := ctx.Err(); err != nil {
				return err
			}
			cmd := exec.Command(row.line[0], row.line[1:]...)
			begun := time.Now()
			if err := cell.start(cmd); err != nil {
				return err
			}
			if err := cmd.Wait(); err != nil {
				return fmt.Errorf("%v: %w", row.line, err)
			}
			took = append(took, float64(time.Since(begun))/float64(time.Millisecond))
		}
		s.set(p, of+row.what, row.budget, "%s", spread(took, milliseconds))
	}
	return nil
}

// randomPolicy returns a policy of n rules as they accumulate over the years: services that various networks may reach.
func randomPolicy(n int) string {
	r := rand.New(rand.NewPCG(1, 2))
	var b strings.Builder
	b.WriteString("policy dir=in action=drop\npolicy dir=out action=accept\n" +
		"rule dir=in action=accept proto=all iif=lo\nrule dir=in action=accept proto=all ct=established,related\n" +
		"rule dir=in action=accept proto=icmp\nrule dir=in action=accept proto=icmp6\nrule dir=in action=accept proto=tcp dport=22\n" +
		"expect dir=in proto=tcp dport=22 action=accept\n")
	for range n - 5 {
		action := []string{"accept", "accept", "accept", "drop", "reject"}[r.IntN(5)]
		proto := []string{"tcp", "tcp", "udp"}[r.IntN(3)]
		src := fmt.Sprintf("%d.%d.%d.0/24", 11+r.IntN(80), r.IntN(256), r.IntN(256))
		if r.IntN(4) == 0 {
			src = fmt.Sprintf("2001:db8:%x::/48", r.IntN(65536))
		}
		fmt.Fprintf(&b, "rule dir=in action=%s proto=%s src=%s dport=%d\n", action, proto, src, 1+r.IntN(20_000))
	}
	return b.String()
}
