// Package page is mefpage: it serves the operator's page and the metrics over HTTP.
//
// It shows what the daemon answers, and passes on what an operator asks for. It decides who somebody is: at a unix socket by the groups of the
// process at the other end, at an address by name and password. What a role may do is decided by the daemon, which receives name and role
// with each request (package pagechild). The page is HTML without scripts: nothing in it could execute what an attacker
// chose, and the content security policy forbids it again.
package page

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"mef/internal/control"
	"mef/internal/page/blocked"
	"mef/internal/page/sandbox"
	"mef/internal/pagechild"
)

// maxSettings is how much is read from the standard input, in bytes.
const maxSettings = 1 << 20

// errDaemonEnded ends mefpage.
var errDaemonEnded = errors.New("mefdaemon has ended")

// Run serves what the settings on in say, until the daemon ends. It writes a line to out once it serves, and one for each login.
func Run(in io.Reader, out io.Writer) error {
	names := userNames()
	_, _ = time.Now().Zone() // reads the time zone's file
	var settings pagechild.Settings
	if err := json.NewDecoder(io.LimitReader(in, maxSettings)).Decode(&settings); err != nil {
		return fmt.Errorf("settings: %w; mefdaemon starts this program", err)
	}
	daemon, err := pagechild.Inherited()
	if err != nil {
		return fmt.Errorf("control: %w", err)
	}
	listeners, err := inherit(&settings, names)
	if err != nil {
		return err
	}
	if err := sandbox.Enter(); err != nil {
		return err
	}
	client := control.NewClientOver("mefdaemon", func(ctx context.Context) (net.Conn, error) { return pagechild.Dial(ctx, daemon) })
	g, ctx := errgroup.WithContext(context.Background())
	g.Go(func() error {
		_, _ = daemon.Read(make([]byte, 1)) // the daemon writes nothing: this is its end
		return errDaemonEnded
	})
	log := slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{ReplaceAttr: withoutTime}))
	for i, s := range settings.Services {
		var h http.Handler
		switch s.Kind {
		case "metrics":
			h = metricsPage(s, client)
		case "page":
			h = newSite(&settings, s, leaf(listeners[i].tls), client, log)
		case "block_page":
			h = blocked.Handler(client, settings.Contact)
		default:
			return fmt.Errorf("mefdaemon of another version asks for %q", s.Kind)
		}
		g.Go(func() error { return serve(ctx, listeners[i], h) })
	}
	if _, err := fmt.Fprintln(out, pagechild.Ready); err != nil {
		return err
	}
	if err := g.Wait(); !errors.Is(err, errDaemonEnded) {
		return err
	}
	return nil
}

// withoutTime leaves the time to the daemon's log.
func withoutTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
		return slog.Attr{}
	}
	return a
}

// inherit returns the listeners of the services.
func inherit(settings *pagechild.Settings, names map[int]string) (all []*listener, err error) {
	for i, s := range settings.Services {
		f := os.NewFile(uintptr(pagechild.FirstService+i), s.Kind)
		l, err := net.FileListener(f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("listener of %s: %w", s.Kind, err)
		}
		one := &listener{Listener: l, settings: settings, names: names, conns: make(map[string]int)}
		if len(s.Certificate) > 0 {
			pair, err := tls.X509KeyPair(s.Certificate, s.Key)
			if err != nil {
				return nil, fmt.Errorf("%s_certificate: %w", s.Kind, err)
			}
			one.tls = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
		}
		if one.blocked = s.Kind == "block_page"; one.blocked && one.tls != nil {
			blocked.OnlyNamed(one.tls)
		}
		all = append(all, one)
	}
	return all, nil
}

func leaf(cfg *tls.Config) *x509.Certificate {
	if cfg == nil {
		return nil
	}
	return cfg.Certificates[0].Leaf
}

// What one careless or hostile client can use up.
const (
	maxHeader  = 16 << 10 // bytes
	maxBody    = 16 << 10
	headTime   = 5 * time.Second
	readTime   = 10 * time.Second
	answerTime = 30 * time.Second
)

// serve answers requests at l.
func serve(ctx context.Context, l *listener, h http.Handler) error {
	server := &http.Server{
		Handler:           http.MaxBytesHandler(h, maxBody), // TLS: the handshake takes at most the shortest of the following times
		ReadHeaderTimeout: headTime, ReadTimeout: readTime, WriteTimeout: answerTime, IdleTimeout: answerTime,
		MaxHeaderBytes: maxHeader,
		ErrorLog:       slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo), // mistakes of strangers
		TLSConfig:      l.tls,
		TLSNextProto:   map[string]func(*http.Server, *tls.Conn, http.Handler){}, // HTTP/1.1 only
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if t, ok := c.(*tls.Conn); ok {
				c = t.NetConn()
			}
			if c, ok := c.(*conn); ok {
				ctx = context.WithValue(ctx, peerKey{}, c.peer)
			}
			return ctx
		},
	}
	server.SetKeepAlivesEnabled(!l.blocked)
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if l.tls != nil {
		return server.ServeTLS(l, "", "")
	}
	return server.Serve(l)
}

// userNames returns the names of this host's users by user ID. They are read once: later, no file can be.
func userNames() map[int]string {
	names := make(map[int]string)
	f, err := os.Open("/etc/passwd")
	if err != nil {
		return names // they are called by their IDs
	}
	defer f.Close()
	for lines := bufio.NewScanner(io.LimitReader(f, 4<<20)); lines.Scan(); {
		fields := strings.SplitN(lines.Text(), ":", 4)
		if len(fields) < 4 || !pagechild.ValidName(fields[0]) {
			continue
		}
		if id, err := strconv.Atoi(fields[2]); err == nil && names[id] == "" {
			names[id] = fields[0]
		}
	}
	return names
}
