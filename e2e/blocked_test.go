//go:build integration

package e2e_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A customer who is banned on the ports of the web server sees why, support finds the ban by its reference and gives a code, and the code
// lifts the ban. Nobody else sees the page.
func TestBlockedCustomer(t *testing.T) {
	const config = "[global]\nblock_page=8480\nblock_page_contact=support@example.net\nblock_page_sum=1\n"
	s := begin(t, config, nil)
	const customer, all, mail, other = "203.0.113.41", "203.0.113.42", "203.0.113.43", "203.0.113.44"
	s.mefctl("bans", "add", customer, "--for", "2h", "--ports", "80,443", "--note", "secret note")
	s.mefctl("bans", "add", all, "--for", "2h")
	s.mefctl("bans", "add", mail, "--for", "2h", "--ports", "143")
	get := func(from string, form ...string) (string, error) {
		ctx, cancel := context.WithTimeout(s.ctx, 10*time.Second)
		defer cancel()
		method, body := http.MethodGet, ""
		if len(form) > 0 {
			method, body = http.MethodPost, form[0]
		}
		req, err := http.NewRequestWithContext(ctx, method, "http://shop.example/any", strings.NewReader(body))
		if err != nil {
			return "", err
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			if from != customer { // hears nothing
				var cancel func()
				ctx, cancel = context.WithTimeout(ctx, silence)
				defer cancel()
			}
			return s.w.Client(from).Dial(ctx, 80)
		}}}
		defer client.CloseIdleConnections()
		resp, err := client.Do(req)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		page, err := io.ReadAll(resp.Body)
		return string(page), err
	}
	var page string
	s.until("the page for blocked customers", func() (err error) {
		if page, err = get(customer); err == nil && !strings.Contains(page, "Your address is blocked") {
			err = errors.New(page)
		}
		return err
	})
	reference := regexp.MustCompile(`MEF-[A-Z2-7]{8}`).FindString(page)
	if !strings.Contains(page, customer) || !strings.Contains(page, "ask support@example.net") || reference == "" || strings.Contains(page, "secret") {
		t.Errorf("the page is\n%s", page)
	}
	if why := s.mefctl("why", reference); !strings.HasPrefix(why, customer+": BANNED") {
		t.Errorf("mefctl why %s prints\n%s", reference, why)
	}
	for _, from := range []string{all, mail, other} {
		if page, err := get(from); err == nil {
			t.Errorf("%s sees\n%s", from, page)
		}
	}
	s.silent(8480, all, mail, other, customer)
	if page, err := get(customer, "code=WRONG"); err != nil || !strings.Contains(page, "The code is wrong") {
		t.Errorf("after a wrong code: %v\n%s", err, page)
	}
	if strings.Contains(page, "How much is") {
		t.Errorf("a sum lifts the ban of an operator:\n%s", page)
	}
	code, _, _ := strings.Cut(s.mefctl("support", "code", reference), " ")
	s.stop(syscall.SIGTERM) // the code outlives it
	s.start(config)
	s.until("the page for blocked customers", func() error { _, err := get(customer); return err })
	if page, err := get(customer, "code="+code); err != nil || !strings.Contains(page, "no longer blocked") {
		t.Errorf("after the code: %v\n%s", err, page)
	}
	s.until("the end of the ban", func() error {
		if bans := s.mefctl("bans", "list"); strings.Contains(bans, customer) || !strings.Contains(bans, mail) {
			return errors.New(bans)
		}
		return nil
	})
	s.until("the reference of a ban that has ended", func() error {
		if why := s.mefctl("why", reference); !strings.HasPrefix(why, reference+" is a ban of "+customer) {
			return errors.New(why)
		}
		return nil
	})
	s.configure("[global]\n")
	s.mefctl("reload")
	s.mefctl("bans", "add", customer, "--for", "2h", "--ports", "80,443")
	s.silent(80, customer)
}
