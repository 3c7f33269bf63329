package server

import (
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"mef/internal/cloud/page"
	"mef/internal/cloud/reputation"
	"mef/internal/cloud/wire"
)

// A media is a body in the document.
type media map[string]struct {
	Schema json.RawMessage `json:"schema"`
}

type response struct {
	Ref     string `json:"$ref"`
	Content media  `json:"content"`
}

// A document is the OpenAPI document.
type document struct {
	Paths map[string]map[string]struct {
		Parameters  []struct{ Name, In string } `json:"parameters"`
		RequestBody struct {
			Content media `json:"content"`
		} `json:"requestBody"`
		Responses map[string]response `json:"responses"`
	} `json:"paths"`
	Components struct {
		Responses map[string]response `json:"responses"`
	} `json:"components"`
	compiler *jsonschema.Compiler
}

var readDocument = sync.OnceValues(func() (*document, error) {
	text, err := page.Document()
	if err != nil {
		return nil, err
	}
	d := &document{compiler: jsonschema.NewCompiler()}
	if err := json.Unmarshal(text, d); err != nil {
		return nil, err
	}
	whole, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	return d, d.compiler.AddResource("mem:///openapi.json", whole)
})

// find returns the path in the document to which the path of a request belongs.
func (d *document) find(path string) string {
	for name := range d.Paths {
		pattern, parts := strings.Split(name, "/"), strings.Split(path, "/")
		if len(pattern) == len(parts) && !slices.ContainsFunc(pattern, func(p string) bool {
			i := slices.Index(pattern, p)
			return !strings.HasPrefix(p, "{") && p != parts[i]
		}) {
			return name
		}
	}
	return ""
}

// fits checks a body against a schema, which at names as a JSON pointer.
func (d *document) fits(at string, body []byte) error {
	schema, err := d.compiler.Compile("mem:///openapi.json#" + at)
	if err != nil {
		return err
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return err
	}
	return schema.Validate(v)
}

func pointer(parts ...string) (at string) {
	for _, p := range parts {
		at += "/" + strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D").Replace(p)
	}
	return at
}

// check compares a request and its answer with the document. It returns the route and status.
func (d *document) check(req *http.Request, sent []byte, status int, kind string, answer []byte) (use string, err error) {
	path := d.find(req.URL.Path)
	if path == "" {
		if status == http.StatusNotFound {
			return "", nil // nor has the server such a route
		}
		return "", fmt.Errorf("the document does not have %s", req.URL.Path)
	}
	method := strings.ToLower(req.Method)
	op, ok := d.Paths[path][method]
	if !ok {
		if status == http.StatusNotFound || status == http.StatusMethodNotAllowed {
			return "", nil
		}
		return "", fmt.Errorf("the document does not have %s %s", req.Method, path)
	}
	use = fmt.Sprintf("%s %s %d", req.Method, path, status)
	for name := range req.URL.Query() {
		if !slices.ContainsFunc(op.Parameters, func(p struct{ Name, In string }) bool { return p.Name == name && p.In == "query" }) {
			return use, fmt.Errorf("%s: the document does not have the parameter %q", use, name)
		}
	}
	code := strconv.Itoa(status)
	r, ok := op.Responses[code]
	at := []string{"paths", path, method, "responses", code}
	if r.Ref != "" {
		r, at = d.Components.Responses[code], []string{"components", "responses", code}
	}
	if !ok || len(r.Content) == 0 {
		return use, fmt.Errorf("the document does not have %s: %s", use, answer)
	}
	m, ok := r.Content[kind]
	if !ok {
		return use, fmt.Errorf("%s: the document does not have the type %q", use, kind)
	}
	if len(m.Schema) > 0 {
		if err := d.fits(pointer(append(at, "content", kind, "schema")...), answer); err != nil {
			return use, fmt.Errorf("%s: %w", use, err)
		}
	}
	if status >= 300 {
		return use, nil
	}
	for kind := range op.RequestBody.Content {
		if kind == "application/gzip" {
			z, err := gzip.NewReader(bytes.NewReader(sent))
			if err != nil {
				return use, err
			}
			if sent, err = io.ReadAll(z); err != nil {
				return use, err
			}
		}
		if err := d.fits(pointer("paths", path, method, "requestBody", "content", kind, "schema"), sent); err != nil {
			return use, fmt.Errorf("%s: request: %w", use, err)
		}
	}
	return use, nil
}

// documented is a transport that checks all that goes through it against the document: each test of the server is one of the document.
type documented struct {
	t    testing.TB
	next http.RoundTripper
	used func(string) // nil: nobody wants to know
}

func (c documented) RoundTrip(req *http.Request) (*http.Response, error) {
	d, err := readDocument()
	if err != nil {
		return nil, err
	}
	var sent []byte
	if req.Body != nil {
		if sent, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		length := req.ContentLength
		req = req.Clone(req.Context())
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(sent)), length
	}
	resp, err := c.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	kind := resp.Header.Get("Content-Type")
	var answer []byte
	if strings.HasPrefix(kind, "application/") && strings.HasSuffix(kind, "json") {
		if answer, err = io.ReadAll(resp.Body); err != nil {
			return nil, err
		}
		resp.Body.Close()
		resp.Body = io.NopCloser(bytes.NewReader(answer))
	}
	use, err := d.check(req, sent, resp.StatusCode, kind, answer)
	if err != nil {
		c.t.Error(err)
	} else if c.used != nil {
		c.used(use)
	}
	return resp, nil
}

// TestDocumentHasAllRoutes compares the routes of the server with those of the document.
func TestDocumentHasAllRoutes(t *testing.T) {
	d, err := readDocument()
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for path, ops := range d.Paths {
		for method := range ops {
			documented = append(documented, strings.ToUpper(method)+" "+path)
		}
	}
	slices.Sort(documented)
	if routes := slices.Sorted(maps.Keys(new(Server).api())); !slices.Equal(routes, documented) {
		t.Errorf("the server has the routes\n%q\nand the document\n%q", routes, documented)
	}
}

// TestDocumentIsTrue has each answer in the document given by the server. That its disk is full, or that it has too many clients, is for other tests.
func TestDocumentIsTrue(t *testing.T) {
	d, err := readDocument()
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, t.TempDir())
	seen := make(map[string]bool)
	use := func(what string) { seen[what] = true }
	watch := func(h *host) *host {
		h.client.Transport = documented{t, h.client.Transport.(documented).next, use}
		return h
	}
	own, member, revoked := watch(join(t, s, reputation.Own)), watch(join(t, s, "")), watch(join(t, s, ""))
	id := wire.KeyID(revoked.key.Public().(ed25519.PublicKey))
	if out, err := s.do(t.Context(), entry{Revoke: &id}); err != nil || out.err != nil {
		t.Fatal(err, out.err)
	}
	inv, _, err := s.Invite(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	stranger := watch(newHost(t, member.inv)) // its token was used
	invited := watch(newHost(t, inv))
	reports, _ := batch(attacker).Encode()
	share, _ := wire.FleetBatch{Host: "web1", Events: []wire.FleetEvent{{ID: "12345678", Kind: wire.FleetBan, Prefix: netip.MustParsePrefix("203.0.113.7/32"), Left: 60, Rule: "sshd", Category: "ssh"}}}.Encode()
	names, _ := wire.NameBatch{Week: wire.WeekOf(time.Now()), Names: []wire.NameHash{1, 2}}.Encode()
	long := make([]byte, wire.MaxBody+1)
	own.seq, member.seq = 5, 5
	for _, step := range []struct {
		by           *host
		method, path string
		body         []byte
	}{
		{stranger, "POST", "/v1/enroll", []byte("{}")}, {stranger, "POST", "/v1/enroll", long},
		{member, "POST", "/v1/reports", reports}, {member, "POST", "/v1/reports", []byte("{}")}, {member, "POST", "/v1/reports", long}, {stranger, "POST", "/v1/reports", reports}, {revoked, "POST", "/v1/reports", reports},
		{own, "POST", "/v1/fleet", share}, {own, "POST", "/v1/fleet", []byte("{}")}, {own, "POST", "/v1/fleet", long}, {stranger, "POST", "/v1/fleet", share}, {member, "POST", "/v1/fleet", share},
		{member, "GET", "/v1/feed/public", nil}, {member, "GET", "/v1/feed/public?since=1&wait=0", nil}, {own, "GET", "/v1/feed/own", nil}, {stranger, "GET", "/v1/feed/own", nil}, {member, "GET", "/v1/feed/own", nil}, {member, "GET", "/v1/feed/other", nil},
		{member, "GET", "/v1/ip/203.0.113.7", nil}, {member, "GET", "/v1/ip/everything", nil},
		{member, "GET", "/v1/prefix/203.0", nil}, {member, "GET", "/v1/prefix/203", nil},
		{own, "GET", "/v1/fleet/stream?wait=0", nil}, {stranger, "GET", "/v1/fleet/stream", nil}, {member, "GET", "/v1/fleet/stream", nil},
		{member, "GET", "/v1/names", nil}, {stranger, "GET", "/v1/names", nil}, {member, "GET", "/v1/names?waiting=1", nil}, {own, "GET", "/v1/names?waiting=1", nil},
		{member, "POST", "/v1/names", names}, {member, "POST", "/v1/names", []byte("{}")}, {member, "POST", "/v1/names", long}, {stranger, "POST", "/v1/names", names}, {revoked, "POST", "/v1/names", names},
		{member, "GET", "/v1/openapi.json", nil}, {member, "POST", "/v1/appeals", nil},
	} {
		step.by.send(step.method, step.path, step.body)
	}
	own.seq, member.seq = 4, 4 // as of a second host with the same key
	own.send("POST", "/v1/fleet", share)
	member.send("POST", "/v1/reports", reports)
	member.send("POST", "/v1/names", names)
	stranger.enrol()
	invited.enrol()
	invited.seq = 1
	text, _ := json.Marshal(wire.Enrolment{Token: "AA", Key: stranger.key.Public().(ed25519.PublicKey)})
	invited.send("POST", "/v1/enroll", text) // signed with another key
	listAddrs(t, s, attacker)
	member.send("GET", "/v1/ip/203.0.113.7", nil)
	member.send("GET", "/v1/prefix/203.0", nil)

	// Other clients than those on this machine.
	ask := func(method, path, from string, header ...string) {
		t.Helper()
		w := visit(s, method, path, from, header...)
		req := httptest.NewRequest(method, path, nil)
		what, err := d.check(req, nil, w.Code, w.Header().Get("Content-Type"), w.Body.Bytes())
		if err != nil {
			t.Error(err)
		}
		use(what)
	}
	ask("POST", "/v1/appeals", "203.0.113.7", "Sec-Fetch-Site", "cross-site")
	ask("POST", "/v1/appeals", "203.0.113.7")
	for path, ops := range d.Paths {
		for method := range ops {
			method, at := strings.ToUpper(method), strings.NewReplacer("{list}", "public", "{ip}", "203.0.113.7", "{prefix}", "203.0").Replace(path)
			for end := time.Now().Add(time.Minute); !seen[method+" "+path+" 429"] && time.Now().Before(end); {
				ask(method, at, "198.51.100.1")
			}
		}
	}
	for path, ops := range d.Paths {
		for method, op := range ops {
			for status := range op.Responses {
				if what := strings.ToUpper(method) + " " + path + " " + status; status != "503" && !seen[what] {
					t.Errorf("the document has %s, and the server does not answer so", what)
				}
			}
		}
	}
}
