//go:build integration && !cgo

package page_test

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"mef/internal/control"
	"mef/internal/netnstest/browsertest"
)

var update = flag.Bool("update", false, "write the pictures of docs/page.md")

// chromium starts a browser that ends with the test, and counts the dialogs that scripts open in it.
func chromium(t *testing.T) (ctx context.Context, dialogs *atomic.Int32) {
	t.Helper()
	ctx, cancel := browsertest.Chromium(t, nil, 2*time.Minute)
	dialogs = new(atomic.Int32)
	if err := chromedp.Listen(ctx, func(ev any) {
		if _, ok := ev.(*page.EventJavascriptDialogOpening); ok {
			dialogs.Add(1)
			cancel() // nothing goes on until it is closed
		}
	}); err != nil {
		t.Fatal(err)
	}
	return ctx, dialogs
}

// hostile is text as attackers choose it: markup that runs a script, escapes of a terminal, text from right to left, and very much of it.
var hostile = `<script>alert(1)</script><img src=x onerror=alert(2)><svg onload=alert(3)>"'></td></table><style>*{display:none}</style>` +
	"\x1b[31m\x07\u202eevil\u2066\u0000" + `<a href="javascript:alert(4)">` + strings.Repeat("W", 10000)

// attacked is a daemon whose every text is text.
func attacked(text string) *daemon {
	now := time.Now().Add(-90 * time.Minute)
	until := time.Now().Add(3 * time.Hour)
	packets := uint64(48211)
	ban := control.Ban{Prefix: "203.0.113.7", Ports: "22", Rule: "sshd", Start: now, Until: &until, Reason: text, Evidence: []string{text, text}, Author: text, Note: text, Packets: &packets}
	d := &daemon{
		why: control.Why{Banned: true, Verdict: text, Allowed: text, Score: 91.5, Limit: 100, Bans: []control.Ban{ban}, Arithmetic: []string{text},
			Rules: []control.RuleWhy{{Rule: text, Attempts: 4, MaxRetry: 5, FindTime: "10m"}}, Known: []string{text}, History: []control.Ban{ban}, Evidence: []string{text},
			Prefix: []control.Neighbor{{Prefix: text, Score: 3}, {Prefix: "203.0.113.9", Score: 40, Banned: true}}, Requests: []string{text}, Scans: []string{text}, Listings: []string{text}, Lists: []string{text}, Foreign: []string{text}},
		status:  control.Status{Rules: []control.Rule{{Name: text, Service: text, Enabled: true, Live: text, Ports: text, Failures: 1234567}}},
		listens: []control.ListeningService{{Name: text, Protocol: "tcp", Ports: []uint16{22, 2222}, Rules: []string{text}}, {Name: text, Protocol: "tcp", Ports: []uint16{8080}, Help: text}},
		picture: control.Picture{Now: time.Now(), Since: now, Level: control.Yellow, Text: text, Missing: []string{text}, Warnings: []string{text}, Alarms: []string{text}, Attacks: []string{text},
			Attackers: []control.Attacker{{Addr: "203.0.113.7", Score: 140, Limit: 100, Banned: true, Until: &until, Rule: text, Service: text, Attempts: 77, Last: now}, {Addr: text, Rule: text, Last: now}},
			Counters:  control.Counters{Mode: "enforce", Attempts: 18446744073709551615, Services: []control.ServiceCounter{{Name: text, State: text, Failures: 18446744073709551615}}}},
	}
	counted := []uint64{0, 3, 18446744073709551615, 7}
	d.history = control.History{Start: now, Step: time.Minute, Problem: text, Series: []control.Series{{Kind: control.KindAttempts, Of: control.OfService, Label: text, Values: counted},
		{Kind: control.KindTargeted, Of: control.OfFamily, Label: "ipv4", Values: counted}, {Kind: control.KindDrops, Of: control.OfCause, Label: "ban", Values: counted}}}
	d.stats = control.Stats{By: "names", Since: now, Problem: text, Rows: []control.StatRow{{Label: text, Attempts: 18446744073709551615, First: now, Last: now}, {Label: "203.0.113.7", Bans: 3, First: now, Last: now}, {Label: "fe80::1%" + text, First: now, Last: now}}}
	d.alarms = []control.Alarm{{ID: 1, Time: now, Addr: text, User: text, Service: text, Reason: text, Evidence: []string{text, text}}}
	d.past = []control.PastBan{{Time: now, Event: "ban", Prefix: "203.0.113.7/32", Ports: text, Rule: text, Reason: text, Author: text, Note: text}, {Time: now, Event: "unban", Prefix: text}}
	return d
}

// layout is what is wrong with the layout of a page, found in the browser: what is wider than the window, and does not scroll in itself; and
// what of the text is not printable.
const layout = `(() => {
	const wrong = [], width = document.documentElement.clientWidth;
	if (document.documentElement.scrollWidth > width) wrong.push("the page is " + document.documentElement.scrollWidth + " wide, the window " + width);
	for (const e of document.querySelectorAll("body *")) {
		const r = e.getBoundingClientRect();
		if (!e.closest(".wide, svg") && (r.right > width + 1 || r.left < -1)) wrong.push(e.tagName + " from " + r.left + " to " + r.right);
		if (e.childElementCount === 0 && r.height > 1200) wrong.push(e.tagName + " is " + r.height + " high");
	}
	if (document.querySelector("script, img, iframe, object, a[href^='javascript']")) wrong.push("markup of an attacker");
	const odd = document.body.innerText.match(/[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]/);
	if (odd) wrong.push("not printable: " + odd[0].charCodeAt(0));
	if (!document.querySelector("main") || document.querySelector("main").getBoundingClientRect().height < 50) wrong.push("nothing is shown");
	return wrong.join("; ");
})()`

// TestBrowser logs in with a real browser, looks at each view and does everything that can be done, with hostile text everywhere.
func TestBrowser(t *testing.T) {
	ctx, dialogs := chromium(t)
	address := freeAddress(t)
	d := attacked(hostile)
	start(t, settings(t, address), d)
	base := "http://" + address
	run := func(what string, actions ...chromedp.Action[chromedp.Void]) {
		t.Helper()
		if err := chromedp.Do(ctx, actions...); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	run("login", chromedp.Navigate(base), chromedp.WaitVisible(`input[name=password]`), chromedp.SendKeys(`input[name=name]`, "operator"),
		chromedp.SendKeys(`input[name=password]`, secret), chromedp.Submit(`.login`), chromedp.WaitVisible(`.state`))
	for _, width := range []int64{360, 1280} {
		for _, path := range []string{"/", "/?pause=1&filter=203.0.113.7", "/alarms", "/services", "/why?addr=203.0.113.7", "/why?addr=nonsense", "/history", "/history?window=year", "/stats?by=names&window=day", "/stats?by=nonsense", "/past?q=203.0.113.7"} {
			run(path, chromedp.EmulateViewport(width, 800), chromedp.Navigate(base+path))
			wrong, err := chromedp.Run(ctx, chromedp.Evaluate[string](layout))
			if err != nil {
				t.Fatal(err)
			}
			if wrong != "" {
				t.Errorf("%s at a width of %d: %.600s", path, width, wrong)
			}
		}
	}
	run("an address is a link to its page", chromedp.Navigate(base), chromedp.Click(`a[href="/why?addr=203.0.113.7"]`), chromedp.WaitVisible(`.actions`))
	for action, want := range map[string]string{
		"/unban":    "unban 203.0.113.7 covering=true by page:operator: asked by phone",
		"/allow":    "allow 203.0.113.7 for 1h0m0s by page:operator: asked by phone",
		"/ban":      "ban 203.0.113.7 for 1h0m0s by page:operator: asked by phone",
		"/disallow": "disallow 203.0.113.7 by page:operator",
	} {
		form := `form[action="` + action + `"]`
		do := []chromedp.Action[chromedp.Void]{chromedp.Navigate(base + "/why?addr=203.0.113.7"), chromedp.WaitVisible(form)}
		if action != "/disallow" {
			do = append(do, chromedp.SendKeys(form+` input[name=note]`, "asked by phone"))
		}
		if action == "/ban" || action == "/allow" {
			do = append(do, chromedp.SendKeys(form+` input[name=for]`, "1h"))
		}
		run(action, append(do, chromedp.Click(form+` button`), chromedp.WaitVisible(`.done`))...)
		if got := d.last(); got != want {
			t.Errorf("%s: done %q, want %q", action, got, want)
		}
	}
	run("an alarm", chromedp.Click(`a[href="/alarms"]`), chromedp.Click(`form[action="/ack"] button`), chromedp.WaitVisible(`.done`))
	if got, want := d.last(), "acknowledge [1] by page:operator"; got != want {
		t.Errorf("done %q, want %q", got, want)
	}
	run("log out", chromedp.Click(`form[action="/logout"] button`), chromedp.WaitVisible(`.login`))
	if n := dialogs.Load(); n > 0 {
		t.Errorf("scripts of attackers opened %d dialogs", n)
	}
}

// TestPictures writes the pictures of docs/page.md, and fails if one is missing.
func TestPictures(t *testing.T) {
	const dir = "../../docs/images"
	pictures := map[string]struct {
		path  string
		width int64
	}{"page-overview.png": {"/", 1000}, "page-why.png": {"/why?addr=203.0.113.7", 1000}, "page-phone.png": {"/", 360}}
	if !*update {
		for name := range pictures {
			if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() > 150<<10 {
				t.Errorf("%s: %v, %v; run this test with -update", name, info, err)
			}
		}
		return
	}
	ctx, _ := chromium(t)
	address := freeAddress(t)
	start(t, settings(t, address), shown())
	if err := chromedp.Do(ctx, chromedp.Navigate("http://"+address), chromedp.SendKeys(`input[name=name]`, "operator"),
		chromedp.SendKeys(`input[name=password]`, secret), chromedp.Submit(`.login`), chromedp.WaitVisible(`.state`)); err != nil {
		t.Fatal(err)
	}
	for name, p := range pictures {
		if err := chromedp.Do(ctx, chromedp.EmulateViewport(p.width, 760), chromedp.Navigate("http://"+address+p.path)); err != nil {
			t.Fatal(err)
		}
		png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), png, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// shown is a daemon of a host under an ordinary attack.
func shown() *daemon {
	now := time.Now()
	until := now.Add(3*time.Hour + 12*time.Minute)
	packets := uint64(48211)
	line := `sshd[4711]: Failed password for invalid user admin from 203.0.113.7 port 51514 ssh2`
	d := &daemon{
		why: control.Why{Banned: true, Verdict: "banned on port 22 by rule sshd for 4h: 5 failures within 10m", Score: 62, Limit: 100,
			Bans:  []control.Ban{{Prefix: "203.0.113.7", Ports: "22", Rule: "sshd", Start: now.Add(-48 * time.Minute), Until: &until, Reason: "5 failures within 10m", Evidence: []string{line}, Packets: &packets}},
			Rules: []control.RuleWhy{{Rule: "sshd", Attempts: 5, MaxRetry: 5, FindTime: "10m"}}, Arithmetic: []string{"5 failures of names that do not exist: 50 points", "2 names that other networks try too: 12 points"},
			Evidence: []string{line}},
		picture: control.Picture{Now: now, Since: now.Add(-51 * time.Hour), Level: control.Green, Text: "protected",
			Counters: control.Counters{Mode: "enforce", Attempts: 20917, Bans: control.Tally{Total: 412, Ever: 1893}, Dropped: control.Drops{Known: true, Total: 1288034},
				Services: []control.ServiceCounter{{Name: "sshd", State: "journal", Failures: 18442, Logins: 31, Bans: 1604, Sources: 212}, {Name: "dovecot", State: "journal", Failures: 2475, Logins: 904, Bans: 289, Sources: 40}}}},
	}
	for i := range 60 {
		d.picture.Seconds = append(d.picture.Seconds, control.Second{Attempts: uint64(i*i%7 + i%3), Drops: uint64(40 + i*37%29)})
	}
	for i, addr := range []string{"203.0.113.7", "198.51.100.23", "2001:db8:5::1", "192.0.2.201"} {
		d.picture.Attackers = append(d.picture.Attackers, control.Attacker{Addr: addr, Score: 140 - 31*float64(i), Limit: 100, Banned: i < 3, Until: &until, Rule: "sshd", Attempts: uint64(77 - 20*i), Last: now.Add(-time.Duration(i*40+3) * time.Second)})
	}
	return d
}
