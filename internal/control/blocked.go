package control

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Blocked is what the page for blocked customers shows of a ban, and nothing else of it: neither names nor evidence.
type Blocked struct {
	Addr      string     `json:"addr"`
	Since     time.Time  `json:"since"`
	Until     *time.Time `json:"until"` // null: until lifted
	Service   string     `json:"service,omitempty"`
	Ports     string     `json:"ports"`
	Reference string     `json:"reference"`

	// Sum is a question such as "7 + 12", whose answer lifts the ban if it comes with Token; both are empty if none may.
	Sum   string `json:"sum,omitempty"`
	Token string `json:"token,omitempty"`
}

// A CodeRequest asks for a code with which the customer at an address can lift its ban.
type CodeRequest struct {
	Addr   netip.Addr `json:"addr"`
	Author string     `json:"-"` // filled in by the server, from the socket
}

// A Code lifts the ban of an address, once.
type Code struct {
	Code  string    `json:"code"`
	Until time.Time `json:"until"`
}

// A FreeRequest is what a customer has typed: a code, or with Token the answer to a sum.
type FreeRequest struct {
	Addr   netip.Addr `json:"addr"`
	Code   string     `json:"code,omitempty"`
	Token  string     `json:"token,omitempty"`
	Answer string     `json:"answer,omitempty"`
}

// A BlockedService answers for the page for blocked customers.
type BlockedService interface {
	// Blocked returns the ban of an address that the page is for: a verified one, of some ports.
	Blocked(ctx context.Context, addr netip.Addr) (Blocked, error)
	SupportCode(ctx context.Context, req CodeRequest) (Code, error)
	// Free lifts the bans of an address soon after it has returned, if the code or the answer is right: by a code with the grace of Unban, by
	// an answer with a short one.
	Free(ctx context.Context, req FreeRequest) error
}

// Reference names a ban to a customer and to support: MEF- and eight letters and digits, which show nothing of the ban.
func (b *Ban) Reference() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %s %d", b.Prefix, b.Ports, b.Class, b.Start.Unix()))
	return "MEF-" + base32.StdEncoding.EncodeToString(sum[:5])
}

// ReadReference reads a reference as somebody writes it. ok is false for what is none.
func ReadReference(text string) (reference string, ok bool) {
	text = strings.ToUpper(strings.TrimSpace(text))
	code, found := strings.CutPrefix(text, "MEF-")
	return text, found && len(code) == 8 && strings.Trim(code, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
}

// handleBlocked adds the routes of the page for blocked customers.
func handleBlocked(mux *http.ServeMux, s BlockedService) {
	mux.HandleFunc("GET /v1/blocked", func(w http.ResponseWriter, r *http.Request) {
		addr, err := netip.ParseAddr(r.URL.Query().Get("addr"))
		if err != nil {
			answer(w, nil, Refuse("blocked needs addr=ADDRESS, such as 192.0.2.7"))
			return
		}
		v, err := s.Blocked(r.Context(), addr.Unmap().WithZone(""))
		answer(w, v, err)
	})
	mux.HandleFunc("POST /v1/blocked/free", func(w http.ResponseWriter, r *http.Request) {
		var req FreeRequest
		if err := decode(w, r, &req); err != nil {
			answer(w, nil, err)
			return
		}
		answer(w, struct{}{}, s.Free(r.Context(), req))
	})
	mux.HandleFunc("POST /v1/blocked/code", func(w http.ResponseWriter, r *http.Request) {
		var req CodeRequest
		if err := decode(w, r, &req); err != nil {
			answer(w, nil, err)
			return
		}
		req.Author = author(r)
		v, err := s.SupportCode(r.Context(), req)
		answer(w, v, err)
	})
}

// Blocked asks what the page for blocked customers shows of an address. The error is an *Error if it is not for that address.
func (c *Client) Blocked(ctx context.Context, addr netip.Addr) (v Blocked, err error) {
	return v, c.do(ctx, http.MethodGet, "/v1/blocked?addr="+url.QueryEscape(addr.String()), nil, &v)
}

// SupportCode asks for a code that lifts the ban of an address.
func (c *Client) SupportCode(ctx context.Context, req CodeRequest) (v Code, err error) {
	return v, c.do(ctx, http.MethodPost, "/v1/blocked/code", req, &v)
}

// Free lifts the bans of an address by a code or an answer. The error is an *Error if that is wrong.
func (c *Client) Free(ctx context.Context, req FreeRequest) error {
	return c.do(ctx, http.MethodPost, "/v1/blocked/free", req, new(struct{}))
}
