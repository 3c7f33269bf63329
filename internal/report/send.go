package report

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"mef/internal/conf/diag"
)

const (
	abuseIPDB   = "https://api.abuseipdb.com/api/v2"
	blocklistDE = "https://www.blocklist.de/en/httpreports.html"

	answerTime = 20 * time.Second
	maxAnswer  = 64 << 10 // bytes that are read of an answer
	maxKey     = 4 << 10
)

// An outcome is what became of a request.
type outcome struct {
	accepted bool
	err      error         // why not
	trouble  bool          // err is not about this report: others would have failed too
	again    bool          // the report was certainly not accepted, and may be later
	pause    time.Duration // nothing is to be sent meanwhile
	remains  int           // reports of the quota, -1 if unknown
}

// newClient returns a client that waits a bounded time and follows no redirect: the key is for one server.
func newClient() *http.Client {
	return &http.Client{
		Timeout:       answerTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConns: 1, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: maxAnswer},
	}
}

// readKey reads a key from a file that no other user can read.
func readKey(path string) (string, error) {
	info, err := os.Stat(path)
	var at *fs.PathError
	switch {
	case errors.As(err, &at):
		return "", fmt.Errorf("key file %q: %w", path, at.Err)
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("key file %q is not a regular file", path)
	case info.Mode().Perm()&0o007 != 0:
		return "", fmt.Errorf("every user can read key file %q; run chmod o= %q", path, path)
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrPermission) {
		return "", fmt.Errorf("mefdaemon cannot read key file %q; run chgrp mef %q and chmod 640 %q", path, path, path)
	} else if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKey))
	if err != nil {
		return "", err
	}
	key := strings.TrimSpace(string(text))
	if key == "" || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("key file %q must have the key in one line, and nothing else", path)
	}
	return key, nil
}

// toAbuseIPDB reports an attack to AbuseIPDB.
func (c *collector) toAbuseIPDB(ctx context.Context, b *attack) outcome {
	form := url.Values{"ip": {b.addr.String()}, "categories": {b.kind.categories}, "comment": {comment(b)}, "timestamp": {b.time.UTC().Format(time.RFC3339)}}
	return c.do(ctx, http.MethodPost, c.url+"/report", form, isAbuseIPDB)
}

// testAbuseIPDB asks AbuseIPDB about an address of loopback, which shows whether the key is right and reports nothing.
func (c *collector) testAbuseIPDB(ctx context.Context) outcome {
	return c.do(ctx, http.MethodGet, c.url+"/check?ipAddress=127.0.0.1", nil, isAbuseIPDB)
}

// isAbuseIPDB checks that an answer is one of AbuseIPDB.
func isAbuseIPDB(body []byte) error {
	var answer struct {
		Data struct {
			IP netip.Addr `json:"ipAddress"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || !answer.Data.IP.IsValid() {
		return errors.New("its answer is not one of AbuseIPDB")
	}
	return nil
}

// toBlocklistDE reports an attack to blocklist.de.
func (c *collector) toBlocklistDE(ctx context.Context, b *attack) outcome {
	form := url.Values{"server": {c.server}, "service": {b.kind.service}, "ip": {b.addr.String()}, "format": {"text"}, "logs": {comment(b)}}
	return c.do(ctx, http.MethodPost, c.url, form, nil)
}

// testBlocklistDE finds out whether blocklist.de answers. It has no way of testing the key.
func (c *collector) testBlocklistDE(ctx context.Context) outcome {
	return c.do(ctx, http.MethodGet, c.url, nil, nil)
}

// do sends a request with the key and reads the answer. check, unless nil, looks at the body of one that reports success.
func (c *collector) do(ctx context.Context, method, to string, form url.Values, check func([]byte) error) (out outcome) {
	out.remains = -1
	key, err := readKey(c.keyFile)
	if err != nil {
		return outcome{err: err, trouble: true, again: true, pause: keyPause, remains: -1}
	}
	if form != nil && c.server != "" {
		form.Set("apikey", key)
	}
	sent := false
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { sent = true }})
	req, err := http.NewRequestWithContext(ctx, method, to, strings.NewReader(form.Encode()))
	if err != nil {
		return outcome{err: err, remains: -1}
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "mef")
	if c.server == "" {
		req.Header.Set("Key", key)
	}
	resp, err := c.client.Do(req)
	if err != nil {
		var inURL *url.Error
		if errors.As(err, &inURL) {
			err = inURL.Err // the URL may be long
			if inURL.Timeout() {
				err = fmt.Errorf("no answer within %v", answerTime)
			}
		}
		err = errors.New(diag.Printable(err.Error())) // a certificate may have any name
		return outcome{err: err, trouble: true, again: !sent, remains: -1}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	out = c.judge(resp, body)
	if !out.accepted {
		return out
	}
	if err == nil && check != nil {
		err = check(body)
	}
	if err != nil { // it may have been accepted: it is not sent again
		out.err, out.accepted, out.trouble = err, false, true
	}
	return out
}

// judge returns what an answer means, its body apart.
func (c *collector) judge(resp *http.Response, body []byte) (out outcome) {
	out.remains = -1
	if n, err := strconv.Atoi(resp.Header.Get("X-RateLimit-Remaining")); err == nil && n >= 0 {
		out.remains = n
	}
	wait := quotaPause(resp.Header, time.Now())
	switch code := resp.StatusCode; {
	case code >= 200 && code < 300:
		if out.accepted = true; out.remains == 0 {
			out.pause = wait
		}
	case code == http.StatusTooManyRequests:
		out.err, out.trouble, out.again, out.pause = errors.New("the quota is used up (429)"), true, true, wait
	case code == http.StatusUnauthorized, code == http.StatusForbidden, code == http.StatusPaymentRequired:
		out.err, out.trouble, out.again, out.pause = fmt.Errorf("the key is refused (%d%s); check %q", code, detail(body), c.keyFile), true, true, keyPause
	case code >= 300 && code < 400:
		out.err, out.trouble, out.again, out.pause = fmt.Errorf("it redirects to another address (%d), which is refused", code), true, true, keyPause
	case code >= 500:
		out.err, out.trouble, out.again = fmt.Errorf("it answers %d", code), true, true
		if resp.Header.Get("Retry-After") != "" {
			out.pause = wait
		}
	default:
		out.err = fmt.Errorf("the report is refused (%d%s)", code, detail(body))
	}
	return out
}

const (
	defaultPause = 15 * time.Minute // after a used up quota, if the answer does not say for how long
	shortest     = time.Second
	longest      = 25 * time.Hour // of pauses that others ask for
	keyPause     = 10 * time.Minute
)

// quotaPause returns for how long an answer asks to send nothing.
func quotaPause(h http.Header, now time.Time) time.Duration {
	pause := defaultPause
	if seconds, err := strconv.Atoi(h.Get("Retry-After")); err == nil {
		pause = time.Duration(min(seconds, int(longest/time.Second))) * time.Second
	} else if at, err := http.ParseTime(h.Get("Retry-After")); err == nil {
		pause = at.Sub(now)
	} else if unix, err := strconv.ParseInt(h.Get("X-RateLimit-Reset"), 10, 64); err == nil {
		pause = time.Unix(unix, 0).Sub(now)
	}
	return min(max(pause, shortest), longest)
}

// detail returns what an answer of AbuseIPDB states as its error, quoted; "" if it states none.
func detail(body []byte) string {
	var answer struct {
		Errors []struct {
			Detail string `json:"detail"`
		} `json:"errors"`
	}
	if json.Unmarshal(body, &answer) != nil || len(answer.Errors) == 0 {
		return ""
	}
	text := answer.Errors[0].Detail
	return ": " + strconv.Quote(text[:min(len(text), 200)])
}
