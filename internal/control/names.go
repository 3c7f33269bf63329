package control

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// A Name is an entry of the dictionary of tried user names.
type Name struct {
	Name      string    `json:"name"`
	Origin    string    `json:"origin"` // "learned", "starter", "community", "canary" or "user"
	Hot       bool      `json:"hot"`    // one try from an unknown address bans
	Protected string    `json:"protected,omitempty"`
	Tries     int       `json:"tries"`
	Networks  int       `json:"networks"` // that tried it within two to four weeks
	First     time.Time `json:"first,omitzero"`
	Last      time.Time `json:"last,omitzero"`
}

// An Alarm is a login that may be a break-in.
type Alarm struct {
	ID       uint64    `json:"id"`
	Time     time.Time `json:"time"`
	Addr     string    `json:"addr"`
	User     string    `json:"user"`
	Service  string    `json:"service"`
	Reason   string    `json:"reason"`
	Evidence []string  `json:"evidence,omitempty"` // raw lines, oldest first
	Acked    bool      `json:"acked"`
}

// An AckRequest marks alarms as seen.
type AckRequest struct {
	IDs    []uint64 `json:"ids,omitempty"` // empty: all
	Author string   `json:"-"`             // filled in by the server, from the socket
}

// Acked is how many alarms were marked.
type Acked struct {
	Acked int `json:"acked"`
}

// A NameService answers about user names and logins.
type NameService interface {
	// Names returns the entries of the dictionary that begin with prefix, those in most demand first, at most limit; 0 for all.
	Names(ctx context.Context, prefix string, limit int) ([]Name, error)
	// Alarms returns the alarms that are kept, oldest first.
	Alarms(ctx context.Context) ([]Alarm, error)
	Acknowledge(ctx context.Context, req AckRequest) (Acked, error)
}

// handleNames adds the routes of names and alarms.
func handleNames(mux *http.ServeMux, s NameService, l limits) {
	mux.HandleFunc("GET /v1/names", l.oneBig(func(w http.ResponseWriter, r *http.Request) {
		limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
		v, err := s.Names(r.Context(), r.URL.Query().Get("prefix"), max(0, limit))
		answer(w, v, err)
	}))
	mux.HandleFunc("GET /v1/alarms", func(w http.ResponseWriter, r *http.Request) {
		v, err := s.Alarms(r.Context())
		answer(w, v, err)
	})
	mux.HandleFunc("POST /v1/alarms/ack", func(w http.ResponseWriter, r *http.Request) {
		var req AckRequest
		if err := decode(w, r, &req); err != nil {
			answer(w, nil, err)
			return
		}
		req.Author = author(r)
		v, err := s.Acknowledge(r.Context(), req)
		answer(w, v, err)
	})
}

// Names asks for the dictionary of user names.
func (c *Client) Names(ctx context.Context, prefix string, limit int) (v []Name, err error) {
	query := url.Values{"prefix": {prefix}, "limit": {strconv.Itoa(limit)}}
	return v, c.do(ctx, http.MethodGet, "/v1/names?"+query.Encode(), nil, &v)
}

// Alarms asks for the alarms.
func (c *Client) Alarms(ctx context.Context) (v []Alarm, err error) {
	return v, c.do(ctx, http.MethodGet, "/v1/alarms", nil, &v)
}

// Acknowledge marks alarms as seen.
func (c *Client) Acknowledge(ctx context.Context, req AckRequest) (v Acked, err error) {
	return v, c.do(ctx, http.MethodPost, "/v1/alarms/ack", req, &v)
}
