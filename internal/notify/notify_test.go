package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mef/internal/conf"
	"mef/internal/control"
)

var all = [...]bool{true, true, true, true}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// A far is an endpoint in the place of one that sends: it keeps what is sent, or fails.
type far struct {
	mu  sync.Mutex
	got []*message
	out outcome
}

func (f *far) send(_ context.Context, m *message) outcome {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.out.err == nil {
		f.got = append(f.got, m)
	}
	return f.out
}

func (f *far) fail(out outcome) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.out = out
}

func (f *far) messages() []*message {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.got
}

// start returns a Notifier with one endpoint, at work inside a synctest bubble.
func start(t *testing.T, cfg conf.Notify, f *far) *Notifier {
	t.Helper()
	cfg.Name, cfg.Enabled, cfg.URL, cfg.Format = "ops", true, "https://example.org/", "json"
	n := New([]conf.Notify{cfg}, quiet())
	n.host = "mail1"
	n.endpoints[0].host, n.endpoints[0].send = "mail1", f.send
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = n.Run(ctx, func(context.Context) (control.Status, error) { return control.Status{}, errors.New("none") }, nil)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return n
}

func rec(event string, change func(*control.Record)) control.Record {
	r := control.Record{Time: time.Now(), Event: event, Rule: "sshd", Evidence: []string{"a line"}}
	if change != nil {
		change(&r)
	}
	return r
}

func banOf(addr string) control.Record {
	return rec("ban", func(r *control.Record) {
		until := r.Time.Add(time.Hour)
		r.Prefix, r.Ports, r.Until, r.Reason = addr+"/32", "22", &until, "5 failures in 10m"
	})
}

func TestAlarmsAreSentAtOnceAndBansTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := new(far)
		n := start(t, conf.Notify{Events: all, Digest: time.Hour, Limit: 30}, f)
		for i := range 30 {
			_ = n.Write([]control.Record{banOf(fmt.Sprintf("203.0.113.%d", i))})
		}
		_ = n.Write([]control.Record{rec("ban", func(r *control.Record) { r.Rule = "manual" }), rec("ban", func(r *control.Record) { r.Rule = "fleet" }), rec("failure", nil),
			rec("login-alarm", func(r *control.Record) {
				r.User, r.Addr, r.Reason = "alice\x1b[2J", "198.51.100.7", "it had failed 12 times"
			}),
			rec("attack", func(r *control.Record) { r.Reason = "200 sources fail at sshd, where 3 are usual" })})
		time.Sleep(gather - time.Millisecond)
		synctest.Wait()
		if got := f.messages(); len(got) != 0 {
			t.Fatalf("sent before what belongs together has arrived: %+v", got[0])
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		got := f.messages()
		if len(got) != 1 {
			t.Fatalf("%d messages, want one", len(got))
		}
		m := got[0]
		if m.Level != alarm || m.Title != "mef on mail1: login alarm: a login from 198.51.100.7; 1 more event" || len(m.Events) != 2 || m.Events[0].Evidence != nil {
			t.Errorf("message %+v", m)
		}
		for _, want := range []string{`login alarm: 198.51.100.7 has logged in as "alice\x1b[2J" (sshd): it had failed 12 times`, "an attack has begun: 200 sources fail"} {
			if !strings.Contains(m.Text, want) {
				t.Errorf("%q is not in %q", want, m.Text)
			}
		}

		time.Sleep(time.Hour)
		synctest.Wait()
		if got = f.messages(); len(got) != 2 {
			t.Fatalf("%d messages after an hour, want the digest too", len(got))
		}
		m = got[1]
		if m.Level != info || m.Title != "mef on mail1: 30 new bans" || len(m.Events) != maxSample ||
			!strings.Contains(m.Text, "sshd 30") || !strings.Contains(m.Text, "ban of 203.0.113.0/32 at ports 22 until ") || !strings.Contains(m.Text, "10 more: see mefctl bans list") {
			t.Errorf("digest %+v", m)
		}
	})
}

func TestOnlyWhatIsAskedForIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := new(far)
		n := start(t, conf.Notify{Events: [4]bool{conf.NotifyStatus: true}, Digest: time.Hour, Limit: 30}, f)
		_ = n.Write([]control.Record{banOf("203.0.113.1"), rec("login-alarm", nil), rec("attack", nil),
			rec(control.StatusChanged, func(r *control.Record) { r.Rule, r.Level, r.Reason = "", control.Red, "no rule has a live source" })})
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		got := f.messages()
		if len(got) != 1 || got[0].Title != "mef on mail1: this host is not protected" || got[0].Level != alarm || !strings.HasSuffix(got[0].Text, "this host is not protected: no rule has a live source") {
			t.Errorf("messages %+v", got)
		}
	})
}

func TestNothingIsLostWhileAnEndpointIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := new(far)
		f.fail(outcome{err: errors.New("no route to host")})
		n := start(t, conf.Notify{Events: all, Digest: time.Minute, Limit: 30}, f)
		for range 3 {
			for range 30 {
				_ = n.Write([]control.Record{rec("login-alarm", func(r *control.Record) { r.Addr = "198.51.100.7" }), banOf("203.0.113.1")})
			}
			time.Sleep(3 * time.Hour)
			synctest.Wait()
		}
		s := n.Status(time.Now())
		var status control.Status
		s(&status)
		if len(status.Notify) != 1 || status.Notify[0].Waiting != 180 || len(status.Warnings) != 1 || !strings.HasPrefix(status.Warnings[0], "notifications do not reach ops: no route to host; tried again in ") {
			t.Errorf("status %+v, warnings %q", status.Notify, status.Warnings)
		}
		f.fail(outcome{})
		time.Sleep(longWait + gather)
		synctest.Wait()
		got := f.messages()
		if len(got) != 1 || !strings.HasSuffix(got[0].Title, "; 89 more events; 90 new bans") || !strings.Contains(got[0].Text, "... and ") {
			t.Fatalf("messages %+v", got)
		}
		if len(got[0].Text) > maxText+100 || len(got[0].Events) != maxUrgent+maxSample {
			t.Errorf("%d bytes of text, %d events", len(got[0].Text), len(got[0].Events))
		}
		status = control.Status{}
		n.Status(time.Now())(&status)
		if status.Notify[0].Waiting != 0 || status.Notify[0].Sent != 1 || len(status.Warnings) != 0 {
			t.Errorf("afterwards %+v, %q", status.Notify, status.Warnings)
		}
	})
}

func TestAnEndpointThatAsksForAPauseGetsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := new(far)
		f.fail(outcome{err: errors.New("429"), pause: 20 * time.Minute})
		n := start(t, conf.Notify{Events: all, Digest: time.Hour, Limit: 30}, f)
		_ = n.Write([]control.Record{rec("attack", nil)})
		time.Sleep(gather)
		synctest.Wait()
		f.fail(outcome{})
		time.Sleep(20*time.Minute - time.Second)
		synctest.Wait()
		if len(f.messages()) != 0 {
			t.Error("sent during the pause")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if len(f.messages()) != 1 {
			t.Error("not sent after the pause")
		}
	})
}

func TestMessagesAnHourAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := new(far)
		n := start(t, conf.Notify{Events: all, Digest: time.Hour, Limit: 4}, f)
		for range 120 { // two hours
			_ = n.Write([]control.Record{rec("attack", nil)})
			time.Sleep(time.Minute)
		}
		synctest.Wait()
		if got := len(f.messages()); got != 8 {
			t.Errorf("%d messages in two hours, want 8", got)
		}
		events := 0
		for _, m := range f.messages() {
			events += len(m.Events)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		last := f.messages()[8]
		if events += len(last.Events); len(last.Events) != maxUrgent || !strings.Contains(last.Text, "more events: see mefctl events") && events != 120 {
			t.Errorf("%d of 120 events, the last message is %+v", events, last)
		}
	})
}

func TestReloadKeepsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := new(far)
		n := start(t, conf.Notify{Events: all, Digest: time.Hour, Limit: 30}, f)
		_ = n.Write([]control.Record{banOf("203.0.113.1")})
		same := n.all()[0].cfg
		same.Pos.Line = 99
		other := same
		other.Name = "second"
		n.Configure([]conf.Notify{same, other})
		if got := n.all(); len(got) != 2 || got[0].waiting.bans.count != 1 {
			t.Fatalf("endpoints %+v", got)
		}
		n.Configure(nil)
		if n.Wanted("ban") {
			t.Error("nobody is notified, and records are wanted")
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if len(f.messages()) != 0 {
			t.Error("an endpoint that is gone was notified")
		}
	})
}

func TestStatusIsReportedWhenItHasChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s atomic.Pointer[control.Status]
		s.Store(new(control.Status))
		var got []control.Record // of the goroutine until it has ended
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			watch(ctx, func(context.Context) (control.Status, error) { return *s.Load(), nil }, func(r control.Record) { got = append(got, r) })
		}()
		pass := func(looks int, missing, warnings []string) {
			s.Store(&control.Status{Missing: missing, Warnings: warnings})
			time.Sleep(time.Duration(looks) * look)
			synctest.Wait()
		}
		time.Sleep(time.Second)
		pass(10, nil, nil)
		pass(1, []string{"passes by itself"}, nil)
		pass(5, nil, nil)
		pass(5, nil, []string{"w"})
		pass(5, []string{"m"}, []string{"w"})
		pass(5, []string{"other"}, []string{"w"})
		pass(5, nil, nil)
		cancel()
		<-done
		var levels []string
		for _, r := range got {
			levels = append(levels, r.Level+" "+r.Reason)
		}
		if fmt.Sprint(levels) != "[yellow w red m green ]" {
			t.Errorf("reported %q", levels)
		}
	})
}

// A request is what a web hook got.
type got struct {
	method, path, body string
	header             http.Header
}

// hook is a web server that keeps what it gets.
func hook(t *testing.T, answer func(w http.ResponseWriter)) (*httptest.Server, func() got) {
	t.Helper()
	requests := make(chan got, 10)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		requests <- got{r.Method, r.URL.EscapedPath(), string(body), r.Header}
		if answer != nil {
			answer(w)
		}
	}))
	t.Cleanup(s.Close)
	return s, func() got {
		select {
		case r := <-requests:
			return r
		default:
			t.Fatal("no request")
			return got{}
		}
	}
}

func keyFile(t *testing.T, key string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(key+"\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	return path
}

// hostile is a message about a user name that would be markup, a mention, a header and the end of a string elsewhere.
func hostile() *message {
	w := waiting{urgent: []control.Record{{Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Event: "login-alarm", Rule: "sshd", Addr: "198.51.100.7",
		User: "<!channel> @room \"\\\r\nX: y\u202e*b*", Reason: "it had failed"}}}
	return w.message("mail1", time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC), new(digest))
}

func TestWebHooks(t *testing.T) {
	m := hostile()
	key := keyFile(t, "s3cret")
	str := func(t *testing.T, body string, path ...string) string {
		t.Helper()
		var v any
		if err := json.Unmarshal([]byte(body), &v); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		for _, p := range path {
			v = v.(map[string]any)[p]
		}
		return fmt.Sprint(v)
	}
	for format, tt := range map[string]struct {
		cfg   conf.Notify
		url   string
		check func(t *testing.T, g got)
	}{
		"json": {conf.Notify{KeyFile: key}, "/x", func(t *testing.T, g got) {
			if g.path != "/x" || str(t, g.body, "level") != "alarm" || str(t, g.body, "text") != m.Text || g.header.Get("Authorization") != "Bearer s3cret" || strings.Contains(g.body, "\u202e") {
				t.Errorf("%+v", g)
			}
		}},
		"ntfy": {conf.Notify{}, "/topic", func(t *testing.T, g got) {
			if g.body != m.Text || g.header.Get("Title") != m.Title || g.header.Get("Priority") != "5" || g.header.Get("Authorization") != "" {
				t.Errorf("%+v", g)
			}
		}},
		"gotify": {conf.Notify{KeyFile: key}, "/base/", func(t *testing.T, g got) {
			if g.path != "/base/message" || g.header.Get("X-Gotify-Key") != "s3cret" || str(t, g.body, "priority") != "8" || str(t, g.body, "message") != m.Text {
				t.Errorf("%+v", g)
			}
		}},
		"slack": {conf.Notify{KeyFile: keyFile(t, "T0/B0?/s3cret")}, "/services/{key}", func(t *testing.T, g got) {
			if g.path != "/services/T0/B0%3F/s3cret" || strings.Contains(str(t, g.body, "text"), "<!") || !strings.Contains(str(t, g.body, "text"), "&lt;!channel&gt; @\u200broom") || g.header.Get("Authorization") != "" {
				t.Errorf("%+v", g)
			}
		}},
		"telegram": {conf.Notify{KeyFile: key, To: "-100200"}, "/bot{key}/sendMessage", func(t *testing.T, g got) {
			if g.path != "/bots3cret/sendMessage" || str(t, g.body, "chat_id") != "-100200" || str(t, g.body, "text") != m.Title+"\n"+m.Text || strings.Contains(g.body, "parse_mode") {
				t.Errorf("%+v", g)
			}
		}},
		"matrix": {conf.Notify{KeyFile: key, To: "!room/x:example.org"}, "", func(t *testing.T, g got) {
			if g.method != http.MethodPut || !strings.HasPrefix(g.path, "/_matrix/client/v3/rooms/%21room%2Fx:example.org/send/m.room.message/") || str(t, g.body, "m.mentions") != "map[]" || g.header.Get("Authorization") != "Bearer s3cret" {
				t.Errorf("%+v", g)
			}
		}},
		"own": {conf.Notify{Body: `{"content": "{title}\n{text}", "n": 1, "of": "{host}/{level}"}`}, "/x", func(t *testing.T, g got) {
			if str(t, g.body, "content") != m.Title+"\n"+m.Text || str(t, g.body, "of") != "mail1/alarm" {
				t.Errorf("%+v", g)
			}
		}},
	} {
		t.Run(format, func(t *testing.T) {
			s, request := hook(t, nil)
			tt.cfg.URL, tt.cfg.Format = s.URL+tt.url, format
			if out := webHook(tt.cfg)(t.Context(), m); out.err != nil {
				t.Fatal(out.err)
			}
			tt.check(t, request())
		})
	}
	if strings.ContainsAny(m.Text, "\r\u202e") || strings.Count(m.Text, "\n") != 0 || strings.Contains(m.Title, "channel") {
		t.Errorf("title %q, text %q", m.Title, m.Text)
	}
}

func TestRefusals(t *testing.T) {
	key := keyFile(t, "s3cret")
	open := keyFile(t, "s3cret")
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		answer func(http.ResponseWriter)
		key    string
		want   string
	}{
		"key":   {func(w http.ResponseWriter) { w.WriteHeader(http.StatusForbidden) }, key, "the key is refused (403); check key_file and url"},
		"quota": {func(w http.ResponseWriter) { w.WriteHeader(http.StatusTooManyRequests) }, key, "it wants fewer messages (429)"},
		"redirect": {func(w http.ResponseWriter) {
			w.Header().Set("Location", "https://evil.example/")
			w.WriteHeader(http.StatusFound)
		}, key, "it redirects to another address (302); write that one in url"},
		"reason": {func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, "{\"description\":\"chat\x1b not found\"}")
		}, key, `it answers 400: "{\"description\":\"chat\x1b not found\"}"`},
		"page": {func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, "<html>")
		}, key, "it answers 404"},
		"key file": {nil, open, fmt.Sprintf("every user can read key file %q; run chmod o= %q", open, open)},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := hook(t, tt.answer)
			out := webHook(conf.Notify{URL: s.URL + "/{key}", Format: "slack", KeyFile: tt.key})(t.Context(), hostile())
			if out.err == nil || out.err.Error() != tt.want {
				t.Errorf("%v, want %s", out.err, tt.want)
			}
		})
	}
	s, _ := hook(t, nil)
	s.Close()
	if out := webHook(conf.Notify{URL: s.URL + "/{key}", Format: "slack", KeyFile: key})(t.Context(), hostile()); out.err == nil || strings.Contains(out.err.Error(), "s3cret") {
		t.Errorf("the key is in the error, or there is none: %v", out.err)
	}
}

// Some servers repeat the URL of a request that they refuse. The key in it appears in no status and no log.
func TestTheKeyIsInNoError(t *testing.T) {
	const secret = "T0/B0%x+1"
	key := keyFile(t, secret)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		_ = json.NewEncoder(w).Encode(map[string]string{"path": r.URL.Path, "raw": r.URL.EscapedPath(), "auth": r.Header.Get("Authorization")})
	}))
	defer s.Close()
	for _, cfg := range []conf.Notify{{URL: s.URL + "/hook/{key}", Format: "slack"}, {URL: s.URL, Format: "json"}} {
		cfg.KeyFile = key
		out := webHook(cfg)(t.Context(), hostile())
		if out.err == nil || !strings.Contains(out.err.Error(), "{key}") || strings.Contains(out.err.Error(), "B0") {
			t.Errorf("%s: %v", cfg.URL, out.err)
		}
	}
}

// mefctl notify test ends although an endpoint never does.
func TestATestEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New([]conf.Notify{{Name: "ops", Enabled: true, URL: "https://example.org/", Format: "json"}}, quiet())
		n.endpoints[0].send = func(ctx context.Context, _ *message) outcome {
			<-ctx.Done()
			return outcome{err: ctx.Err()}
		}
		if results, err := n.TestNotify(t.Context(), ""); err != nil || len(results) != 1 || results[0].OK {
			t.Errorf("%+v, %v", results, err)
		}
	})
}

func TestAServerThatNeverAnswersIsLeft(t *testing.T) {
	end := make(chan struct{})
	defer close(end)
	s, _ := hook(t, func(w http.ResponseWriter) { <-end })
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan outcome, 1)
	go func() {
		result <- webHook(conf.Notify{URL: s.URL, Format: "json"})(ctx, hostile())
	}()
	cancel()
	if out := <-result; out.err == nil {
		t.Error("a message that was not answered counts as accepted")
	}
}

func TestProgram(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "take")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nexec cat >"+dir+"/$1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if out := program(conf.Notify{Command: []string{script, "got"}})(t.Context(), hostile()); out.err != nil {
		t.Fatal(out.err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "got"))
	var m message
	if err != nil || json.Unmarshal(text, &m) != nil || m.Text != hostile().Text || len(m.Events) != 1 {
		t.Errorf("%v: %s", err, text)
	}
	if out := program(conf.Notify{Command: []string{"/bin/false"}})(t.Context(), hostile()); out.err == nil {
		t.Error("a program that fails counts as one that took the message")
	}
}
