package control

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"mef/internal/printable"
)

// Lists are the whitelist, whose addresses are never banned, the blacklist, whose addresses always are, and the feeds.
type Lists struct {
	Files   []ListFile   `json:"files"`
	Entries []Entry      `json:"entries"`
	More    int          `json:"more,omitempty"`   // entries of the blacklist that are not shown one by one
	Feeds   []Feed       `json:"feeds,omitempty"`  // that are enabled; not with the name of a list
	Access  []Access     `json:"access,omitempty"` // that are enabled; likewise
	Kernel  []KernelList `json:"kernel,omitempty"` // not with the name of the whitelist
}

// InKernel is the name that asks for Lists.Kernel only.
const InKernel = "kernel"

// A KernelList is a list whose packets the kernel drops: the blacklist, as one, a feed, or a section about countries.
type KernelList struct {
	Name     string `json:"name"`
	Networks int    `json:"networks"` // neighbours that are joined count once; -1 if the kernel does not count
	Packets  uint64 `json:"packets"`  // dropped
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
	Fleet    bool       `json:"fleet,omitempty"`    // it holds on all own hosts
}

// Resolved reports how a DNS name fares.
type Resolved struct {
	Addrs []string   `json:"addrs,omitempty"`
	At    *time.Time `json:"at,omitempty"`   // the last good answer
	Next  *time.Time `json:"next,omitempty"` // when it is asked for again
	Ends  *time.Time `json:"ends,omitempty"` // while it cannot be resolved: when its addresses no longer count
	Error string     `json:"error,omitempty"`
}

// A Feed is a list of addresses that others publish.
type Feed struct {
	Name      string     `json:"name"`
	About     string     `json:"about,omitempty"` // of a built-in one
	URL       string     `json:"url"`
	Enabled   bool       `json:"enabled"`
	By        string     `json:"by,omitempty"` // who enabled or disabled it by command; absent: the configuration
	Action    string     `json:"action"`       // "drop", "detect" or "score"
	Direction string     `json:"direction"`    // "in" or "both"
	Ports     string     `json:"ports"`        // "all" or a list
	InForce   bool       `json:"in_force"`     // the kernel drops packets of its addresses
	Packets   uint64     `json:"packets"`      // dropped
	Fetched   *time.Time `json:"fetched,omitempty"`
	Tried     *time.Time `json:"tried,omitempty"`
	Next      *time.Time `json:"next,omitempty"`
	Entries   int        `json:"entries"`
	Wrong     int        `json:"wrong,omitempty"` // lines that are no entries
	Size      int64      `json:"size"`            // bytes
	Special   float64    `json:"special"`         // addresses left out because no host elsewhere has them
	Spared    float64    `json:"spared"`          // addresses left out because this host needs them, or they are allowed, or many clients share them
	Admins    float64    `json:"admins"`          // addresses left out because administrators log in from them
	Error     string     `json:"error,omitempty"` // why the last attempt to fetch it failed; the copy before stays in force
}

// An Access describes a section about countries and autonomous systems.
type Access struct {
	Name    string     `json:"name"`
	Rule    string     `json:"rule"`           // "deny=@country:CN" or "allow_only=@country:DE,@as:64500"
	Ports   string     `json:"ports"`          // "all" or a list
	InForce bool       `json:"in_force"`       // the kernel drops packets of its addresses
	Packets uint64     `json:"packets"`        // dropped
	Entries int        `json:"entries"`        // addresses and networks to which the ports are closed; 0: not known
	Read    *time.Time `json:"read,omitempty"` // when these were read from the databases
	Spared  float64    `json:"spared"`         // addresses left out because this host needs them, or they are allowed, or many clients share them
	Admins  float64    `json:"admins"`         // addresses left out because administrators log in from them
	Error   string     `json:"error,omitempty"`
}

// What a FeedRequest does.
const (
	EnableFeed  = "enable"
	DisableFeed = "disable"
	UpdateFeed  = "update"
)

// A FeedRequest enables, disables or updates a feed.
type FeedRequest struct {
	Name   string `json:"name"` // empty: update all that are enabled
	Do     string `json:"do"`
	Force  bool   `json:"force,omitempty"` // update: accept one that has grown or shrunk very much
	Author string `json:"-"`               // filled in by the server, from the socket
}

// An AllowRequest adds an entry to the allow list, or takes it back.
type AllowRequest struct {
	Entry  string        `json:"entry"`
	For    time.Duration `json:"for_ns,omitempty"` // 0: until it is deleted
	Note   string        `json:"note,omitempty"`
	Force  bool          `json:"force,omitempty"`
	Fleet  bool          `json:"fleet,omitempty"` // on all own hosts; needs For
	Author string        `json:"-"`               // filled in by the server, from the socket
	Origin string        `json:"-"`               // ID of the own host that asks; empty: this one
}

// A ListService answers requests about lists.
type ListService interface {
	// Lists returns the files and entries of the list of that name, or of all if it is empty.
	Lists(ctx context.Context, only string) (Lists, error)
	// Allow adds an entry to the allow list and returns once the kernel lets its addresses through.
	Allow(ctx context.Context, req AllowRequest) (Entry, error)
	// Disallow takes back an entry that Allow added.
	Disallow(ctx context.Context, req AllowRequest) (Entry, error)
	// Feeds returns all feeds. ChangeFeed does what is asked, and returns them afterwards: once a feed is fetched and in force.
	Feeds(ctx context.Context) ([]Feed, error)
	ChangeFeed(ctx context.Context, req FeedRequest) ([]Feed, error)
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
		feeds, err := printable.Marshal(append([]Feed{}, v.Feeds...))
		if err != nil {
			answer(w, nil, err)
			return
		}
		access, err := printable.Marshal(append([]Access{}, v.Access...))
		if err != nil {
			answer(w, nil, err)
			return
		}
		kernel, err := printable.Marshal(append([]KernelList{}, v.Kernel...))
		if err != nil {
			answer(w, nil, err)
			return
		}
		stream(w, fmt.Sprintf(`{"files":%s,"feeds":%s,"access":%s,"kernel":%s,"more":%d,"entries":[`, files, feeds, access, kernel, v.More), v.Entries, "]}")
	}))
	mux.HandleFunc("GET /v1/feeds", func(w http.ResponseWriter, r *http.Request) {
		v, err := s.Feeds(r.Context())
		answer(w, v, err)
	})
	mux.HandleFunc("POST /v1/feeds", func(w http.ResponseWriter, r *http.Request) {
		var req FeedRequest
		if err := decode(w, r, &req); err != nil {
			answer(w, nil, err)
			return
		}
		req.Author = author(r)
		v, err := s.ChangeFeed(r.Context(), req)
		answer(w, v, err)
	})
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

// Feeds asks for all feeds.
func (c *Client) Feeds(ctx context.Context) (v []Feed, err error) {
	return v, c.do(ctx, http.MethodGet, "/v1/feeds", nil, &v)
}

// ChangeFeed asks to enable, disable or update a feed, and returns all feeds afterwards.
func (c *Client) ChangeFeed(ctx context.Context, req FeedRequest) (v []Feed, err error) {
	return v, c.within(ctx, feedTime, http.MethodPost, "/v1/feeds", req, &v)
}

// feedTime is how long a change of feeds may take: a slow server is given minutes.
const feedTime = 30 * time.Minute
