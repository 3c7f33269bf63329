package control

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"mef/internal/printable"
)

// Lists are the operator's: the whitelist, whose addresses are never banned, and the blacklist, whose addresses always are.
type Lists struct {
	Files   []ListFile `json:"files"`
	Entries []Entry    `json:"entries"`
}

// A ListFile is a file of a list's directory as it was last read.
type ListFile struct {
	List     string    `json:"list"` // "whitelist" or "blacklist"
	Path     string    `json:"path"`
	Size     int64     `json:"size"` // bytes
	Modified time.Time `json:"modified"`
	Entries  int       `json:"entries"`
	Errors   []string  `json:"errors,omitempty"` // lines that are left out, each with its place; or why it cannot be read
}

// ByCommand is the Source of an entry that was added by command.
const ByCommand = "mefctl allow add"

// An Entry is one of a list.
type Entry struct {
	List     string     `json:"list"`
	Entry    string     `json:"entry"`  // address, network, range or DNS name
	Source   string     `json:"source"` // FILE:LINE:COL, or ByCommand
	Author   string     `json:"author,omitempty"`
	Note     string     `json:"note,omitempty"`
	Since    *time.Time `json:"since,omitempty"`
	Until    *time.Time `json:"until,omitempty"`    // absent: no end
	Resolved *Resolved  `json:"resolved,omitempty"` // of a DNS name
	Error    string     `json:"error,omitempty"`    // why it has no effect
}

// Resolved reports how a DNS name fares.
type Resolved struct {
	Addrs []string   `json:"addrs,omitempty"`
	At    *time.Time `json:"at,omitempty"`   // the last good answer
	Next  *time.Time `json:"next,omitempty"` // when it is asked for again
	Ends  *time.Time `json:"ends,omitempty"` // while it cannot be resolved: when its addresses no longer count
	Error string     `json:"error,omitempty"`
}

// An AllowRequest adds an entry to the allow list, or takes it back.
type AllowRequest struct {
	Entry  string        `json:"entry"`
	For    time.Duration `json:"for_ns,omitempty"` // 0: until it is deleted
	Note   string        `json:"note,omitempty"`
	Force  bool          `json:"force,omitempty"`
	Author string        `json:"-"` // filled in by the server, from the socket
}

// A ListService answers requests about lists.
type ListService interface {
	// Lists returns the files and entries of the list of that name, or of both if it is empty.
	Lists(ctx context.Context, only string) (Lists, error)
	// Allow adds an entry to the allow list and returns once the kernel lets its addresses through.
	Allow(ctx context.Context, req AllowRequest) (Entry, error)
	// Disallow takes back an entry that Allow added.
	Disallow(ctx context.Context, req AllowRequest) (Entry, error)
}

// handleLists adds the routes about lists.
func handleLists(mux *http.ServeMux, s ListService, l limits) {
	mux.HandleFunc("GET /v1/lists", l.oneBig(func(w http.ResponseWriter, r *http.Request) {
		v, err := s.Lists(r.Context(), r.URL.Query().Get("list"))
		if err != nil {
			answer(w, nil, err)
			return
		}
		files, err := printable.Marshal(v.Files)
		if err != nil {
			answer(w, nil, err)
			return
		}
		stream(w, `{"files":`+string(files)+`,"entries":[`, v.Entries, "]}")
	}))
	for method, serve := range map[string]func(context.Context, AllowRequest) (Entry, error){
		"POST": s.Allow, "DELETE": s.Disallow,
	} {
		mux.HandleFunc(method+" /v1/allow", func(w http.ResponseWriter, r *http.Request) {
			var req AllowRequest
			if err := decode(w, r, &req); err != nil {
				answer(w, nil, err)
				return
			}
			req.Author = author(r)
			v, err := serve(r.Context(), req)
			answer(w, v, err)
		})
	}
}

// Lists asks for the list of that name, or for both if it is empty.
func (c *Client) Lists(ctx context.Context, only string) (v Lists, err error) {
	return v, c.do(ctx, http.MethodGet, "/v1/lists?list="+url.QueryEscape(only), nil, &v)
}

// Allow asks for an entry of the allow list and returns it as it counts.
func (c *Client) Allow(ctx context.Context, req AllowRequest) (v Entry, err error) {
	return v, c.do(ctx, http.MethodPost, "/v1/allow", req, &v)
}

// Disallow takes an entry back and returns it.
func (c *Client) Disallow(ctx context.Context, req AllowRequest) (v Entry, err error) {
	return v, c.do(ctx, http.MethodDelete, "/v1/allow", req, &v)
}
