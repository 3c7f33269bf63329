package server

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"mef/internal/cloud/limit"
	"mef/internal/cloud/page"
	"mef/internal/cloud/reputation"
	"mef/internal/cloud/wire"
	"mef/internal/geodb"
)

// maxWait is how long a request for a list waits for a change.
const maxWait = 30 * time.Second

// api are the routes for programs. The document that page.WriteDocument answers with describes each.
func (s *Server) api() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"POST /v1/enroll":         s.postEnroll,
		"POST /v1/reports":        s.postReports,
		"GET /v1/feed/{list}":     s.getFeed,
		"GET /v1/ip/{ip}":         s.getIP,
		"GET /v1/prefix/{prefix}": s.getPrefix,
		"POST /v1/appeals":        s.postAppeal,
		"POST /v1/fleet":          s.postFleet,
		"GET /v1/fleet/stream":    s.getStream,
		"GET /v1/names":           s.getNames,
		"POST /v1/names":          s.postNames,
		"GET /v1/openapi.json":    func(w http.ResponseWriter, _ *http.Request) { page.WriteDocument(w) },
	}
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	for route, handler := range s.api() {
		mux.HandleFunc(route, handler)
	}
	mux.HandleFunc("GET /{$}", s.getOverview)
	mux.HandleFunc("GET /ip/{ip}", s.getAddress)
	mux.HandleFunc("POST /appeal", s.postAppealForm)
	mux.HandleFunc("GET "+page.Style, func(w http.ResponseWriter, _ *http.Request) { page.WriteStyle(w) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if !forPrograms(r) {
			s.message(w, http.StatusNotFound, "There is no such page", "Look up an address:")
			return
		}
		wire.WriteProblem(w, http.StatusNotFound, "there is no such route; /v1/openapi.json describes all")
	})
	origins := http.NewCrossOriginProtection() // no other site can have a browser send an appeal
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if !s.limits.Allow(s.counted(r), s.opt.Now()) {
			w.Header().Set("Retry-After", "10")
			if !forPrograms(r) {
				s.message(w, http.StatusTooManyRequests, "Too many requests", "Wait ten seconds, and try again.")
				return
			}
			wire.WriteProblem(w, http.StatusTooManyRequests, "too many requests from this network; wait ten seconds")
			return
		}
		if err := origins.Check(r); err != nil {
			if !forPrograms(r) {
				s.message(w, http.StatusForbidden, "Another site has sent this request", "Open the page of your address here.")
				return
			}
			wire.WriteProblem(w, http.StatusForbidden, "a page of another site has sent this request")
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, wire.MaxBody)
		mux.ServeHTTP(w, r)
	})
}

// counted returns what the requests of a client count for: its network, or for an own host, of which a network may have many, an address that stands for
// the host in that network. The signature of a request with a body is verified later; only routes without any use for strangers take such a request as the host's.
func (s *Server) counted(r *http.Request) netip.Addr {
	from := peer(r)
	a, err := wire.ParseAuth(r.Header.Get(wire.AuthHeader))
	if err != nil {
		return from
	}
	s.mu.Lock()
	who, _ := s.state.book.Reporter(a.ID)
	known := s.state.agents[a.ID]
	s.mu.Unlock()
	switch {
	case who.Role != reputation.Own || known == nil:
		return from
	case r.Method == http.MethodPost && (r.URL.Path == "/v1/reports" || r.URL.Path == "/v1/fleet" || r.URL.Path == "/v1/names"):
	case r.Method != http.MethodGet || a.Verify(known.Key, s.opt.Now(), r.Method, r.URL.RequestURI(), nil) != nil:
		return from
	}
	sum := sha256.Sum256([]byte(limit.Network(from).String() + " " + a.ID))
	sum[0] = 0xfd // a private network
	return netip.AddrFrom16([16]byte(sum[:16]))
}

const (
	perSecond   = 20 // requests of a network
	burst       = 100
	maxConns    = 20_000
	maxConnsNet = 6_000 // a fleet may be in one network
)

// network returns the network of an address and the wider one that stands for its autonomous system.
func network(addr netip.Addr) (net, system netip.Prefix) {
	if addr.Is4() {
		net, _ = addr.Prefix(24)
		system, _ = addr.Prefix(16)
		return net, system
	}
	net, _ = addr.Prefix(48) // zero of a zero address
	system, _ = addr.Prefix(32)
	return net, system
}

// system returns the autonomous system of an address, or the network that stands for it where the table has none.
func (s *Server) system(addr netip.Addr) string {
	_, wide := network(addr)
	if s.opt.ASN == "" {
		return wide.String()
	}
	db, err := geodb.Open(s.opt.ASN) // the newest version of the file
	var place geodb.Place
	if err == nil {
		defer db.Close()
		place, err = db.Lookup(addr)
	}
	if err != nil {
		s.opt.Log.Error("the table of autonomous systems cannot be used", "err", err)
	}
	if place.AS == 0 {
		return wide.String()
	}
	return "AS" + strconv.FormatUint(uint64(place.AS), 10)
}

// checkASN returns why the table of autonomous systems cannot be used.
func (s *Server) checkASN() error {
	if s.opt.ASN == "" {
		return nil
	}
	db, err := geodb.Open(s.opt.ASN)
	if err != nil {
		return fmt.Errorf("--asn %w; name a file in the MaxMind DB format", err)
	}
	defer db.Close()
	for _, src := range db.Sources() {
		if src.Networks {
			return nil
		}
	}
	return fmt.Errorf("--asn %s has no autonomous systems; name one such as GeoLite2-ASN.mmdb", strconv.Quote(s.opt.ASN))
}

// settle notes the autonomous system of a host that joined when the server had no table.
func (s *Server) settle(r *http.Request, who reputation.Reporter) error {
	if _, err := netip.ParsePrefix(who.System); s.opt.ASN == "" || err != nil {
		return nil
	}
	name := s.system(peer(r))
	if name == who.System || !strings.HasPrefix(name, "AS") {
		return nil
	}
	_, err := s.do(r.Context(), entry{Move: &move{Agent: who.ID, System: name}})
	return err
}

// peer returns the address of the client.
func peer(r *http.Request) netip.Addr {
	at, _ := netip.ParseAddrPort(r.RemoteAddr) // package net writes it
	return at.Addr().Unmap().WithZone("")
}

func answer(w http.ResponseWriter, status int, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		wire.WriteProblem(w, http.StatusInternalServerError, "")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(text)
}

// body reads the body of a request, whose size is bounded by routes.
func body(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	text, err := io.ReadAll(r.Body)
	if err != nil {
		wire.WriteProblem(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("send at most %d bytes, without long pauses", wire.MaxBody))
		return nil, false
	}
	return text, true
}

// failed answers a request whose entry could not be appended, or has no effect.
func (s *Server) failed(w http.ResponseWriter, out outcome, err error) bool {
	switch {
	case err != nil:
		s.opt.Log.Error("a request was not stored", "err", err)
		w.Header().Set("Retry-After", "30")
		wire.WriteProblem(w, http.StatusServiceUnavailable, "the server cannot store anything now; send it again later")
	case errors.Is(out.err, errCloned):
		wire.WriteProblem(w, http.StatusConflict, out.err.Error())
	case errors.Is(out.err, reputation.ErrUnlisted), errors.Is(out.err, reputation.ErrAppealed):
		wire.WriteProblem(w, http.StatusConflict, out.err.Error())
	case out.err != nil:
		wire.WriteProblem(w, http.StatusForbidden, out.err.Error())
	default:
		return false
	}
	return true
}

// signed verifies the signature of a request by an agent, and answers it if it is wrong.
func (s *Server) signed(w http.ResponseWriter, r *http.Request, body []byte) (wire.Auth, reputation.Reporter, bool) {
	a, err := wire.ParseAuth(r.Header.Get(wire.AuthHeader))
	if err != nil {
		wire.WriteProblem(w, http.StatusUnauthorized, err.Error())
		return a, reputation.Reporter{}, false
	}
	var key ed25519.PublicKey
	s.mu.Lock()
	if known := s.state.agents[a.ID]; known != nil {
		key = known.Key
	}
	who, _ := s.state.book.Reporter(a.ID)
	s.mu.Unlock()
	switch {
	case key == nil:
		wire.WriteProblem(w, http.StatusUnauthorized, "this server does not know the key of the host; run mefctl cloud join with a new invitation")
	case who.Revoked:
		wire.WriteProblem(w, http.StatusForbidden, "the operator of the server has revoked this host")
	default:
		if err := a.Verify(key, s.opt.Now(), r.Method, r.URL.RequestURI(), body); err != nil {
			wire.WriteProblem(w, http.StatusUnauthorized, err.Error())
			return a, who, false
		}
		return a, who, true
	}
	return a, who, false
}

// signedBody is signed for a request with a body, which it returns.
func (s *Server) signedBody(w http.ResponseWriter, r *http.Request) (text []byte, a wire.Auth, who reputation.Reporter, ok bool) {
	if text, ok = body(w, r); ok {
		a, who, ok = s.signed(w, r, text)
	}
	return text, a, who, ok
}

func (s *Server) postEnroll(w http.ResponseWriter, r *http.Request) {
	text, ok := body(w, r)
	if !ok {
		return
	}
	var in wire.Enrolment
	if err := wire.Strict(text, &in); err != nil {
		wire.WriteProblem(w, http.StatusBadRequest, err.Error())
		return
	}
	token, err := base64.RawURLEncoding.DecodeString(in.Token)
	if err != nil || len(in.Key) != ed25519.PublicKeySize {
		wire.WriteProblem(w, http.StatusBadRequest, "the token or the key is malformed")
		return
	}
	a, err := wire.ParseAuth(r.Header.Get(wire.AuthHeader))
	if err == nil {
		err = a.Verify(in.Key, s.opt.Now(), r.Method, r.URL.RequestURI(), text)
	}
	if err != nil {
		wire.WriteProblem(w, http.StatusUnauthorized, err.Error())
		return
	}
	hash := sha256.Sum256(token)
	s.mu.Lock()
	_, open := s.state.tokens[hash]
	known := s.state.agents[wire.KeyID(in.Key)] != nil
	s.mu.Unlock()
	if !open && !known { // strangers write nothing to the log
		wire.WriteProblem(w, http.StatusForbidden, errToken.Error())
		return
	}
	net, _ := network(peer(r))
	// The network is kept as a hash: the server needs to know which hosts have the same one, not where they are.
	where := sha256.Sum256(append(s.feedKey.Seed(), net.String()...))
	out, err := s.do(r.Context(), entry{Enrol: &enrol{Hash: hash, Key: in.Key, System: s.system(peer(r)), Net: base64.RawURLEncoding.EncodeToString(where[:9])}})
	if s.failed(w, out, err) {
		return
	}
	answer(w, http.StatusOK, wire.Enrolled{ID: wire.KeyID(in.Key), Lists: listsOf(out.role)})
}

// listsOf returns the lists that a host may fetch.
func listsOf(role reputation.Role) []string {
	if role == reputation.Own {
		return []string{string(reputation.Public), string(reputation.OwnHosts)}
	}
	return []string{string(reputation.Public)}
}

func (s *Server) postReports(w http.ResponseWriter, r *http.Request) {
	text, a, who, ok := s.signedBody(w, r)
	if !ok {
		return
	}
	batch, err := wire.DecodeBatch(text, s.opt.Now())
	if err != nil {
		wire.WriteProblem(w, http.StatusBadRequest, err.Error())
		return
	}
	if err := s.settle(r, who); s.failed(w, outcome{}, err) {
		return
	}
	out, err := s.do(r.Context(), entry{Reports: &reports{Agent: a.ID, Seq: a.Seq, Batch: batch}})
	if s.failed(w, out, err) {
		return
	}
	answer(w, http.StatusAccepted, wire.Receipt{Accepted: len(batch.Reports) + len(batch.Benign) - len(out.dropped), Dropped: out.dropped})
}

// getFeed answers with a list: the whole, or what has changed since a version. With wait, it waits for a change first.
func (s *Server) getFeed(w http.ResponseWriter, r *http.Request) {
	name := reputation.List(r.PathValue("list"))
	if name != reputation.Public && name != reputation.OwnHosts {
		wire.WriteProblem(w, http.StatusNotFound, "there are the lists public and own")
		return
	}
	if name == reputation.OwnHosts {
		if _, who, ok := s.signed(w, r, nil); !ok {
			return
		} else if who.Role != reputation.Own {
			wire.WriteProblem(w, http.StatusForbidden, "the list own is for hosts of the operator")
			return
		}
	}
	q := r.URL.Query()
	since, _ := strconv.ParseUint(q.Get("since"), 10, 64) // 0: the whole list
	wait, _ := strconv.Atoi(q.Get("wait"))                // seconds
	if wait = min(max(wait, 0), int(maxWait/time.Second)); since > 0 && wait > 0 {
		s.waitForChange(r, name, since, time.Duration(wait)*time.Second)
	}
	s.mu.Lock()
	f := s.state.feed(name, since, s.opt.Now())
	s.mu.Unlock()
	data := f.Encode(s.feedKey)
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", fmt.Sprintf(`"%s-%d-%d"`, name, f.Since, f.Seq))
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(data)
}

func (s *Server) waitForChange(r *http.Request, name reputation.List, since uint64, wait time.Duration) {
	t := time.NewTimer(wait)
	defer t.Stop()
	for {
		s.mu.Lock()
		changed, is := s.changed, s.state.lists[name].seq > since || s.state.seq < since
		s.mu.Unlock()
		if is {
			return
		}
		select {
		case <-changed:
		case <-t.C:
			return
		case <-s.stopped:
			return
		case <-r.Context().Done():
			return
		}
	}
}

// A verdict is what the server tells about an address.
type verdict struct {
	Listed     bool     `json:"listed"`
	Score      int      `json:"score"`
	Reporters  string   `json:"reporters"` // a range
	Categories []string `json:"categories,omitempty"`
	Until      string   `json:"until,omitempty"`
	Contested  bool     `json:"contested,omitempty"`
	Appeal     string   `json:"appeal,omitempty"` // how to have it removed
}

func (s *Server) getIP(w http.ResponseWriter, r *http.Request) {
	addr, err := netip.ParseAddr(r.PathValue("ip"))
	if err != nil || addr.Zone() != "" {
		wire.WriteProblem(w, http.StatusBadRequest, "this is not an address; write it like 192.0.2.7 or 2001:db8::7")
		return
	}
	s.mu.Lock()
	v := s.state.book.Verdict(addr)
	s.mu.Unlock()
	out := verdict{Listed: v.Listed, Score: v.Score, Contested: v.Contested, Reporters: reporters(v.Reporters)}
	if v.Listed { // of others, the categories could show who has reported
		out.Categories = categories(v.Categories)
		out.Until = v.Until.Time().Format(time.RFC3339)
		out.Appeal = "send POST /v1/appeals from this address"
	} else {
		out.Score = 0
	}
	answer(w, http.StatusOK, out)
}

// postAppeal removes the address from which the request comes.
func (s *Server) postAppeal(w http.ResponseWriter, r *http.Request) {
	addr := peer(r)
	out, err := s.appeal(r.Context(), addr)
	if s.failed(w, out, err) {
		return
	}
	answer(w, http.StatusOK, map[string]string{"removed": addr.String()})
}
