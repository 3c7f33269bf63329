package filter_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
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
	excused                   int // positive and not found, for a reason in excused
}

// A scorecard has a score for each service.
type scorecard map[string]*score

func (c scorecard) of(service string) *score {
	if c[service] == nil {
		c[service] = new(score)
	}
	return c[service]
}

// sum adds up the scores.
func (c scorecard) sum() (total score) {
	for _, s := range c {
		total.positive += s.positive
		total.found += s.found
		total.wrong += s.wrong
		total.negative += s.negative
		total.falsePositive += s.falsePositive
		total.extended += s.extended
		total.extendedFound += s.extendedFound
		total.host += s.host
		total.hostFound += s.hostFound
		total.contested += s.contested
		total.contestedFound += s.contestedFound
		total.logPositive += s.logPositive
		total.logFound += s.logFound
		total.forged += s.forged
		total.excused += s.excused
	}
	return total
}

// corpusNames are services that have another name in the corpora.
var corpusNames = map[string]string{
	"modsecurity": "apache", "nginx-mail": "nginx", "proxmox-backup-auth": "proxmox", "smb": "samba", "softethervpn": "softether", "mailcow-f2b-bans": "mailcow",
}

// excused are lines that no rule is to find, and why.
var excused = map[string]string{
	"f2b:apache-fakegooglebot:7":   "it is about the name that the agent gives itself",
	"f2b:exim-spam:25":             "spam is no attempt to log in, and the sender's text stands in front of the address",
	"f2b:freeswitch:4":             "a challenge is no failure",
	"f2b:mongodb-auth:9":           "clients write whole lines into the text log of old versions",
	"f2b:mongodb-auth:14":          "clients write whole lines into the text log of old versions",
	"f2b:pam-generic:21":           "no rule is about a program of that name",
	"f2b:pam-generic:23":           "a name with a blank can go on with an address of its own",
	"f2b:sogo-auth:33":             "the first address of X-Forwarded-For is the client's word",
	"hub:apache-guacamole-logs:2":  "the first address of X-Forwarded-For is the client's word",
	"hub:apache-guacamole-logs:3":  "the first address of X-Forwarded-For is the client's word",
	"hub:modsecurity-logs-nginx:1": "the request's text stands in front of the address",
	"hub:modsecurity-logs-nginx:2": "the request's text stands in front of the address",
	"hub:modsecurity-logs-nginx:3": "the request's text stands in front of the address",
	"f2b:sendmail-reject:93":       "its recipients were refused one by one before, in lines of their own",
	"ossec:postfix:2":              "the answer asks a mail server to come again",
	"sshg:282":                     "no daemon writes this line",
	"sshg:351":                     "greylisting asks a mail server to come again",
}

// complete are the services of which every line that can be found is.
var complete = []string{"sshd", "postfix", "dovecot", "exim", "proftpd", "vsftpd", "pure-ftpd"}

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
	total, services := make(scorecard), make(map[string]string)
	for _, rule := range shippedRules(t) {
		services[rule.Service] = rule.Service
	}
	maps.Copy(services, corpusNames)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".jsonl"), func(t *testing.T) {
			card := total
			if filepath.Base(file) == "injection.jsonl" {
				card = make(scorecard)
				defer func() { wantRecall(t, card.sum(), 95) }()
			}
			for _, rec := range readCorpus(t, file) {
				if service, ok := services[rec.Service]; ok {
					judge(t, set, rec, card.of(service))
				}
			}
			s := card.sum()
			if s.wrong > 0 || s.falsePositive > 0 || s.forged > 0 {
				t.Errorf("%d wrong addresses, %d false positives, %d forged successes so far; want none", s.wrong, s.falsePositive, s.forged)
			}
		})
	}
	sum := total.sum()
	if sum.positive == 0 {
		t.Errorf("no record of our services in %s", dir)
	}
	wantRecall(t, sum, 97)
	wantRecall(t, score{positive: sum.logPositive, found: sum.logFound}, 50) // most are requests of web scanners, which need the rate of requests
	for _, service := range complete {
		s := total.of(service)
		s.positive -= s.excused
		wantRecall(t, *s, 100)
		s.positive += s.excused
	}
	t.Logf("\n%s", corpusTable(total))
	if *update {
		writeCorpusTable(t, corpusTable(total))
	}
}

// corpusTable returns what of each service was found, as bench/RESULTS.md has it.
func corpusTable(card scorecard) string {
	var b strings.Builder
	b.WriteString("| service | lines | found | with a reason not found | hosts | false positives | wrong |\n|---|---|---|---|---|---|---|\n")
	row := func(name string, s score) {
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %d of %d | %d of %d | %d |\n", name, s.positive, s.found, s.excused, s.hostFound, s.host, s.falsePositive, s.negative, s.wrong)
	}
	for _, service := range slices.Sorted(maps.Keys(card)) {
		if s := *card[service]; s.positive+s.negative+s.host > 0 {
			row(service, s)
		}
	}
	row("**all**", card.sum())
	return b.String()
}

// writeCorpusTable puts the table between its marks in bench/RESULTS.md.
func writeCorpusTable(t *testing.T, table string) {
	t.Helper()
	const file, begin, end = "../../bench/RESULTS.md", "<!-- Written by `go test ./internal/filter -run Corpus -update`. -->\n", "<!-- End of the corpora. -->\n"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(text), begin)
	_, tail, ended := strings.Cut(rest, end)
	if !ok || !ended {
		t.Fatalf("%s has no place for the table", file)
	}
	if err := os.WriteFile(file, []byte(head+begin+table+end+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}

func wantRecall(t *testing.T, s score, percent int) {
	t.Helper()
	t.Logf("recall: %d of %d", s.found, s.positive)
	if 100*s.found < percent*s.positive {
		t.Errorf("recall %d of %d, want %d %%", s.found, s.positive, percent)
	}
}

// readCorpus returns the records of a file.
func readCorpus(t *testing.T, file string) []record {
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
		records = append(records, rec)
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
		switch {
		case got == want:
			s.found++
		case excused[rec.ID] != "":
			s.excused++
		default:
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
