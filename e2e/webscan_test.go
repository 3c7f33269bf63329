//go:build integration

package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"mef/internal/control"
	"mef/internal/lab"
)

// A source that asks a real web server for secrets is banned by what the access log makes of it. What it writes into its requests blames nobody
// else, and a visitor of pages that are not there is left alone.
func TestWebScannersAreBanned(t *testing.T) {
	const scanner, visitor, victim = "203.0.113.7", "203.0.113.9", "198.51.100.77"
	forged := victim + ` - - [01/Mar/2026:10:00:00 +0000] "GET /.env HTTP/1.1" 404 12 "-" "sqlmap/1.8"`
	for _, tt := range []struct {
		program string
		start   func(*lab.World, context.Context) (*lab.Process, error)
		port    int
	}{
		{"nginx", (*lab.World).StartNginx, lab.NginxPort},
		{"apache2", (*lab.World).StartApache, lab.ApachePort},
	} {
		t.Run(tt.program, func(t *testing.T) {
			s := beginWith(t, tt.program, tt.start)
			for _, path := range []string{"/favicon.ico", "/old/page.html", "/apple-touch-icon.png", "/.well-known/change-password"} {
				if err := request(s.ctx, s.w.Client(visitor), tt.port, path, "Mozilla/5.0"); err != nil {
					t.Fatal(err)
				}
			}
			paths := []string{"/app/.env", "/.git/config", "/%0a" + victim + "%20-%20-/.aws/credentials"}
			for i, path := range paths {
				err := request(s.ctx, s.w.Client(scanner), tt.port, path, `x" "-"`+"\t"+forged)
				if err != nil && i < len(paths)-1 { // the ban may cut off the last answer
					t.Fatal(err)
				}
			}
			s.until("a ban of the scanner", func() error {
				for _, rec := range s.records() {
					if rec.Event == "ban" && rec.Rule == "webscan/attack_paths" && rec.Prefix == scanner+"/32" {
						return nil
					}
				}
				return errors.New("no such ban")
			})
			for _, rec := range s.records() {
				if rec.Addr == victim || rec.Prefix == victim+"/32" || rec.Event == "ban" && rec.Prefix != scanner+"/32" {
					t.Errorf("a bystander is blamed: %+v", rec)
				}
			}
			s.sees(control.Record{Event: "probe", Rule: "web-attacks", Addr: scanner})
		})
	}
}

// request sends a request as it is, and waits for the answer.
func request(ctx context.Context, c lab.Client, port int, path, agent string) error {
	conn, err := c.Dial(ctx, port)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.0\r\nHost: server\r\nUser-Agent: %s\r\n\r\n", path, agent); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, conn)
	return err
}
