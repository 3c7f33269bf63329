package filter_test

import (
	"bufio"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"mef/internal/event"
	"mef/internal/filter"
)

// The corpora are log lines of other projects' tests with the answer that a detector should give, and adversarial lines. They
// are for measuring and not part of the source: MEF_CORPUS names their directory.

// A record is a line of a corpus, or a whole log.
type record struct {
	ID      string
	Service string
	Line    string
	Prior   []string
	Bare    bool
	Expect  struct {
		Match    bool
		IP, Host string
	}
	Tier      string
	Contested any
	Optional  bool
	AlsoOK    []string `json:"also_ok"`
	Victim    string

	Log       []string
	ExpectIPs []string `json:"expect_ips"`
}

// A score counts what the comparison of a record's answer with ours gave.
type score struct {
	positive, found, wrong    int
	negative, falsePositive   int
	extended, extendedFound   int
	host, hostFound           int
	contested, contestedFound int
	logPositive, logFound     int // addresses of whole logs
	forged                    int // successes that a line reports which only an attacker wrote
}

func TestCorpus(t *testing.T) {
	dir := os.Getenv("MEF_CORPUS")
	if dir == "" {
		t.Skip("MEF_CORPUS is not set: the corpora are not measured")
	}
	set := compile(t, shippedRules(t))
	files, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no corpus in MEF_CORPUS=%s", dir)
	}
	var total, logs score
	services := make(map[string]bool)
	for _, rule := range shippedRules(t) {
		services[rule.Service] = true
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".jsonl"), func(t *testing.T) {
			var s score
			for _, rec := range readCorpus(t, file, services) {
				judge(t, set, rec, &s)
			}
			t.Logf("core: %d of %d found; extended: %d of %d; hosts: %d of %d; false positives: %d of %d, contested: %d of %d",
				s.found, s.positive, s.extendedFound, s.extended, s.hostFound, s.host,
				s.falsePositive, s.negative, s.contestedFound, s.contested)
			if s.wrong > 0 || s.falsePositive > 0 || s.forged > 0 {
				t.Errorf("%d wrong addresses, %d false positives, %d forged successes; want none", s.wrong, s.falsePositive, s.forged)
			}
			if filepath.Base(file) == "injection.jsonl" {
				wantRecall(t, s, 95)
				return
			}
			total.positive += s.positive
			total.found += s.found
			logs.positive += s.logPositive
			logs.found += s.logFound
		})
	}
	wantRecall(t, total, 97)
	wantRecall(t, logs, 50) // most are requests of web scanners, which need the rate of requests
	if total.positive == 0 {
		t.Errorf("no record of our services in %s", dir)
	}
}

func wantRecall(t *testing.T, s score, percent int) {
	t.Helper()
	t.Logf("recall: %d of %d", s.found, s.positive)
	if 100*s.found < percent*s.positive {
		t.Errorf("recall %d of %d, want %d %%", s.found, s.positive, percent)
	}
}

// readCorpus returns the records about the services.
func readCorpus(t *testing.T, file string, services map[string]bool) []record {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var records []record
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var rec record
		if err := json.Unmarshal(lines.Bytes(), &rec); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if services[rec.Service] {
			records = append(records, rec)
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return records
}

// judge feeds a record to a fresh view and counts the answer, as the corpora's own scorer does.
func judge(t *testing.T, set *filter.Set, rec record, s *score) {
	v := set.View(all)
	if rec.Log != nil {
		judgeLog(t, v, rec, s)
		return
	}
	told := false // a line before has reported the attempt
	for _, text := range rec.Prior {
		got, _ := answer(v, text)
		told = told || got != "" && got == normal(rec.Expect.IP)
	}
	got, kind := answer(v, rec.Line)
	if kind == event.Success && told {
		got, kind = normal(rec.Expect.IP), event.Failure
	}
	report := func(what string) { t.Logf("%s: %s: %s | %s", rec.ID, what, got, rec.Line) }
	switch want := normal(rec.Expect.IP); {
	case rec.Expect.Match && want != "":
		if rec.Optional && got == "" {
			return
		}
		if got != "" && got != want && !alsoOK(rec, got) {
			s.wrong++
			report("WRONG, want " + want)
		}
		if rec.Tier == "extended" {
			s.extended++
			if got == want {
				s.extendedFound++
			} else {
				report("missed, extended")
			}
			return
		}
		s.positive++
		if got == want {
			s.found++
		} else {
			report("MISSED, want " + want)
		}
	case rec.Expect.Match:
		s.host++
		if got == rec.Expect.Host {
			s.hostFound++
		} else {
			report("missed host " + rec.Expect.Host)
		}
		if rec.Victim != "" && got == normal(rec.Victim) {
			s.wrong++
			report("WRONG")
		}
	case rec.Contested != nil:
		s.contested++
		if got != "" {
			s.contestedFound++
		}
	default:
		hit := got != "" && !alsoOK(rec, got)
		if rec.Tier == "extended" {
			// What an aggressive mode leaves to another line of the session, others report.
			if hit {
				report("false positive, extended")
			}
			return
		}
		s.negative++
		if hit {
			s.falsePositive++
			report("FALSE POSITIVE")
		}
	}
	if kind == event.Success && rec.Expect.Match {
		s.forged++
		report("FORGED SUCCESS")
	}
}

func judgeLog(t *testing.T, v *filter.View, rec record, s *score) {
	reported := make(map[string]bool)
	for _, text := range rec.Log {
		got, _ := answer(v, text)
		reported[got] = true
	}
	for _, ip := range rec.ExpectIPs {
		if strings.HasSuffix(rec.ID, "-impossible-travel") {
			continue // about logins that succeeded
		}
		s.logPositive++
		if reported[normal(ip)] {
			s.logFound++
		} else {
			t.Logf("%s: MISSED %s", rec.ID, ip)
		}
	}
}

// answer returns the address or host that a line reports as hostile.
func answer(v *filter.View, text string) (reported string, kind event.Kind) {
	var m filter.Match
	if !v.Match(line(text), &m) {
		return "", 0
	}
	switch {
	case m.Kind == event.Success:
		return "", m.Kind
	case m.Addr.IsValid():
		return m.Addr.String(), m.Kind
	}
	return string(m.Host), m.Kind
}

func alsoOK(rec record, got string) bool {
	return slices.ContainsFunc(rec.AlsoOK, func(ip string) bool { return normal(ip) == got })
}

var leadingZeros = regexp.MustCompile(`\b0+(\d)`)

// normal returns an address as netip writes it.
func normal(ip string) string {
	ip, _, _ = strings.Cut(ip, "%")
	if !strings.Contains(ip, ":") {
		ip = leadingZeros.ReplaceAllString(ip, "$1")
	}
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return ip
	}
	return addr.Unmap().String()
}
