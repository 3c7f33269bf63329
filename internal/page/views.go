package page

import (
	"bytes"
	"fmt"
	"html/template"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"mef/internal/control"
	"mef/internal/duration"
	"mef/internal/printable"
)

// A view is what a template shows.
type view struct {
	Page, Title string
	Viewer      viewer
	Problem     string // why something was not done
	Done        string // what was done
	Addr        string // that this is about
	Refresh     int    // seconds; 0: it stays
	Data        any
}

// refreshTime is how often the overview is loaded again, in seconds.
const refreshTime = 5

func (s *site) overview(r *http.Request, v viewer) (view, error) {
	page := view{Page: "overview", Title: "Overview", Refresh: refreshTime}
	filter, paused := strings.TrimSpace(clip(r.URL.Query().Get("filter"), 64)), r.URL.Query().Get("pause") != ""
	if paused {
		page.Refresh = 0
	}
	picture, err := v.client.Picture(r.Context())
	all := len(picture.Attackers)
	picture.Attackers = slices.DeleteFunc(picture.Attackers, func(a control.Attacker) bool {
		return !strings.Contains(fmt.Sprint(a.Addr, " ", a.Rule, " ", a.Service), filter)
	})
	page.Data = struct {
		control.Picture
		Filter string // attackers whose address, rule or service contains it are shown
		Paused bool
		All    int // attackers
	}{picture, filter, paused, all}
	return page, err
}

// maxAlarms is how many alarms are shown, the latest ones.
const maxAlarms = 100

// alarms shows those that nobody has acknowledged.
func (s *site) alarms(r *http.Request, v viewer) (view, error) {
	page := view{Page: "alarms", Title: "Alarms"}
	alarms, err := v.client.Alarms(r.Context())
	alarms = slices.DeleteFunc(alarms, func(a control.Alarm) bool { return a.Acked })
	slices.Reverse(alarms)
	page.Data = struct {
		Alarms []control.Alarm
		More   int
	}{alarms[:min(len(alarms), maxAlarms)], max(0, len(alarms)-maxAlarms)}
	return page, err
}

// acknowledge marks the alarms of a form as seen, and no others: those that came meanwhile were not shown.
func (s *site) acknowledge(r *http.Request, v viewer) (string, error) {
	var req control.AckRequest
	for _, text := range r.PostForm["id"] {
		id, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return "", control.Refuse("%s is not the number of an alarm", strconv.Quote(clip(text, 64)))
		}
		req.IDs = append(req.IDs, id)
	}
	if len(req.IDs) == 0 {
		return "", control.Refuse("choose an alarm")
	}
	done, err := v.client.Acknowledge(r.Context(), req)
	return fmt.Sprintf("Alarms marked as seen: %d", done.Acked), err
}

func (s *site) services(r *http.Request, v viewer) (view, error) {
	page := view{Page: "services", Title: "Services and rules"}
	services, err := v.client.Services(r.Context())
	if err != nil {
		return page, err
	}
	status, err := v.client.Status(r.Context())
	page.Data = struct {
		Services []control.ListeningService
		Rules    []control.Rule
	}{services, status.Rules}
	return page, err
}

func (s *site) why(r *http.Request, v viewer) (view, error) {
	page := view{Page: "why", Title: "Why"}
	addr, err := parseAddr(r.URL.Query().Get("addr"))
	if err != nil {
		return page, err
	}
	page.Addr = addr.String()
	page.Title = page.Addr
	page.Data, err = v.client.Why(r.Context(), addr)
	return page, err
}

// unban lifts every ban that covers an address.
func (s *site) unban(r *http.Request, v viewer) (string, error) {
	addr, err := parseAddr(r.PostFormValue("addr"))
	if err != nil {
		return "", err
	}
	lifted, err := v.client.Unban(r.Context(), control.UnbanRequest{Prefix: addr.String(), Covering: true, Note: r.PostFormValue("note")})
	if err != nil {
		return "", err
	}
	var names []string
	for _, b := range lifted {
		names = append(names, b.Prefix)
	}
	return "Unbanned: " + strings.Join(names, ", "), nil
}

func (s *site) ban(r *http.Request, v viewer) (string, error) {
	addr, err := parseAddr(r.PostFormValue("addr"))
	if err != nil {
		return "", err
	}
	length, err := parseLength(r.PostFormValue("for"))
	if err != nil {
		return "", err
	}
	b, err := v.client.Ban(r.Context(), control.BanRequest{Prefix: addr.String(), For: length, Note: r.PostFormValue("note"), Caller: peerOf(r.Context()).addr})
	return "Banned: " + b.Prefix, err
}

func (s *site) allow(r *http.Request, v viewer) (string, error) {
	addr, err := parseAddr(r.PostFormValue("addr"))
	if err != nil {
		return "", err
	}
	length, err := parseLength(r.PostFormValue("for"))
	if err != nil {
		return "", err
	}
	e, err := v.client.Allow(r.Context(), control.AllowRequest{Entry: addr.String(), For: length, Note: r.PostFormValue("note")})
	return "Allowed: " + e.Entry, err
}

func (s *site) disallow(r *http.Request, v viewer) (string, error) {
	addr, err := parseAddr(r.PostFormValue("addr"))
	if err != nil {
		return "", err
	}
	e, err := v.client.Disallow(r.Context(), control.AllowRequest{Entry: addr.String(), Note: r.PostFormValue("note")})
	return "No longer allowed: " + e.Entry, err
}

func parseAddr(text string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(strings.TrimSpace(text))
	if err != nil {
		return addr, control.Refuse("%s is no address; write one such as 192.0.2.7 or 2001:db8::7", strconv.Quote(clip(text, 64)))
	}
	return addr.Unmap().WithZone(""), nil
}

// parseLength reads how long a ban or an entry holds; empty: until somebody ends it.
func parseLength(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := duration.Parse(text)
	if err != nil || d <= 0 {
		return 0, control.Refuse("%s is no duration; write one such as 30m, 12h or 7d, or nothing for no end", strconv.Quote(clip(text, 64)))
	}
	return d, nil
}

// maxShown is how much of a text that others chose is shown, in bytes.
const maxShown = 400

// clip returns at most n bytes of text.
func clip(text string, n int) string {
	if len(text) <= n {
		return text
	}
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n] + "…"
}

// safe returns text that others may have chosen as it is shown: cut, and with everything escaped that is not printable.
func safe(text string) string {
	var out bytes.Buffer
	w := printable.Text(&out)
	_, _ = w.Write([]byte(clip(text, maxShown))) // a buffer takes all
	_ = w.Flush()
	return out.String()
}

// funcs are the functions of the templates.
func funcs(s *site) template.FuncMap {
	return template.FuncMap{
		"safe":   func(v any) string { return safe(fmt.Sprint(v)) },
		"brief":  func(v any) string { return safe(clip(fmt.Sprint(v), 80)) }, // in a table
		"quoted": func(text string) string { return strconv.Quote(clip(text, maxShown)) },
		"isAddr": func(text string) bool { // a zone may be any text
			addr, err := netip.ParseAddr(text)
			return err == nil && addr.Zone() == ""
		},
		"ago": func(t time.Time) string { return ago(s.now().Sub(t)) },
		"left": func(t *time.Time) string {
			if t == nil {
				return "until lifted"
			}
			return ago(t.Sub(s.now()))
		},
		"at":    func(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05 MST") },
		"count": count, "packets": func(n *uint64) string { return count(*n) }, "minute": minute,
		"link":   link,
		"each":   ago,
		"single": func(prefix string) string { return strings.TrimSuffix(strings.TrimSuffix(prefix, "/32"), "/128") },
		"list":   func(items []string) string { return safe(strings.Join(items, ", ")) },
	}
}

// ago is a duration in one unit or two.
func ago(d time.Duration) string {
	switch d = max(0, d); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh %dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd %dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}

// count is a number with its digits in groups.
func count(v any) string {
	text := fmt.Sprint(v)
	if strings.ContainsAny(text, ".e-") {
		return text
	}
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "\u202f" + text[i:]
	}
	return text
}
