//go:build integration && !cgo

package blocked_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"mef/internal/ban"
	"mef/internal/control"
	"mef/internal/enforce"
	"mef/internal/enforce/nftset"
	"mef/internal/netnstest"
	"mef/internal/netnstest/browsertest"
	"mef/internal/page/blocked"
	"mef/internal/pipeline/wayout"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// A guarded is a web server with bans in the kernel, and a daemon that lifts them by a sum or a code.
type guarded struct {
	t      *testing.T
	filter *nftset.Backend
	ways   *wayout.Ways

	mu   sync.Mutex
	bans map[netip.Addr]ban.Key
}

var once = wayout.Limits{Each: 1, Total: 10}

// ban bans an address on some ports, or on all, in place of the ban before.
func (g *guarded) ban(addr netip.Addr, ports ban.Ports) {
	g.t.Helper()
	k := ban.Key{Prefix: netip.PrefixFrom(addr, addr.BitLen()), Ports: ports}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.bans[addr] = k
	if _, err := g.filter.Apply(context.Background(), enforce.Changes{Bans: []enforce.Change{{Key: k, Timeout: enforce.Permanent}}}); err != nil {
		g.t.Error(err)
	}
}

func (g *guarded) Blocked(_ context.Context, addr netip.Addr) (control.Blocked, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	k, ok := g.bans[addr]
	if !ok {
		return control.Blocked{}, control.Refuse("not banned")
	}
	b := control.Blocked{Addr: addr.String(), Since: time.Now(), Ports: string(k.Ports), Service: "nginx", Reference: "MEF-ABCDEFGH"}
	if sum, ok := g.ways.Ask(addr, once, time.Now()); ok {
		b.Sum, b.Token = sum.Question, sum.Token
	}
	return b, nil
}

func (g *guarded) Free(_ context.Context, req control.FreeRequest) error {
	var err error
	if req.Token != "" {
		err = g.ways.Solve(req.Addr, req.Token, req.Answer, once, time.Now())
	} else {
		_, err = g.ways.UseCode(req.Addr, req.Code, time.Now())
	}
	if err != nil {
		return control.Refuse("%v", err)
	}
	time.AfterFunc(100*time.Millisecond, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		k := g.bans[req.Addr]
		delete(g.bans, req.Addr)
		if _, err := g.filter.Apply(context.Background(), enforce.Changes{Bans: []enforce.Change{{Key: k, Remove: true}}}); err != nil {
			g.t.Error(err)
		}
	})
	return nil
}

// listen serves at a port of a host until the test ends.
func listen(t *testing.T, host *netnstest.NS, port string, h http.Handler) {
	t.Helper()
	l := netnstest.In(t, host, func() (net.Listener, error) { return new(net.ListenConfig).Listen(context.Background(), "tcp", port) })
	server := &http.Server{Handler: h}
	t.Cleanup(func() { server.Close() })
	go func() { _ = server.Serve(l) }()
}

// A browser whose address is banned on the ports of the web server sees the page and frees itself; one that is banned on all ports sees nothing.
func TestBrowser(t *testing.T) {
	server, customer := netnstest.New(t), netnstest.New(t)
	netnstest.Join(t, server, customer, "192.0.2.1/24 2001:db8:1::1/64", "192.0.2.7/24 2001:db8:1::7/64")
	filter, err := nftset.NewIn(server.Fd(), slog.New(slog.NewTextHandler(t.Output(), nil)), enforce.Settings{Page: enforce.Page{HTTP: 8480}})
	if err != nil {
		t.Fatal(err)
	}
	defer filter.Close()
	if _, err := filter.Rebuild(t.Context(), enforce.Changes{}); err != nil {
		t.Fatal(err)
	}
	g := &guarded{t: t, filter: filter, ways: wayout.New(func(string) {}), bans: make(map[netip.Addr]ban.Key)}
	listen(t, server, ":80", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "<h1>Welcome to the shop</h1>")
	}))
	listen(t, server, ":8480", blocked.Handler(g, "support@example.net"))
	browser, _ := browsertest.Chromium(t, customer, 3*time.Minute)
	run := func(what string, steps ...chromedp.Action[chromedp.Void]) {
		t.Helper()
		if err := chromedp.Do(browser, steps...); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	text := func() string {
		t.Helper()
		text, err := chromedp.Run(browser, chromedp.Evaluate[string](`document.body ? document.body.innerText : ""`))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	for addr, to := range map[string]string{"192.0.2.7": "192.0.2.1", "2001:db8:1::7": "[2001:db8:1::1]"} {
		from := netip.MustParseAddr(addr)
		site := "http://" + to + "/cart?of=alice"
		g.ban(from, "80,443")
		run("the site", chromedp.Navigate(site), chromedp.WaitVisible(`input[name=answer]`))
		if shown := text(); !strings.Contains(shown, "Your address is blocked") || !strings.Contains(shown, addr) || strings.Contains(shown, "alice") || strings.Contains(shown, "shop") {
			t.Errorf("%s sees\n%s", addr, shown)
		}
		if err := chromedp.Do(browser, chromedp.Navigate("https://"+to+"/")); err == nil || !strings.Contains(err.Error(), "ERR_CONNECTION_RE") { // FUSED or SET
			t.Errorf("https of %s: %v", to, err)
		}
		code, _, err := g.ways.MakeCode(from, "support", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		field, answer := `input[name=answer]`, solution // by a sum over IPv4, by a code over IPv6
		if from.Is6() {
			field, answer = `input[name=code]`, func(string) string { return strings.ToLower(code) }
		}
		shows := func(what string) (shown string) {
			t.Helper()
			wait(t, what, func() bool { shown = text(); return strings.Contains(shown, what) })
			return shown
		}
		run("the site again", chromedp.Navigate(site))
		run("a wrong answer", chromedp.SendKeys(field, "1"), chromedp.Submit(field))
		shown := shows(" is wrong")
		run("the right answer", chromedp.SendKeys(field, answer(shown)), chromedp.Submit(field))
		shows("no longer blocked")
		wait(t, "the end of the ban", func() bool {
			g.mu.Lock()
			defer g.mu.Unlock()
			return len(g.bans) == 0
		})
		run("the site after the ban", chromedp.Navigate(site))
		if shown := text(); !strings.Contains(shown, "Welcome to the shop") {
			t.Errorf("%s sees after the ban\n%s", addr, shown)
		}
	}
	g.ban(netip.MustParseAddr("192.0.2.7"), "80,443")
	g.ban(netip.MustParseAddr("192.0.2.7"), "") // both hold in the kernel
	ctx, cancel := context.WithTimeout(browser, 700*time.Millisecond)
	defer cancel()
	if err := chromedp.Do(ctx, chromedp.Navigate("http://192.0.2.1/other")); err == nil {
		t.Errorf("a client that is banned on all ports sees\n%s", text())
	}
}

// solution returns the answer to the sum on a page.
func solution(page string) string {
	_, sum, _ := strings.Cut(page, "How much is ")
	var a, b int
	_, _ = fmt.Sscanf(sum, "%d + %d", &a, &b) // 0 is wrong
	return strconv.Itoa(a + b)
}

func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}
