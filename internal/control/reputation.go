package control

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"time"
)

// A DNSBL is what DNS block lists are asked about sources.
type DNSBL struct {
	Lists []DNSBLList `json:"lists,omitempty"` // none: rbl_enabled=false
}

// A DNSBLList is one list.
type DNSBLList struct {
	Name    string        `json:"name"` // K of rbl_K_*
	Zone    string        `json:"zone"`
	Usable  bool          `json:"usable"`            // through one of the name servers
	Problem string        `json:"problem,omitempty"` // why it is not, and what to do
	Servers []DNSBLServer `json:"servers,omitempty"` // that were tested
	Queries uint64        `json:"queries"`           // since the start, like all counts
	Listed  uint64        `json:"listed"`            // addresses that were found
	Failed  uint64        `json:"failed"`            // queries without a usable answer
	LeftOut uint64        `json:"left_out"`          // addresses that were not asked about: there were too many, or no name server could be used
	Waiting int           `json:"waiting"`           // addresses that are to be asked about
	Cached  int           `json:"cached"`            // addresses whose answers are kept
}

// String returns how the list is used: "bl.example.org, 12 queries since start, 3 addresses listed".
func (l DNSBLList) String() string {
	text := fmt.Sprintf("%s, %d queries since start, %d addresses listed", l.Zone, l.Queries, l.Listed)
	switch {
	case l.Problem != "":
		text = l.Zone + ", not used"
	case !l.Usable:
		text = l.Zone + ", not tested yet"
	}
	if l.Failed > 0 {
		text += fmt.Sprintf(", %d without an answer", l.Failed)
	}
	if l.LeftOut > 0 {
		text += fmt.Sprintf(", %d not asked about", l.LeftOut)
	}
	if l.Waiting > 0 {
		text += fmt.Sprintf(", %d waiting", l.Waiting)
	}
	return text
}

// A DNSBLServer is a name server through which a list is asked.
type DNSBLServer struct {
	Server string     `json:"server"` // host:port
	Usable bool       `json:"usable"`
	IPv6   bool       `json:"ipv6"` // the list has IPv6 addresses
	Tested *time.Time `json:"tested,omitempty"`
	Cause  string     `json:"cause,omitempty"` // why it cannot be used
	Retry  *time.Time `json:"retry,omitempty"` // when it is tested again
}

// A DNSBLAnswer is what one list reports of an address.
type DNSBLAnswer struct {
	List    string `json:"list"`
	Zone    string `json:"zone"`
	Server  string `json:"server,omitempty"`
	Listed  bool   `json:"listed"`
	Codes   string `json:"codes,omitempty"`  // "127.0.0.2" or several
	Reason  string `json:"reason,omitempty"` // the list's own
	Action  string `json:"action,omitempty"` // what the listing leads to: "ban", "40 points" or "reported only"
	Problem string `json:"problem,omitempty"`
}

// Reports are what was reported to one collector of reports, since the start.
type Reports struct {
	To       string     `json:"to"`       // "abuseipdb" or "blocklist.de"
	Sent     uint64     `json:"sent"`     // accepted
	Refused  uint64     `json:"refused"`  // not accepted, and not sent again
	Repeated uint64     `json:"repeated"` // not sent, because the address had been reported just before
	LeftOut  uint64     `json:"left_out"` // not sent, because there were too many or they had waited for too long
	Waiting  int        `json:"waiting"`
	Last     *time.Time `json:"last,omitempty"`    // that was accepted
	Quota    *int       `json:"quota,omitempty"`   // reports that are left of it
	Until    *time.Time `json:"until,omitempty"`   // nothing is sent before
	Problem  string     `json:"problem,omitempty"` // why reports fail
}

// String returns what was reported in a sentence: "abuseipdb, 12 reports sent since start, 3 waiting".
func (r Reports) String() string {
	text := fmt.Sprintf("%s, %d reports sent since start", r.To, r.Sent)
	for _, part := range []struct {
		n    uint64
		what string
	}{{uint64(r.Waiting), "waiting"}, {r.Refused, "refused"}, {r.Repeated, "of the same address left out"}, {r.LeftOut, "left out"}} {
		if part.n > 0 {
			text += fmt.Sprintf(", %d %s", part.n, part.what)
		}
	}
	if r.Quota != nil {
		text += fmt.Sprintf(", %d left of the quota", *r.Quota)
	}
	return text
}

// A SendTest is whether something that this host sends is accepted: reports by a collector, or a notification.
type SendTest struct {
	To     string `json:"to"` // "abuseipdb", "blocklist.de", or the name of a section [notify NAME]
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

// A ReputationService answers about what others know of addresses, and what is reported to them.
type ReputationService interface {
	// CheckDNSBL asks all lists about an address now.
	CheckDNSBL(ctx context.Context, addr netip.Addr) ([]DNSBLAnswer, error)
	// TestReports tries whether reports could be sent. None is.
	TestReports(ctx context.Context) ([]SendTest, error)
}

// handleReputation adds the routes of block lists and reports.
func handleReputation(mux *http.ServeMux, s ReputationService) {
	mux.HandleFunc("GET /v1/dnsbl", func(w http.ResponseWriter, r *http.Request) {
		addr, err := netip.ParseAddr(r.URL.Query().Get("addr"))
		if err != nil {
			answer(w, nil, &Error{"dnsbl needs addr=ADDRESS, such as 192.0.2.7 or 2001:db8::7"})
			return
		}
		v, err := s.CheckDNSBL(r.Context(), addr.Unmap().WithZone(""))
		answer(w, v, err)
	})
	mux.HandleFunc("POST /v1/reports/test", func(w http.ResponseWriter, r *http.Request) {
		v, err := s.TestReports(r.Context())
		answer(w, v, err)
	})
}

// CheckDNSBL asks what block lists report of an address.
func (c *Client) CheckDNSBL(ctx context.Context, addr netip.Addr) (v []DNSBLAnswer, err error) {
	return v, c.do(ctx, http.MethodGet, "/v1/dnsbl?addr="+url.QueryEscape(addr.String()), nil, &v)
}

// TestReports tries whether reports could be sent.
func (c *Client) TestReports(ctx context.Context) (v []SendTest, err error) {
	return v, c.do(ctx, http.MethodPost, "/v1/reports/test", struct{}{}, &v)
}

// StatusChanged is the Event of a record that the status has turned red or yellow, or is well again; its Level says which.
const StatusChanged = "status"

// Levels of a status.
const (
	Green  = "green"  // protected
	Yellow = "yellow" // protected, with warnings
	Red    = "red"    // not protected
)

// Level returns how well a host is: Green, Yellow or Red, and the first reason.
func (s *Status) Level() (level, reason string) {
	switch {
	case len(s.Missing) > 0:
		return Red, s.Missing[0]
	case len(s.Warnings) > 0:
		return Yellow, s.Warnings[0]
	}
	return Green, ""
}

// A Notify is the state of one section [notify NAME].
type Notify struct {
	Name    string     `json:"name"`
	Way     string     `json:"way"`  // "web hook", "program" or "mail"
	Sent    uint64     `json:"sent"` // messages that were accepted, since the start
	Waiting int        `json:"waiting"`
	Last    *time.Time `json:"last,omitempty"`    // when one was accepted
	Problem string     `json:"problem,omitempty"` // why messages are not accepted
}

// String returns it in a sentence: "ops by web hook, 3 messages sent since start, 2 events waiting".
func (n Notify) String() string {
	text := fmt.Sprintf("%s by %s, %d messages sent since start", n.Name, n.Way, n.Sent)
	if n.Waiting > 0 {
		text += fmt.Sprintf(", %d events waiting", n.Waiting)
	}
	return text
}

// A NotifyService notifies administrators.
type NotifyService interface {
	// TestNotify sends a test message to the section of that name; to all if it is empty.
	TestNotify(ctx context.Context, name string) ([]SendTest, error)
}

// handleNotify adds the route of notifications.
func handleNotify(mux *http.ServeMux, s NotifyService) {
	mux.HandleFunc("POST /v1/notify/test", func(w http.ResponseWriter, r *http.Request) {
		v, err := s.TestNotify(r.Context(), r.URL.Query().Get("name"))
		answer(w, v, err)
	})
}

// TestNotify has a test message sent to the section of that name; to all if it is empty.
func (c *Client) TestNotify(ctx context.Context, name string) (v []SendTest, err error) {
	return v, c.do(ctx, http.MethodPost, "/v1/notify/test?name="+url.QueryEscape(name), struct{}{}, &v)
}

// A Cloud is the state of the membership in a community server. Counts are those since the start.
type Cloud struct {
	Server     string      `json:"server,omitempty"` // HOST:PORT; empty: none was joined
	Host       string      `json:"host,omitempty"`   // how the server names this host
	Since      *time.Time  `json:"since,omitempty"`
	Reporting  bool        `json:"reporting"`  // community_report
	Protecting bool        `json:"protecting"` // community_cloud_protection
	Lists      []CloudList `json:"lists,omitempty"`
	Sent       uint64      `json:"sent"`     // reports that the server accepted
	Dropped    uint64      `json:"dropped"`  // reports that it did not want
	LeftOut    uint64      `json:"left_out"` // reports that were not sent: too many waited, or for too long
	Waiting    int         `json:"waiting"`
	Problems   []string    `json:"problems,omitempty"`
	Names      *CloudNames `json:"names,omitempty"` // nil: no user names are exchanged
	Fleet      *Fleet      `json:"fleet,omitempty"` // nil: no bans are shared with other hosts of the operator
}

// A Fleet is what this host shares with the operator's other hosts. Counts of events are those since the start.
type Fleet struct {
	Connected bool       `json:"connected"` // events of the others come at once
	Hosts     int        `json:"hosts"`     // that are connected to the server, this one included
	Used      int        `json:"used"`      // bans that this host has shared in this hour
	Quota     int        `json:"quota"`     // and may
	Sent      uint64     `json:"sent"`      // events that the server accepted
	Dropped   uint64     `json:"dropped"`   // events that it did not accept
	LeftOut   uint64     `json:"left_out"`  // that were not sent: too many waited
	Waiting   int        `json:"waiting"`
	Received  uint64     `json:"received"`
	Last      *time.Time `json:"last,omitempty"` // of what was received
	LastEvent string     `json:"last_event,omitempty"`
}

// A CloudList is a list of the server.
type CloudList struct {
	Name    string     `json:"name"` // "public", or "own": bans of hosts of the same operator
	Entries int        `json:"entries"`
	Of      *time.Time `json:"of,omitempty"` // when the server signed it; nil: there is none yet
}

// CloudNames is what is exchanged of user names that are attacked.
type CloudNames struct {
	Reported int        `json:"reported"`     // names that this host reported last
	At       *time.Time `json:"at,omitempty"` // and when
	Listed   int        `json:"listed"`       // names that enough other hosts see attacked, and that are used here
	Of       *time.Time `json:"of,omitempty"` // when the server signed them; nil: none are used
}

// A CloudVerdict is what a community server answers about an address.
type CloudVerdict struct {
	Listed     bool     `json:"listed"`
	Score      int      `json:"score"`     // 0 to 100
	Reporters  string   `json:"reporters"` // a range
	Categories []string `json:"categories,omitempty"`
	Until      string   `json:"until,omitempty"`
	Contested  bool     `json:"contested,omitempty"`
	Appeal     string   `json:"appeal,omitempty"`
	Shown      string   `json:"shown"` // what others were shown to find that out, and who they are
}

// A CloudRequest asks to join a server.
type CloudRequest struct {
	Invitation string `json:"invitation"`
}

// A CloudService is the host's side of a community server. Its state is part of the status.
type CloudService interface {
	// JoinCloud joins the server of an invitation. One that was joined before is left.
	JoinCloud(ctx context.Context, req CloudRequest) (Cloud, error)
	// LeaveCloud leaves the server.
	LeaveCloud(ctx context.Context) error
	// PreviewCloud returns the next request to the server as it would be sent, before compression.
	PreviewCloud(ctx context.Context) (json.RawMessage, error)
	// LookupCloud finds out about an address in the way that community_cloud_lookup names.
	LookupCloud(ctx context.Context, addr netip.Addr) (CloudVerdict, error)
}

// handleCloud adds the routes of the community server.
func handleCloud(mux *http.ServeMux, s CloudService) {
	mux.HandleFunc("POST /v1/cloud/join", func(w http.ResponseWriter, r *http.Request) {
		var req CloudRequest
		if err := decode(w, r, &req); err != nil {
			answer(w, nil, err)
			return
		}
		v, err := s.JoinCloud(r.Context(), req)
		answer(w, v, err)
	})
	mux.HandleFunc("POST /v1/cloud/leave", func(w http.ResponseWriter, r *http.Request) {
		answer(w, struct{}{}, s.LeaveCloud(r.Context()))
	})
	mux.HandleFunc("GET /v1/cloud/preview", func(w http.ResponseWriter, r *http.Request) {
		v, err := s.PreviewCloud(r.Context())
		answer(w, v, err)
	})
	mux.HandleFunc("GET /v1/cloud/lookup", func(w http.ResponseWriter, r *http.Request) {
		addr, err := netip.ParseAddr(r.URL.Query().Get("addr"))
		if err != nil {
			answer(w, nil, &Error{"lookup needs addr=ADDRESS, such as 192.0.2.7 or 2001:db8::7"})
			return
		}
		v, err := s.LookupCloud(r.Context(), addr.Unmap().WithZone(""))
		answer(w, v, err)
	})
}

// JoinCloud joins the server of an invitation.
func (c *Client) JoinCloud(ctx context.Context, invitation string) (v Cloud, err error) {
	return v, c.do(ctx, http.MethodPost, "/v1/cloud/join", CloudRequest{invitation}, &v)
}

// LeaveCloud leaves the community server.
func (c *Client) LeaveCloud(ctx context.Context) error {
	return c.do(ctx, http.MethodPost, "/v1/cloud/leave", struct{}{}, new(struct{}))
}

// PreviewCloud returns the next request to the community server.
func (c *Client) PreviewCloud(ctx context.Context) (v json.RawMessage, err error) {
	return v, c.do(ctx, http.MethodGet, "/v1/cloud/preview", nil, &v)
}

// LookupCloud finds out whether a community server lists an address.
func (c *Client) LookupCloud(ctx context.Context, addr netip.Addr) (v CloudVerdict, err error) {
	return v, c.do(ctx, http.MethodGet, "/v1/cloud/lookup?addr="+url.QueryEscape(addr.String()), nil, &v)
}
