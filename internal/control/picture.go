package control

import (
	"context"
	"net/http"
	"net/netip"
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
}

// handleViews adds the routes of viewers.
func handleViews(mux *http.ServeMux, s ViewService) {
	mux.HandleFunc("GET /v1/picture", func(w http.ResponseWriter, r *http.Request) {
		v, err := s.Picture(r.Context())
		answer(w, v, err)
	})
}

// Picture asks for the picture of the last second.
func (c *Client) Picture(ctx context.Context) (v Picture, err error) {
	return v, c.do(ctx, http.MethodGet, "/v1/picture", nil, &v)
}
