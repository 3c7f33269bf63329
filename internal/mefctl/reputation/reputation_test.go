package reputation

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"mef/internal/control"
)

// narrow removes what columns are filled up with.
func narrow(text string) string {
	return regexp.MustCompile(`  +`).ReplaceAllString(regexp.MustCompile(`(?m) +$`).ReplaceAllString(text, ""), "  ")
}

func TestShow(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.Local)
	before, later := now.Add(-time.Minute), now.Add(10*time.Minute)
	quota := 7
	var b strings.Builder
	showAnswers(&b, []control.DNSBLAnswer{{List: "own", Zone: "bl.example", Listed: true, Codes: "127.0.0.2", Reason: "\x1b[2J", Action: "40 points"},
		{List: "x", Zone: "x.example"}, {List: "y", Zone: "y.example", Problem: "no answer in time"}})
	showDNSBL(&b, control.DNSBL{Lists: []control.DNSBLList{
		{Name: "own", Zone: "bl.example", Usable: true, Queries: 9, Listed: 2, Failed: 1, LeftOut: 3, Waiting: 4, Servers: []control.DNSBLServer{
			{Server: "192.0.2.53:53", Tested: &before, Cause: "it does not answer public name servers (127.255.255.254)", Retry: &later},
			{Server: "127.0.0.1:53", Usable: true, IPv6: true, Tested: &before}}},
		{Name: "new", Zone: "new.example"}}}, now)
	showDNSBL(&b, control.DNSBL{}, now)
	showReports(&b, []control.Reports{{To: "abuseipdb", Sent: 12, Refused: 1, Repeated: 2, LeftOut: 3, Waiting: 4, Last: &before, Quota: &quota, Problem: "the quota is used up (429)"},
		{To: "blocklist.de", Until: &later}}, now)
	showReports(&b, nil, now)
	showTests(&b, []control.SendTest{{To: "abuseipdb", OK: true, Detail: "it accepts the key"}, {To: "blocklist.de", Detail: "no answer within 20s"}})
	const want = `LIST  ZONE        ANSWER             LEADS TO   REASON
own   bl.example  listed: 127.0.0.2  40 points  "\x1b[2J"
x     x.example   not listed
y     y.example   unknown                       no answer in time
LIST  ZONE         NAME SERVER    STATE                                                                                                   IPV6  TESTED
own   bl.example   192.0.2.53:53  suspended, tested again 2026-01-02 12:10:00: it does not answer public name servers (127.255.255.254)  -     1m ago
own   bl.example   127.0.0.1:53   in use                                                                                                  yes   1m ago
new   new.example  -              not tested yet                                                                                          -     -

own: bl.example, 9 queries since start, 2 addresses listed, 1 without an answer, 3 not asked about, 4 waiting
new: new.example, not tested yet
No block list is asked (rbl_enabled=false).
abuseipdb, 12 reports sent since start, 4 waiting, 1 refused, 2 of the same address left out, 3 left out, 7 left of the quota; the last 1m ago
  problem: the quota is used up (429)
blocklist.de, 0 reports sent since start; the last never
  paused until 2026-01-02 12:10:00, at the request of the service
No reports are sent (report_abuseipdb=false, report_blocklist_de=false).
abuseipdb works: it accepts the key
blocklist.de FAILS: no answer within 20s
`
	if got := narrow(b.String()); got != narrow(want) {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}
