package syslog

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mef/internal/event"
	"mef/internal/prefixset"
)

func TestMessages(t *testing.T) {
	for text, want := range map[string]string{
		"<38>Jan  2 03:04:05 sshd[4711]: Failed password":                      "sshd 4711: Failed password",
		"<38>Jan  2 03:04:05 web1 sshd[4711]: Failed password\n":               "sshd 4711: Failed password",
		"<38>Jan  2 03:04:05 web1 postfix/smtpd[12]: warning: x":               "postfix/smtpd 12: warning: x",
		"<190>Jan  2 03:04:05 web1 nginx: 192.0.2.7 - - [x]":                   "nginx 0: 192.0.2.7 - - [x]",
		"<38>2026-01-02T03:04:05.123456+01:00 web1 sshd[4711]: Failed":         "sshd 4711: Failed",
		"<38>1 2026-01-02T03:04:05Z web1 sshd 4711 - - Failed password":        "sshd 4711: Failed password",
		"<38>1 - - app - ID47 [a@1 x=\"\\\"]\" y=\"]\"][b@1] \ufeffsshd[1]: x": "app 0: sshd[1]: x",
		"<38>1 2026-01-02T03:04:05Z web1 sshd 4711 - -":                        "sshd 4711: ",
		"<38>sshd[1]: no date":                               "sshd 1: no date",
		"sshd[1]: no priority":                               "sshd 1: no priority",
		"<38>Jan  2 03:04:05 web1 no tag here":               " 0: web1 no tag here",
		"<38>Jan  2 03:04:05 web1 x sshd[1]: too far behind": " 0: web1 x sshd[1]: too far behind",
		"<38>Jan  2 03:04:05 web1 sshd[x]: no number":        "sshd 0: no number",
		"<38>Jan  2 03:04:05 web1 sshd[1: x":                 " 0: web1 sshd[1: x",
		"<38>1 2026-01-02T03:04:05Z web1 - - - [cut":         " 0: 2026-01-02T03:04:05Z web1 - - - [cut",
		"<38>": " 0: ",
		"":     " 0: ",
		"<38>Jan  2 03:04:05 sshd[4711]: Failed password for Jan  2 03:04:05 web1 sshd[1]: Accepted\x00\n": "sshd 4711: Failed password for Jan  2 03:04:05 web1 sshd[1]: Accepted",
	} {
		var e event.Entry
		message := parse([]byte(text), &e)
		if got := fmt.Sprintf("%s %d: %s", e.Identifier, e.PID, message); got != want && !(want == " 0: " && strings.TrimSpace(got) == "0:") {
			t.Errorf("%q\n got %q\nwant %q", text, got, want)
		}
	}
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte("<38>1 - - app - ID47 [a@1 x=\"\\\"]\" y=\"]\"][b@1] \ufeffsshd[1]: x"))
	f.Add([]byte("<38>Jan  2 03:04:05 web1 sshd[4711]: Failed password\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var e event.Entry
		message := parse(text, &e)
		if len(message) > len(text) || len(e.Identifier) > maxTag {
			t.Errorf("%q is %q of %q", text, message, e.Identifier)
		}
	})
}

// A reception is a listener under test.
type reception struct {
	*testing.T
	*Listener
	out chan *event.Batch
}

func receive(t *testing.T, cfg Config) *reception {
	t.Helper()
	r := &reception{T: t, out: make(chan *event.Batch, 1)}
	r.Listener = New(cfg, r.out)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = r.Listener.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		select {
		case <-ended:
		case <-time.After(time.Minute):
			t.Error("it does not end")
		}
	})
	r.await("it listens", func() bool { return r.Status().Active })
	return r
}

func (r *reception) await(what string, ok func() bool) {
	r.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.Fatalf("%s: not within a minute: %+v", what, r.Status())
		}
	}
}

// next returns the next so many messages.
func (r *reception) next(n int) (got []string) {
	r.Helper()
	for len(got) < n {
		select {
		case b := <-r.out:
			for _, l := range b.Lines {
				s := fmt.Sprintf("%s[%d] %s", l.Entry.Identifier, l.Entry.UID, l.Text)
				if b.Unverified {
					s += " unverified"
				}
				got = append(got, s)
			}
			if b.Source != r.name || b.Stream == "" || b.Resume != "" {
				r.Errorf("batch of %q %q %q", b.Source, b.Stream, b.Resume)
			}
			b.Release()
		case <-time.After(time.Minute):
			r.Fatalf("only %q arrived", got)
		}
	}
	return got
}

func (r *reception) want(want ...string) {
	r.Helper()
	if got := r.next(len(want)); fmt.Sprint(got) != fmt.Sprint(want) {
		r.Errorf("got %q, want %q", got, want)
	}
}

func send(t *testing.T, network, address string, messages ...string) net.Conn {
	t.Helper()
	conn, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		if _, err := conn.Write([]byte(m)); err != nil {
			t.Fatal(err)
		}
	}
	return conn
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	r := receive(t, Config{Network: "unix", Address: path})
	defer send(t, "unixgram", path, "<38>Jan  2 03:04:05 sshd[1]: a", "<38>Jan  2 03:04:05 sshd[1]: b").Close()
	uid := os.Getuid()
	r.want(fmt.Sprintf("sshd[%d] a", uid), fmt.Sprintf("sshd[%d] b", uid))
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o666 {
		t.Errorf("the socket has mode %v, %v", info.Mode(), err)
	}
}

// A socket that an earlier run left is replaced; a file, or the socket of another program, is not.
func TestWhatIsThereAlready(t *testing.T) {
	dir := t.TempDir()
	old, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dir + "/old", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	if err := removeSocket(dir + "/old"); err == nil || !strings.Contains(err.Error(), "another program listens there") {
		t.Errorf("the socket of another program: %v", err)
	}
	old.Close()
	receive(t, Config{Network: "unix", Address: dir + "/old"})
	if err := os.WriteFile(dir+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := removeSocket(dir + "/file"); err == nil {
		t.Error("a file was removed")
	}
}

// free returns an address with a port that is free.
func free(t *testing.T, network string) string {
	t.Helper()
	if network == "udp" {
		conn, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.LocalAddr().String()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestUDP(t *testing.T) {
	r := receive(t, Config{Network: "udp", Address: free(t, "udp")})
	defer send(t, "udp", r.cfg.Address, "<38>Jan  2 03:04:05 web1 sshd[1]: a", "sshd[1]: "+strings.Repeat("x", 9000)).Close()
	r.want("sshd[0] a unverified", "sshd[0] "+strings.Repeat("x", 9000)+" unverified")
	declared := receive(t, Config{Network: "udp", Address: free(t, "udp"), Senders: prefixset.New(netip.MustParsePrefix("127.0.0.0/8"))})
	defer send(t, "udp", declared.cfg.Address, "sshd[1]: a").Close()
	declared.want("sshd[0] a")
}

func TestTCP(t *testing.T) {
	r := receive(t, Config{Network: "tcp", Address: free(t, "tcp")})
	conn := send(t, "tcp", r.cfg.Address, "<38>Jan  2 03:04:05 web1 sshd[1]: a\n<38>Jan  2 03:04:05 web1 ", "sshd[1]: b\n\n", "19 <38>sshd[1]: framed1", "4 <38>sshd[1]: x")
	r.want("sshd[0] a unverified", "sshd[0] b unverified", "sshd[0] framed unverified", "sshd[0] x unverified")
	conn.Close()
	conn = send(t, "tcp", r.cfg.Address, "<38>sshd[1]: "+strings.Repeat("y", 3*MaxLine)+"\n<38>sshd[1]: behind it\n<38>sshd[1]: without end")
	conn.Close()
	got := r.next(3)
	if len(got[0]) < MaxLine-100 || len(got[0]) > MaxLine+100 || got[1] != "sshd[0] behind it unverified" || got[2] != "sshd[0] without end unverified" {
		t.Errorf("a message that is too long: %d bytes, %.100q", len(got[0]), got[1:])
	}
}

// Who is believed, by network and address.
func TestSenders(t *testing.T) {
	l := New(Config{Network: "udp", Senders: prefixset.New(netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("::1/128"))}, nil)
	for _, tt := range []struct {
		addr     string
		dialogue bool
		want     string
	}{
		{"127.0.0.1", true, "unverified"}, {"127.0.0.1", false, "unverified"}, {"::1", false, "believed"}, {"::1", true, "believed"},
		{"192.0.2.7", true, "believed"}, {"192.0.2.7", false, "unverified"}, {"::ffff:192.0.2.7", true, "believed"},
		{"198.51.100.1", true, "refused"}, {"198.51.100.1", false, "refused"}, {"2001:db8::1", true, "refused"},
	} {
		who, ok := l.peer(netip.MustParseAddr(tt.addr), tt.dialogue)
		got := "believed"
		if !ok {
			got = "refused"
		} else if who.unverified {
			got = "unverified"
		}
		if got != tt.want {
			t.Errorf("%s, dialogue %v: %s, want %s", tt.addr, tt.dialogue, got, tt.want)
		}
	}
	if l.Status().Refused != 3 {
		t.Errorf("%+v", l.Status())
	}
}

// A receiver that does not read stops no sender, and what is lost is counted.
func TestBusyReceiver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	r := receive(t, Config{Network: "unix", Address: path})
	conn := send(t, "unixgram", path)
	defer conn.Close()
	sent := make(chan error, 1)
	const n = 2000
	go func() {
		for i := range n {
			if _, err := fmt.Fprintf(conn, "<38>sshd[1]: %d", i); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	select {
	case err := <-sent:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the sender waits")
	}
	got, lost := 0, 0
	r.await("all are accounted for", func() bool {
		select {
		case b := <-r.out:
			got, lost = got+len(b.Lines), lost+b.Lost
			b.Release()
		default:
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		return got+lost+r.lost == n && r.lost+lost > 0
	})
}
