package control

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"
)

// A Picture is what mefctl top, the operator's page and the metrics show. It is made of counters, at most once a second for all viewers
// together, and no set in the kernel is read for it.
type Picture struct {
	Now     time.Time `json:"now"`
	Since   time.Time `json:"since"` // of the daemon
	Version string    `json:"version"`

	// Level is Green, Yellow or Red, and Text is why in a sentence. They, Missing, Warnings, Alarms and Attacks are those of Status as it was
	// at Judged, which is some seconds ago.
	Level    string    `json:"level"`
	Text     string    `json:"text"`
	Judged   time.Time `json:"judged"`
	Missing  []string  `json:"missing,omitempty"`
	Warnings []string  `json:"warnings,omitempty"`
	Alarms   []string  `json:"alarms,omitempty"`  // at most three, as in Status
	Attacks  []string  `json:"attacks,omitempty"` // at most three, as in Status

	Counters

	Seconds   []Second   `json:"seconds"`   // the last minute, the oldest first; the last one is that before Now
	Attackers []Attacker `json:"attackers"` // at most MaxAttackers, by score
}

// Counters are what the parts of the daemon count, now.
type Counters struct {
	Mode       string           `json:"mode"`     // "enforce" or "observe"
	Attempts   uint64           `json:"attempts"` // failures of all rules since the start, as in Rule
	Probes     uint64           `json:"probes"`
	Logins     uint64           `json:"logins"`
	AlarmCount int              `json:"alarm_count"` // alarms that no operator has acknowledged
	Bans       Tally            `json:"bans"`
	Dropped    Drops            `json:"dropped"`
	Services   []ServiceCounter `json:"services"`

	ScoreLimit int                      `json:"-"` // the score that bans
	HalfLife   time.Duration            `json:"-"` // of scores
	InForce    map[netip.Addr]time.Time `json:"-"` // the ends of bans of addresses that were asked about; zero: until lifted
	Ports      map[string]string        `json:"-"` // by rule, on which its bans hold, as in Rule
}

// Drops are packets that the kernel dropped since it has our table; it counts on while the daemon restarts.
type Drops struct {
	Known      bool   `json:"known"`      // the counters could be read
	Total      uint64 `json:"total"`      // the sum of the following
	Verified   uint64 `json:"verified"`   // from banned addresses
	Unverified uint64 `json:"unverified"` // from addresses with an unverified ban
	Replies    uint64 `json:"replies"`    // to banned addresses
	Lists      uint64 `json:"lists"`      // by the blacklist, feeds, and the list of a community server
}

// MaxAttackers is how many attackers a Picture has.
const MaxAttackers = 50

// A Second is what happened in one second.
type Second struct {
	Attempts uint64 `json:"attempts"`
	Bans     uint64 `json:"bans"`
	Drops    uint64 `json:"drops"` // packets; 0 while nobody looked
}

// A ServiceCounter is a service that rules are about.
type ServiceCounter struct {
	Name     string   `json:"name"`
	State    string   `json:"state"` // where its lines are read, as Rule.Live: "journal", "files", "none", "off"
	Rules    []string `json:"rules"`
	Failures uint64   `json:"failures"` // since the start, this and the following
	Probes   uint64   `json:"probes"`
	Logins   uint64   `json:"logins"`
	Bans     uint64   `json:"bans"`
	Sources  int      `json:"sources"` // that failed within about an hour
}

// An Attacker is a source of attempts.
type Attacker struct {
	Addr     string     `json:"addr"`
	Score    float64    `json:"score"` // decayed to now
	Limit    int        `json:"limit"` // the score that bans
	Banned   bool       `json:"banned,omitempty"`
	Until    *time.Time `json:"until,omitempty"` // nil: not banned, or until lifted
	Rule     string     `json:"rule"`            // of the ban, otherwise of the latest attempt
	Service  string     `json:"service"`
	Attempts uint64     `json:"attempts"` // since it is followed
	Last     time.Time  `json:"last"`
}

// A ViewService answers what viewers ask for again and again.
type ViewService interface {
	Picture(ctx context.Context) (Picture, error)
	// History returns what was counted over a window that ends now: "hour", "day", "month" or "year".
	History(ctx context.Context, window string) (History, error)
	// Stats returns the first n rows of a table over such a window, by "ports", "services", "sources", "networks" or "names"; MaxStats with n=0.
	Stats(ctx context.Context, window, by string, n int) (Stats, error)
	// PastBans returns the latest bans and unbans of which a field contains a text, or whose addresses contain it if it is an address, or the
	// ban that it is the reference of; at most n.
	PastBans(ctx context.Context, query string, n int) ([]PastBan, error)
}

// Kinds of series. What services log has got through to them: attempts, those of which that are targeted at an account of this host other than root
// (the others are noise), and logins. Drops are packets that the kernel stopped: by cause they
// are counted, and by service and family each packet stands for what samples say, so that the sums are the same; those of services that do not run here, and
// those without samples, are those of "other", the latter of no family.
const (
	KindAttempts = "attempts"
	KindTargeted = "targeted"
	KindLogins   = "logins"
	KindBans     = "bans"
	KindDrops    = "drops"
)

// What the labels of series are.
const (
	OfService = "service"
	OfFamily  = "family" // "ipv4" or "ipv6"
	OfCause   = "cause"  // of drops: "ban", "unverified_ban", "reply" or "list"
)

// A History is what was counted over a window. Series that are zero all the time are left out; what happened while the daemon did not run was not counted,
// but for drops by cause.
type History struct {
	Start   time.Time     `json:"start"` // of the first values
	Step    time.Duration `json:"step_ns"`
	Series  []Series      `json:"series"`
	Problem string        `json:"problem,omitempty"` // why the history is not saved
}

// Series are the values of one kind and label. Each service and each family has all events of a kind, so series of different Of must not be added up.
type Series struct {
	Kind   string   `json:"kind"`
	Of     string   `json:"of"`
	Label  string   `json:"label"`
	Values []uint64 `json:"values"`
}

// MaxStats is how many rows Stats have at most.
const MaxStats = 100

// Stats are a table over a window. It counts the labels that occur most; with very many labels some counts are too low, and in a second with thousands of
// attempts it counts a sample of them, each for as many.
type Stats struct {
	By      string    `json:"by"`
	Since   time.Time `json:"since"` // the beginning of the first hour or day that is counted
	Rows    []StatRow `json:"rows"`
	Problem string    `json:"problem,omitempty"` // why the history is not saved
}

// A StatRow is what was counted of a label. Labels may have any bytes: attackers choose names. A long one is cut.
type StatRow struct {
	Label    string    `json:"label"`
	Attempts uint64    `json:"attempts"`
	Bans     uint64    `json:"bans"`
	Drops    uint64    `json:"drops"` // packets; 0 for names
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
}

// A PastBan is a ban or an unban that was reported.
type PastBan struct {
	Time    time.Time  `json:"time"`
	Event   string     `json:"event"` // "ban" or "unban"
	Prefix  string     `json:"prefix"`
	Ports   string     `json:"ports,omitempty"`
	Class   string     `json:"class,omitempty"`
	Rule    string     `json:"rule,omitempty"`
	Service string     `json:"service,omitempty"`
	Until   *time.Time `json:"until,omitempty"`
	Reason  string     `json:"reason,omitempty"` // may be cut
	Author  string     `json:"author,omitempty"`
	Note    string     `json:"note,omitempty"` // may be cut

	Reference string `json:"reference,omitempty"` // of a ban of which the page for blocked customers may have shown it
}

// handleViews adds the routes of viewers.
func handleViews(mux *http.ServeMux, s ViewService, l limits) {
	mux.HandleFunc("GET /v1/picture", func(w http.ResponseWriter, r *http.Request) {
		v, err := s.Picture(r.Context())
		answer(w, v, err)
	})
	number := func(r *http.Request) int {
		n, _ := strconv.Atoi(r.URL.Query().Get("n"))
		return max(0, n)
	}
	mux.HandleFunc("GET /v1/history", l.oneBig(func(w http.ResponseWriter, r *http.Request) {
		v, err := s.History(r.Context(), r.URL.Query().Get("window"))
		answer(w, v, err)
	}))
	mux.HandleFunc("GET /v1/stats", l.oneBig(func(w http.ResponseWriter, r *http.Request) {
		v, err := s.Stats(r.Context(), r.URL.Query().Get("window"), r.URL.Query().Get("by"), number(r))
		answer(w, v, err)
	}))
	mux.HandleFunc("GET /v1/bans/past", l.oneBig(func(w http.ResponseWriter, r *http.Request) {
		v, err := s.PastBans(r.Context(), r.URL.Query().Get("q"), number(r))
		answer(w, v, err)
	}))
}

// History asks for the series of a window.
func (c *Client) History(ctx context.Context, window string) (v History, err error) {
	return v, c.do(ctx, http.MethodGet, "/v1/history?"+url.Values{"window": {window}}.Encode(), nil, &v)
}

// Stats asks for a table over a window.
func (c *Client) Stats(ctx context.Context, window, by string, n int) (v Stats, err error) {
	query := url.Values{"window": {window}, "by": {by}, "n": {strconv.Itoa(n)}}
	return v, c.do(ctx, http.MethodGet, "/v1/stats?"+query.Encode(), nil, &v)
}

// PastBans searches the latest bans and unbans.
func (c *Client) PastBans(ctx context.Context, query string, n int) (v []PastBan, err error) {
	return v, c.do(ctx, http.MethodGet, "/v1/bans/past?"+url.Values{"q": {query}, "n": {strconv.Itoa(n)}}.Encode(), nil, &v)
}

// Picture asks for the picture of the last second.
func (c *Client) Picture(ctx context.Context) (v Picture, err error) {
	return v, c.do(ctx, http.MethodGet, "/v1/picture", nil, &v)
}
