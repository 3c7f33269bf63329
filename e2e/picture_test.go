//go:build integration

package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"mef/internal/control"
	"mef/internal/lab"
)

// TestNumbersAgree compares what viewers are shown with the counters of the kernel and with mefctl status, also after the daemon was killed.
func TestNumbersAgree(t *testing.T) {
	const config = "[global]\npage=" + pageSocket + "\npage_groups=root:operator\n"
	s := begin(t, config, nil)
	const first, second = "203.0.113.61", "203.0.113.62"
	s.fail(ssh, "root", repeat(first, 5)...)
	s.banned(first)
	s.silent(lab.SSHPort, first)
	s.until("the numbers to agree", s.numbersAgree)
	before := s.counters()["drops_ban"]
	s.stop(os.Kill)
	s.silent(lab.SSHPort, first)
	s.start(config)
	s.banned(first)
	s.fail(imap, "carol", repeat(second, 5)...)
	s.banned(second)
	s.until("the numbers to agree after a restart", s.numbersAgree)
	if after := s.counters()["drops_ban"]; after <= before {
		t.Errorf("%d packets were dropped, and %d before the daemon was killed", after, before)
	}
	var stats struct{ Tables []control.Stats }
	s.answer(&stats, "stats", "sources", "--window", "hour")
	bans := map[string]uint64{}
	for _, row := range stats.Tables[0].Rows {
		bans[row.Label] = row.Bans
		if row.Label == first && row.Drops == 0 {
			t.Errorf("no packets from %s were dropped: %+v", first, stats.Tables[0].Rows)
		}
	}
	if bans[second] != 1 {
		t.Errorf("stats of sources: %+v; want a ban of %s", stats.Tables[0].Rows, second)
	}
}

// answer has mefctl print JSON.
func (s *scene) answer(v any, args ...string) {
	s.Helper()
	if out := s.mefctl(append(args, "--json")...); json.Unmarshal([]byte(out), v) != nil {
		s.Fatalf("mefctl %s: %s", strings.Join(args, " "), out)
	}
}

var counterForm = regexp.MustCompile(`counter (\w+) \{[^}]*packets (\d+)`)

// counters returns the packets of the named counters of nft.
func (s *scene) counters() map[string]uint64 {
	found := map[string]uint64{}
	for _, m := range counterForm.FindAllStringSubmatch(s.nft("list counters table inet mefdaemon"), -1) {
		found[m[1]], _ = strconv.ParseUint(m[2], 10, 64)
	}
	return found
}

// numbersAgree reports in what the picture, the metrics, the statistics, mefctl status, and nft differ.
func (s *scene) numbersAgree() error {
	kernel := s.counters()
	var p control.Picture
	s.answer(&p, "metrics")
	text := s.mefctl("metrics")
	status := s.status()
	page, err := pageFacts(s.ctx)
	if err != nil {
		return err
	}
	var stats struct{ Tables []control.Stats }
	s.answer(&stats, "stats", "services", "--window", "hour")
	if now := s.counters(); fmt.Sprint(now) != fmt.Sprint(kernel) {
		return fmt.Errorf("packets still come: %v, then %v", kernel, now)
	}
	want := control.Drops{Known: true, Verified: kernel["drops_ban"], Unverified: kernel["drops_susp"], Replies: kernel["replies"]}
	want.Total = want.Verified + want.Unverified + want.Replies
	var failures, bans uint64
	for _, r := range status.Rules {
		failures += r.Failures
		bans += r.Bans
	}
	level, _ := status.Level()
	var counted, drops uint64
	for _, row := range stats.Tables[0].Rows {
		counted += row.Attempts
		drops += row.Drops
	}
	var services uint64
	for _, one := range p.Services {
		services += one.Failures
	}
	switch {
	case p.Dropped != want || want.Verified == 0:
		return fmt.Errorf("drops %+v, nft has %+v", p.Dropped, want)
	case p.Bans != status.Bans || p.Attempts != failures || services != failures || p.AlarmCount != status.AlarmCount || p.Mode != status.Mode || p.Level != level:
		return fmt.Errorf("picture %+v; status: %d failures, %+v, level %s", p, failures, status.Bans, level)
	case drops != want.Total:
		return fmt.Errorf("statistics have %d dropped packets, nft has %d: %+v", drops, want.Total, stats.Tables[0].Rows)
	case counted < failures: // and those of before a restart
		return fmt.Errorf("statistics have %d attempts, status %d", counted, failures)
	}
	for name, want := range map[string]uint64{"Attempts since the start": failures, "Bans in force": uint64(status.Bans.Total), "Bans since the start": status.Bans.Ever,
		"Packets dropped": want.Total, "Alarms": uint64(status.AlarmCount)} {
		if got, ok := page[name]; !ok || got != want {
			return fmt.Errorf("the page has %v, %s should be %d", page, name, want)
		}
	}
	for _, line := range []string{
		fmt.Sprintf(`mef_dropped_packets_total{by="ban"} %d`, want.Verified), fmt.Sprintf(`mef_dropped_packets_total{by="reply"} %d`, want.Replies),
		fmt.Sprintf("mef_attempts_total %d", failures), fmt.Sprintf("mef_bans_total %d", status.Bans.Ever), fmt.Sprintf(`mef_bans{family="ipv4"} %d`, status.Bans.IPv4),
	} {
		if !strings.Contains(text, "\n"+line+"\n") {
			return fmt.Errorf("metrics have no %s:\n%s", line, text)
		}
	}
	return nil
}

const pageSocket = "/run/mef/page.sock"

var factForm = regexp.MustCompile(`<dt>([^<]+)</dt><dd>(?:<a [^>]*>)?([0-9\x{202f}]+)<`)

// pageFacts returns the numbers of the operator's page by their names. root, as which the tests run, needs no password at the socket.
func pageFacts(ctx context.Context) (map[string]uint64, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", pageSocket)
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/", nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	facts := map[string]uint64{}
	for _, m := range factForm.FindAllSubmatch(body, -1) {
		if facts[string(m[1])], err = strconv.ParseUint(strings.ReplaceAll(string(m[2]), "\u202f", ""), 10, 64); err != nil {
			return nil, err
		}
	}
	if len(facts) == 0 {
		return nil, fmt.Errorf("the page has no numbers: %s\n%s", resp.Status, body)
	}
	return facts, nil
}
