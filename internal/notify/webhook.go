package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"mef/internal/conf"
	"mef/internal/printable"
	"mef/internal/webclient"
)

// A form is how a web hook wants a message: it returns the request's body and sets what else belongs to it. A service of another kind is
// one more of them.
type form func(cfg *conf.Notify, key string, m *message, r *http.Request) (body []byte, err error)

// forms are the forms of conf.NotifyFormats.
var forms = map[string]form{
	"json":     asJSON,
	"ntfy":     asNtfy,
	"gotify":   asGotify,
	"slack":    asSlack,
	"telegram": asTelegram,
	"matrix":   asMatrix,
	"own":      asOwn,
}

// asJSON is the message itself.
func asJSON(_ *conf.Notify, key string, m *message, r *http.Request) ([]byte, error) {
	bearer(r, key)
	return printable.Marshal(m)
}

func bearer(r *http.Request, key string) {
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
}

// asNtfy is what ntfy takes at the URL of a topic: the text as the body, everything else in headers.
func asNtfy(_ *conf.Notify, key string, m *message, r *http.Request) ([]byte, error) {
	bearer(r, key)
	r.Header.Set("Content-Type", "text/plain; charset=utf-8")
	r.Header.Set("Title", m.Title)
	r.Header.Set("Priority", map[level]string{info: "2", warning: "4", alarm: "5"}[m.Level])
	r.Header.Set("Tags", map[level]string{info: "shield", warning: "warning", alarm: "rotating_light"}[m.Level])
	return []byte(m.Text), nil
}

// asGotify is what Gotify takes at /message.
func asGotify(_ *conf.Notify, key string, m *message, r *http.Request) ([]byte, error) {
	r.Header.Set("X-Gotify-Key", key)
	r.URL = r.URL.JoinPath("message")
	return json.Marshal(map[string]any{"title": m.Title, "message": m.Text, "priority": map[level]int{info: 2, warning: 5, alarm: 8}[m.Level]})
}

// asSlack is what Slack and those that imitate it take: three characters are escaped, so that no name becomes a link or addresses a channel.
// Mattermost and Rocket.Chat take any "@all" for one that does, unless something is behind the "@".
func asSlack(_ *conf.Notify, _ string, m *message, _ *http.Request) ([]byte, error) {
	text := strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "@", "@\u200b").Replace(m.Title + "\n" + m.Text)
	return json.Marshal(map[string]any{"text": text, "link_names": false, "unfurl_links": false})
}

// asTelegram is what the sendMessage method of a bot takes. Without parse_mode the text is plain.
func asTelegram(cfg *conf.Notify, _ string, m *message, _ *http.Request) ([]byte, error) {
	return json.Marshal(map[string]any{"chat_id": cfg.To, "text": m.Title + "\n" + m.Text,
		"disable_notification": m.Level == info, "link_preview_options": map[string]bool{"is_disabled": true}})
}

// asMatrix is what the client-server interface of Matrix takes. An empty m.mentions has nobody addressed, whatever is in the text.
func asMatrix(cfg *conf.Notify, key string, m *message, r *http.Request) ([]byte, error) {
	bearer(r, key)
	r.Method = http.MethodPut
	r.URL = r.URL.JoinPath("_matrix/client/v3/rooms", url.PathEscape(cfg.To), "send/m.room.message", strconv.FormatInt(m.Time.UnixNano(), 36))
	return json.Marshal(map[string]any{"msgtype": "m.text", "body": m.Title + "\n" + m.Text, "m.mentions": struct{}{}})
}

// asOwn is what the operator's body has.
func asOwn(cfg *conf.Notify, key string, m *message, r *http.Request) ([]byte, error) {
	bearer(r, key)
	values := [...]string{m.Title, m.Text, string(m.Level), m.Host} // as conf.NotifyPlaceholders
	var pairs []string
	isJSON := conf.NotifyJSON(cfg.Body)
	if !isJSON {
		r.Header.Set("Content-Type", "text/plain; charset=utf-8")
	}
	for i, name := range conf.NotifyPlaceholders {
		value := values[i]
		if isJSON {
			quoted, err := json.Marshal(value)
			if err != nil {
				return nil, err
			}
			value = string(quoted[1 : len(quoted)-1])
		}
		pairs = append(pairs, "{"+name+"}", value)
	}
	return []byte(strings.NewReplacer(pairs...).Replace(cfg.Body)), nil
}

// webHook returns the way to a web hook.
func webHook(cfg conf.Notify) way {
	client := webclient.New()
	return func(ctx context.Context, m *message) outcome {
		req, key, err := request(ctx, &cfg, m)
		if err != nil {
			return outcome{err: err}
		}
		resp, err := client.Do(req)
		if err != nil {
			return outcome{err: webclient.Shown(err)}
		}
		defer resp.Body.Close()
		answer, _ := io.ReadAll(io.LimitReader(resp.Body, webclient.MaxAnswer))
		return judge(resp, hide(answer, key))
	}
}

// hide returns an answer without the key: some servers repeat the URL of a request that they refuse.
func hide(answer []byte, key string) []byte {
	if key == "" {
		return answer
	}
	return []byte(strings.NewReplacer(key, "{key}", pathOf(key), "{key}", url.PathEscape(key), "{key}", url.QueryEscape(key), "{key}",
		strings.ReplaceAll(key, "/", `\/`), "{key}").Replace(string(answer)))
}

// pathOf returns a key as it is in the path of a URL. What Slack and Discord give out has slashes in it.
func pathOf(key string) string { return strings.ReplaceAll(url.PathEscape(key), "%2F", "/") }

// request returns the request that sends a message, and the key in it.
func request(ctx context.Context, cfg *conf.Notify, m *message) (req *http.Request, key string, err error) {
	if cfg.KeyFile != "" {
		if key, err = webclient.ReadKey(cfg.KeyFile); err != nil {
			return nil, "", err
		}
	}
	to, beside := cfg.URL, key
	if strings.Contains(to, "{key}") {
		to, beside = strings.ReplaceAll(to, "{key}", pathOf(key)), ""
	}
	if req, err = http.NewRequestWithContext(ctx, http.MethodPost, to, nil); err != nil {
		return nil, "", webclient.Shown(err)
	}
	if req.URL.Path == "" {
		req.URL.Path = "/" // JoinPath keeps it relative otherwise
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "mef")
	body, err := forms[cfg.Format](cfg, beside, m, req)
	if err != nil {
		return nil, "", err
	}
	req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return req, key, nil
}

// judge returns what an answer means. Telegram and Slack state the reason of a refusal in the body.
func judge(resp *http.Response, answer []byte) outcome {
	code := resp.StatusCode
	pause := time.Duration(0)
	if resp.Header.Get("Retry-After") != "" {
		pause = webclient.Pause(resp.Header, time.Now(), 0)
	}
	detail := ""
	if text := strings.TrimSpace(string(answer)); text != "" && resp.Header.Get("Content-Type") != "" && !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
		detail = ": " + strconv.Quote(text[:min(len(text), 200)])
	}
	switch {
	case code >= 200 && code < 300:
		return outcome{}
	case code == http.StatusTooManyRequests:
		return outcome{err: fmt.Errorf("it wants fewer messages (429)"), pause: max(pause, time.Minute)}
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return outcome{err: fmt.Errorf("the key is refused (%d%s); check key_file and url", code, detail), pause: pause}
	case code >= 300 && code < 400:
		return outcome{err: fmt.Errorf("it redirects to another address (%d); write that one in url", code), pause: pause}
	}
	return outcome{err: fmt.Errorf("it answers %d%s", code, detail), pause: pause}
}
