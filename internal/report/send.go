package report

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"mef/internal/webclient"
)

const (
	abuseIPDB   = "https://api.abuseipdb.com/api/v2"
	blocklistDE = "https://www.blocklist.de/en/httpreports.html"
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
	key, err := webclient.ReadKey(c.keyFile)
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
		return outcome{err: webclient.Shown(err), trouble: true, again: !sent, remains: -1}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, webclient.MaxAnswer))
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
	wait := webclient.Pause(resp.Header, time.Now(), defaultPause)
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
	keyPause     = 10 * time.Minute
)

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
