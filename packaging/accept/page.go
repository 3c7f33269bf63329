package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// customer is banned from the web server only.
const customer = "203.0.113.60"

// confined is a script that fails unless mefpage, the daemon's child, runs as user mef without a capability, under a filter of system calls
// of its own besides those of the unit.
const confined = `daemon=$(systemctl show -P MainPID mefdaemon) && page=$(pgrep -x -P $daemon mefpage) && cd /proc/$page && cat status &&
	grep "^Uid:	$(id -u mef)	" status && grep "^NoNewPrivs:	1" status && grep "^CapPrm:	0000000000000000$" status &&
	grep "^CapAmb:	0000000000000000$" status && of() { sed -n 's/^Seccomp_filters:	//p' /proc/$1/status; } && test $(of $page) -gt $(of $daemon)`

// pages turns on the operator's page, the metrics and the page for blocked customers, has each of them answer, and turns them off.
func (s *story) pages(ctx context.Context) error {
	if err := s.checks(ctx, `sed -i 's/^#page=.*/page=127.0.0.1:9180/; s/^#metrics=.*/metrics=127.0.0.1:9181/; s/^#block_page=.*/block_page=8480/' /etc/mef/mef.conf`); err != nil {
		return err
	}
	secret, err := s.sh(ctx, "mefctl page password "+account+" operator 2>/dev/null")
	if err != nil {
		return err
	}
	if err := s.checks(ctx, "systemctl reload mefdaemon", "test $(stat -c %U:%G:%a /etc/mef/page.passwd) = root:mef:640"); err != nil {
		return err
	}
	if err := s.protected(ctx); err != nil {
		return err
	}
	if err := s.checks(ctx, confined); err != nil {
		return err
	}
	err = s.tunnelled(ctx, func(c *http.Client) error {
		return errors.Join(
			shows(c.Get("http://127.0.0.1:9180/"))("Password"),
			shows(c.PostForm("http://127.0.0.1:9180/login", url.Values{"name": {account}, "password": {strings.TrimSpace(secret)}}))(account+" (operator)"),
			shows(c.Get("http://127.0.0.1:9181/metrics"))("\nmef_protected 1\n"),
		)
	})
	if err != nil {
		return err
	}
	if err := s.unblocked(ctx); err != nil {
		return err
	}
	// The shipped policy rightly warns that nobody reaches the port of the page for blocked customers.
	if err := s.checks(ctx, `sed -i 's/^page=.*/#page=/; s/^metrics=.*/#metrics=/; s/^block_page=.*/#block_page=0/' /etc/mef/mef.conf && systemctl reload mefdaemon`); err != nil {
		return err
	}
	return s.protected(ctx)
}

// unblocked has a customer see why he is blocked, until he no longer is: nothing listens at the port of the web server.
func (s *story) unblocked(ctx context.Context) error {
	if err := ip(ctx, "address", "replace", customer, "dev", "lo"); err != nil {
		return err
	}
	if err := s.checks(ctx, "mefctl bans add "+customer+" --ports 80"); err != nil {
		return err
	}
	c := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dial(ctx, customer, webPort)
	}}}
	if err := shows(c.Get("http://server/"))("Your address is blocked"); err != nil {
		return fmt.Errorf("page for blocked customers: %w", err)
	}
	if err := s.checks(ctx, "mefctl bans delete "+customer); err != nil {
		return err
	}
	if heard, err := answered(ctx, customer, webPort); !heard || err == nil {
		return fmt.Errorf("%s, no longer banned, on port %s: %w", customer, webPort, err)
	}
	return nil
}

// tunnelled gives fn a client that connects as a browser does whose user has logged in with ssh -L.
func (s *story) tunnelled(ctx context.Context, fn func(*http.Client) error) error {
	tunnel, err := connect(ctx, user4, account, ssh.Password(password))
	if err != nil {
		return err
	}
	defer tunnel.Close()
	jar, err := cookiejar.New(nil)
	if err != nil {
		return err
	}
	return fn(&http.Client{Jar: jar, Timeout: patience, Transport: &http.Transport{DialContext: tunnel.DialContext}})
}

// shows returns a function that fails unless an answer has a text.
func shows(resp *http.Response, err error) func(text string) error {
	return func(text string) error {
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		if err == nil && !strings.Contains(string(body), text) {
			err = fmt.Errorf("%s: %s, without %q:\n%s", resp.Request.URL, resp.Status, text, body[:min(len(body), 2000)])
		}
		return err
	}
}
