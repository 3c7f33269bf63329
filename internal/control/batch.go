package control

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"time"
)

// A Batch asks for the same for many addresses at once.
type Batch struct {
	Entries []string      `json:"entries"` // addresses and networks; for the allow list, names and ranges too
	For     time.Duration `json:"for_ns,omitempty"`
	Ports   string        `json:"ports,omitempty"`
	Note    string        `json:"note,omitempty"`
	Force   bool          `json:"force,omitempty"`
	Caller  netip.Addr    `json:"caller,omitzero"` // as in BanRequest
	Author  string        `json:"-"`               // filled in by the server, from the socket
}

// Done reports what became of a batch: each entry was done, or refused by itself.
type Done struct {
	Done    int       `json:"done"` // bans made or lifted, or entries added or removed
	Refused []Refusal `json:"refused,omitempty"`
}

// A Refusal is an entry of a batch that was not done.
type Refusal struct {
	Entry  string `json:"entry"`
	Reason string `json:"reason"`
}

// Refuse adds an entry that was not done, and why.
func (d *Done) Refuse(entry string, why error) {
	d.Refused = append(d.Refused, Refusal{entry, why.Error()})
}

// A BatchService answers batches. Each method returns when the kernel has what was asked for.
type BatchService interface {
	BanAll(ctx context.Context, req Batch) (Done, error)
	UnbanAll(ctx context.Context, req Batch) (Done, error)
	AllowAll(ctx context.Context, req Batch) (Done, error)
	DisallowAll(ctx context.Context, req Batch) (Done, error)
}

// handleBatches adds the routes of batches.
func handleBatches(mux *http.ServeMux, s BatchService, l limits) {
	for route, serve := range map[string]func(context.Context, Batch) (Done, error){
		"POST /v1/bans/batch": s.BanAll, "DELETE /v1/bans/batch": s.UnbanAll,
		"POST /v1/allow/batch": s.AllowAll, "DELETE /v1/allow/batch": s.DisallowAll,
	} {
		mux.HandleFunc(route, l.oneBig(func(w http.ResponseWriter, r *http.Request) {
			var req Batch
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime)) // it may have waited for its turn
			if err := decodeUpTo(maxBatch, w, r, &req); err != nil {
				answer(w, nil, err)
				return
			}
			req.Author = author(r)
			v, err := serve(r.Context(), req)
			answer(w, v, err)
		}))
	}
}

// BanAll asks for bans.
func (c *Client) BanAll(ctx context.Context, req Batch) (Done, error) {
	return c.batch(ctx, http.MethodPost, "/v1/bans/batch", req)
}

// UnbanAll lifts bans.
func (c *Client) UnbanAll(ctx context.Context, req Batch) (Done, error) {
	return c.batch(ctx, http.MethodDelete, "/v1/bans/batch", req)
}

// AllowAll asks for entries of the allow list.
func (c *Client) AllowAll(ctx context.Context, req Batch) (Done, error) {
	return c.batch(ctx, http.MethodPost, "/v1/allow/batch", req)
}

// DisallowAll removes entries from the allow list.
func (c *Client) DisallowAll(ctx context.Context, req Batch) (Done, error) {
	return c.batch(ctx, http.MethodDelete, "/v1/allow/batch", req)
}

// batch sends one batch.
func (c *Client) batch(ctx context.Context, method, path string, req Batch) (v Done, err error) {
	size := 0
	for _, e := range req.Entries {
		size += len(e) + len(`"",`)
	}
	if size > maxBatch-maxRequest {
		return v, fmt.Errorf("too many entries for one request, at most %d MiB; write them to a file of the whitelist or blacklist directory", maxBatch>>20)
	}
	return v, c.do(ctx, method, path, req, &v)
}

// Cleared reports how many bans were lifted at once, and how many networks stay banned because lists have them.
type Cleared struct {
	Lifted int `json:"lifted"`
	Listed int `json:"listed"`
}

// ClearBans lifts every ban. Lists stay in force.
func (c *Client) ClearBans(ctx context.Context) (v Cleared, err error) {
	return v, c.do(ctx, http.MethodPost, "/v1/bans/clear", nil, &v)
}
