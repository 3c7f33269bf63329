package pipeline

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"mef/internal/conf"
	"mef/internal/enforce"
	"mef/internal/engine"
	"mef/internal/event"
	"mef/internal/owner"
)

// serveList serves a block list that has its test entry and one address, and returns the address of its name server. A silent one answers
// nothing but about the test entries.
func serveList(t *testing.T, listed string, silent bool) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		name := q.Question[0].Name
		entry := strings.HasPrefix(name, "2.0.0.127.")
		switch {
		case silent && !entry && !strings.HasPrefix(name, "1.0.0.127."):
			return
		case entry || name == listed+".bl.example.":
			rr, _ := dns.NewRR(name + ` 60 IN A 127.0.0.4`)
			if q.Question[0].Qtype == dns.TypeTXT {
				rr, _ = dns.NewRR(name + ` 60 IN TXT "seen attacking"`)
			}
			m.Answer = append(m.Answer, rr)
		default:
			m.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(m)
	})}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.ActivateAndServe()
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-ended
	})
	return conn.LocalAddr().String()
}

// One failed login of an address that a list has, and what a list that hangs changes for others: nothing.
func TestBlockListsInTheFlow(t *testing.T) {
	for name, silent := range map[string]bool{"answering": false, "hanging": true} {
		t.Run(name, func(t *testing.T) {
			cfg := configured(t)
			cfg.RBL = conf.RBL{Enabled: true, Servers: []string{serveList(t, "7.113.0.203", silent)}, Zones: []conf.RBLZone{{Name: "own", Zone: "bl.example",
				Match: []string{"127.0.0.*"}, Weight: 100, Timeout: time.Minute, Positive: time.Hour, Negative: time.Hour, Error: time.Hour, Rate: 1000, InFlight: 1}}}
			p, state := replayed(t, cfg)
			bans := make(chan string, 10)
			p.Enforcer = enforce.New(new(willing), enforce.Options{OnResult: func(results []enforce.Result) {
				for _, r := range results {
					bans <- fmt.Sprintf("%s by %s: %s %q", r.Ban.Key, r.Ban.Rule, r.Ban.Reason, r.Ban.Evidence)
				}
			}})
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error, 3)
			go func() { done <- p.Enforcer.Run(ctx) }()
			go func() {
				for {
					select {
					case <-ctx.Done():
						done <- nil
						return
					case call := <-p.Engine.Calls():
						call(ctx, state)
					}
				}
			}()
			go func() {
				done <- p.Reputation.Run(ctx, func(ctx context.Context, ev *engine.Event) error {
					return owner.Act(ctx, p.Engine, func(ctx context.Context, s *State) error { return s.Event(ctx, ev) })
				}, func(context.Context, string) {})
			}()
			offset := uint64(0)
			failed := func(addr string) {
				err := owner.Act(ctx, p.Engine, func(ctx context.Context, s *State) error {
					b := new(event.Pool).Get()
					b.Source, b.Stream = "/session.log", "replay"
					offset++
					text := fmt.Sprintf("%s host sshd[%d]: Failed password for root from %s port 4711 ssh2", time.Now().Format(time.RFC3339), offset, addr)
					b.Lines = []event.Line{{Time: time.Now(), Text: []byte(text), Offset: offset}}
					return s.Lines(ctx, b)
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			failed("203.0.113.7")
			want := []string{"203.0.113.7 by score: score ", `100 points for a listing by bl.example (127.0.0.4: "seen attacking")`, `"bl.example lists 203.0.113.7: 127.0.0.4 seen attacking"`}
			if silent {
				for range 10 {
					failed("203.0.113.8")
				}
				want = []string{"203.0.113.8 by "}
			}
			select {
			case got := <-bans:
				for _, part := range want {
					if !strings.Contains(got, part) {
						t.Errorf("ban %s\nwant %s", got, part)
					}
				}
			case <-time.After(30 * time.Second):
				t.Errorf("no ban: %+v", p.Reputation.Lists.Status(time.Now()))
			}
			stop()
			for range 3 {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		})
	}
}
