package page

import (
	"cmp"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"time"

	"mef/internal/control"
)

// What can be chosen in the views of the past.
var (
	windows = []string{"hour", "day", "month", "year"}
	tables  = []string{"services", "sources", "networks", "ports", "names"}
)

// choice returns the value of a parameter if it is one of those that there are, otherwise the first.
func choice(r *http.Request, name string, of []string) string {
	if v := r.URL.Query().Get(name); slices.Contains(of, v) {
		return v
	}
	return of[0]
}

func (s *site) history(r *http.Request, v viewer) (view, error) {
	page := view{Page: "history", Title: "History"}
	window := choice(r, "window", windows)
	h, err := v.client.History(r.Context(), window)
	came := sumOf(&h, control.KindAttempts, control.OfFamily)
	guessed := min(came, sumOf(&h, control.KindTargeted, control.OfFamily))
	page.Data = struct {
		Window         string
		Windows        []string
		Charts         []chart
		Start          time.Time
		Step           time.Duration
		Problem        string
		Stopped, Came  uint64
		Noise, Guessed uint64
	}{window, windows, charts(&h), h.Start, h.Step, h.Problem, sumOf(&h, control.KindDrops, control.OfCause), came, came - guessed, guessed}
	return page, err
}

func (s *site) stats(r *http.Request, v viewer) (view, error) {
	page := view{Page: "stats", Title: "Statistics"}
	by, window := choice(r, "by", tables), choice(r, "window", windows)
	t, err := v.client.Stats(r.Context(), window, by, 0)
	page.Data = struct {
		By, Window      string
		Tables, Windows []string
		control.Stats
	}{by, window, tables, windows, t}
	return page, err
}

func (s *site) past(r *http.Request, v viewer) (view, error) {
	page := view{Page: "past", Title: "Past bans"}
	query := strings.TrimSpace(clip(r.URL.Query().Get("q"), 256))
	bans, err := v.client.PastBans(r.Context(), query, 0)
	page.Data = struct {
		Query string
		Bans  []control.PastBan
	}{query, bans}
	return page, err
}

// A chart has the curves of one kind.
type chart struct {
	Title  string
	Most   uint64
	Curves []curve
	SVG    template.HTML
}

// A curve is one label's, with the colour of its number.
type curve struct {
	Label string
	Sum   uint64
	Class int
}

// curvesShown is how many labels a chart shows, those with the largest sums.
const curvesShown = 6

// charts returns what a history is shown as: attempts, those of which that are targeted, bans, logins and drops.
func charts(h *control.History) (all []chart) {
	for _, c := range []struct{ title, kind, of string }{
		{"Attempts by service", control.KindAttempts, control.OfService},
		{"Attempts at accounts of this host, by service", control.KindTargeted, control.OfService},
		{"Bans by service", control.KindBans, control.OfService},
		{"Packets dropped, by cause", control.KindDrops, control.OfCause},
		{"Packets dropped, by service", control.KindDrops, control.OfService},
		{"Logins by service", control.KindLogins, control.OfService},
		{"Attempts by family of addresses", control.KindAttempts, control.OfFamily},
		{"Packets dropped, by family of addresses", control.KindDrops, control.OfFamily},
	} {
		all = append(all, chartOf(h, c.title, c.kind, c.of))
	}
	return all
}

func chartOf(h *control.History, title, kind, of string) chart {
	var series []control.Series
	for _, s := range h.Series {
		if s.Kind == kind && s.Of == of {
			series = append(series, s)
		}
	}
	slices.SortStableFunc(series, func(a, b control.Series) int { return cmp.Compare(sum(b.Values), sum(a.Values)) })
	series = series[:min(len(series), curvesShown)]
	c := chart{Title: title}
	for _, s := range series {
		for _, v := range s.Values {
			c.Most = max(c.Most, v)
		}
	}
	var lines strings.Builder
	for i, s := range series {
		c.Curves = append(c.Curves, curve{s.Label, sum(s.Values), i})
		lines.WriteString(polyline(s.Values, c.Most, i))
	}
	c.SVG = picture(lines.String())
	return c
}

func sum(values []uint64) (n uint64) {
	for _, v := range values {
		n += v
	}
	return n
}

func sumOf(h *control.History, kind, of string) (n uint64) {
	for _, s := range h.Series {
		if s.Kind == kind && s.Of == of {
			n += sum(s.Values)
		}
	}
	return n
}

// link returns the address of a view with other parameters.
func link(path string, values ...string) (string, error) {
	if len(values)%2 != 0 {
		return "", fmt.Errorf("link %s: %d values", path, len(values))
	}
	for i := 0; i < len(values); i += 2 {
		separator := "&"
		if i == 0 {
			separator = "?"
		}
		path += separator + values[i] + "=" + values[i+1]
	}
	return path, nil
}
