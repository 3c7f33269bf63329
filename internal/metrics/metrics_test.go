package metrics

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"mef/internal/control"
)

// full is a picture in which every metric has a value.
func full(services int) *control.Picture {
	p := &control.Picture{Now: time.Unix(2000, 0), Since: time.Unix(1000, 0), Judged: time.Unix(1999, 5e8), Version: "2.0 \"x\"\n\\", Level: control.Yellow, Warnings: []string{"a"}, Attacks: []string{"b"}}
	p.Mode, p.Attempts, p.Probes, p.Logins, p.AlarmCount = "enforce", 7, 8, 9, 2
	p.Bans = control.Tally{Total: 5, IPv4: 3, IPv6: 2, Unverified: 1, Permanent: 1, Ever: 12}
	p.Dropped = control.Drops{Known: true, Total: 10, Verified: 1, Unverified: 2, Replies: 3, Lists: 4}
	for i := range services {
		p.Services = append(p.Services, control.ServiceCounter{Name: fmt.Sprintf("service%d", i), State: "journal", Failures: uint64(i), Logins: 1})
	}
	return p
}

func TestText(t *testing.T) {
	p := full(0)
	p.Services = []control.ServiceCounter{{Name: "sshd", State: "journal", Failures: 7, Logins: 9, Bans: 12, Sources: 4}, {Name: "exim", State: "off"}}
	text := string(Text(p))
	for _, want := range []string{
		`mef_build_info{version="2.0 \"x\"\n\\"} 1`, "mef_start_time_seconds 1000", "mef_status_time_seconds 1999.5", "mef_protected 1", "mef_enforcing 1",
		"mef_status_problems 0", "mef_status_warnings 1", "mef_alarms 2", "mef_under_attack 1", "mef_attempts_total 7", "mef_probes_total 8", "mef_logins_total 9",
		"mef_bans_total 12", `mef_bans{family="ipv4"} 3`, `mef_bans{family="ipv6"} 2`, "mef_bans_unverified 1", "mef_bans_permanent 1",
		`mef_dropped_packets_total{by="ban"} 1`, `mef_dropped_packets_total{by="unverified_ban"} 2`, `mef_dropped_packets_total{by="reply"} 3`, `mef_dropped_packets_total{by="list"} 4`,
		`mef_service_failures_total{service="sshd"} 7`, `mef_service_logins_total{service="sshd"} 9`, `mef_service_bans_total{service="sshd"} 12`, `mef_service_sources{service="sshd"} 4`,
	} {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("no line %s in\n%s", want, text)
		}
	}
	if strings.Contains(text, "exim") {
		t.Error("a service that is not on this host has series")
	}
	p.Level, p.Dropped.Known = control.Red, false
	if text = string(Text(p)); !strings.Contains(text, "\nmef_protected 0\n") || strings.Contains(text, "mef_dropped") {
		t.Errorf("not protected, and the packet filter cannot be read:\n%s", text)
	}
}

func TestSeriesAreBounded(t *testing.T) {
	text := Text(full(1000))
	n := 0
	for line := range bytes.Lines(text) {
		if line[0] != '#' {
			n++
		}
	}
	if n > MaxSeries {
		t.Errorf("%d series, at most %d", n, MaxSeries)
	}
	sum := 0
	for _, m := range regexp.MustCompile(`mef_service_failures_total\{service="\w+"\} (\d+)`).FindAllSubmatch(text, -1) {
		var one int
		fmt.Sscan(string(m[1]), &one)
		sum += one
	}
	if sum != 999*1000/2 {
		t.Errorf("the services have %d failures, want all of them", sum)
	}
}

const contrib = "../../contrib"

// TestContribNamesMetrics checks that the board and the alert rules name only metrics that there are.
func TestContribNamesMetrics(t *testing.T) {
	known := make(map[string]bool)
	for _, m := range regexp.MustCompile(`# TYPE (\w+)`).FindAllStringSubmatch(string(Text(full(1))), -1) {
		known[m[1]] = true
	}
	board, err := os.ReadFile(filepath.Join(contrib, "grafana", "mef.json"))
	if err != nil {
		t.Fatal(err)
	}
	var parsed struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(board, &parsed); err != nil {
		t.Fatal(err)
	}
	if len(parsed.Panels) < 8 {
		t.Errorf("the board has %d panels", len(parsed.Panels))
	}
	for _, p := range parsed.Panels {
		if len(p.Targets) == 0 || p.Title == "" {
			t.Errorf("panel %q shows nothing", p.Title)
		}
	}
	rules, err := os.ReadFile(filepath.Join(contrib, "prometheus", "mef.rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`\bmef_[a-z_]+`).FindAllString(string(board)+string(rules), -1)
	if len(names) == 0 {
		t.Error("no metric is named")
	}
	for _, name := range names {
		if !known[name] {
			t.Errorf("%s is no metric of ours", name)
		}
	}
}

// TestPromtool has Prometheus's own tool check what we write and ship.
func TestPromtool(t *testing.T) {
	const unpacked = "/usr/local/lib/mef-lab/usr/bin/promtool"
	tool, err := exec.LookPath("promtool")
	if err != nil {
		if tool = unpacked; os.Getenv("CI") == "" {
			if _, err := os.Stat(tool); err != nil {
				t.Skip("no promtool; scripts/deps installs it")
			}
		}
	}
	run := func(dir, stdin string, args ...string) {
		t.Helper()
		cmd := exec.Command(tool, args...)
		cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	run("", string(Text(full(30))), "check", "metrics")
	rules := filepath.Join(contrib, "prometheus")
	run(rules, "", "check", "rules", "mef.rules.yml")
	run(rules, "", "test", "rules", "mef.test.yml")
}
