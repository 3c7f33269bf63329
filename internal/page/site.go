package page

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"embed"
	"encoding/base64"
	"errors"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"mef/internal/control"
	"mef/internal/pagechild"
)

//go:embed files
var files embed.FS

// cookieName is the cookie of a session. Over TLS, the prefix has browsers refuse one that another host or plain HTTP has set.
const cookieName = "mef"

// A site is the operator's page.
type site struct {
	service  pagechild.Service
	cert     *x509.Certificate // nil: plain HTTP
	client   *control.Client
	log      *slog.Logger
	pages    *template.Template
	style    []byte
	mux      *http.ServeMux
	origin   *http.CrossOriginProtection
	sessions sessions
	door     *doorman
	secret   []byte // of the tokens in forms at a unix socket
	now      func() time.Time
}

func newSite(settings *pagechild.Settings, service pagechild.Service, cert *x509.Certificate, client *control.Client, log *slog.Logger) *site {
	s := &site{service: service, cert: cert, client: client, log: log, mux: http.NewServeMux(), origin: http.NewCrossOriginProtection(),
		sessions: sessions{byToken: make(map[string]*session)}, door: newDoorman(settings.Users), secret: make([]byte, 32), now: time.Now}
	rand.Read(s.secret) // never fails
	s.pages = template.Must(template.New("").Funcs(funcs(s)).ParseFS(files, "files/*.html"))
	s.style, _ = files.ReadFile("files/style.css") // embedded
	s.mux.HandleFunc("GET /style.css", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/css; charset=utf-8")
		_, _ = w.Write(s.style)
	})
	s.mux.HandleFunc("GET /login", s.askLogin)
	s.mux.HandleFunc("POST /login", s.login)
	for pattern, show := range map[string]func(*http.Request, viewer) (view, error){
		"GET /{$}":      s.overview,
		"GET /alarms":   s.alarms,
		"GET /services": s.services,
		"GET /why":      s.why,
		"GET /history":  s.history,
		"GET /stats":    s.stats,
		"GET /past":     s.past,
	} {
		s.mux.HandleFunc(pattern, s.viewed(show))
	}
	for pattern, act := range map[string]func(*http.Request, viewer) (done string, err error){
		"POST /unban":    s.unban,
		"POST /ban":      s.ban,
		"POST /allow":    s.allow,
		"POST /disallow": s.disallow,
		"POST /ack":      s.acknowledge,
	} {
		s.mux.HandleFunc(pattern, s.acted(act))
	}
	s.mux.HandleFunc("POST /logout", s.logout)
	return s
}

// ServeHTTP answers a request, unless it was not meant for this host or comes from another site.
func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	if !named(r, s.service.Unix, s.cert) {
		// A name that an attacker's name server resolves to this address (DNS rebinding) would make his page one of this site.
		http.Error(w, notNamed, http.StatusMisdirectedRequest)
		return
	}
	if err := s.origin.Check(r); err != nil {
		http.Error(w, "The request comes from another site.", http.StatusForbidden)
		return
	}
	if s.service.Unix && peerOf(r.Context()).role == "" {
		http.Error(w, "Your groups on this host have no role on this page; see page_groups in mef.conf(5).", http.StatusForbidden)
		return
	}
	s.mux.ServeHTTP(w, r)
}

// notNamed answers a request that named does not accept.
const notNamed = "This host does not serve a page under that name. Use its address, or a name in its certificate."

// named reports whether a request names this host: by the address that it came to, as localhost, or by a name in the certificate.
func named(r *http.Request, unix bool, cert *x509.Certificate) bool {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	at := addrOf(local)
	if addr, err := netip.ParseAddr(host); err == nil { // no name server has a part in it
		addr = addr.Unmap()
		return addr.IsLoopback() && (unix || at.IsLoopback()) || addr == at
	}
	if host == "localhost" {
		return unix || at.IsLoopback()
	}
	return cert != nil && cert.VerifyHostname(host) == nil
}

// A viewer is who asks.
type viewer struct {
	Name, Role string
	Token      string // of forms
	Logout     bool   // there is a session to end
	client     *control.Client
}

// May reports whether the viewer has a role or a greater one.
func (v viewer) May(role string) bool { return pagechild.Greater(v.Role, role) == v.Role }

// viewer returns who sends a request; ok is false for one without a login.
func (s *site) viewer(r *http.Request) (v viewer, ok bool) {
	if s.service.Unix {
		p := peerOf(r.Context())
		mac := hmac.New(sha256.New, s.secret)
		mac.Write([]byte(p.key))
		v = viewer{Name: p.user, Role: p.role, Token: base64.RawURLEncoding.EncodeToString(mac.Sum(nil))}
	} else {
		cookie, err := r.Cookie(s.cookieName())
		if err != nil {
			return v, false
		}
		session, ok := s.sessions.find(cookie.Value, s.now())
		if !ok {
			return v, false
		}
		v = viewer{Name: session.user, Role: session.role, Token: session.token, Logout: true}
	}
	v.client = pagechild.As(s.client, v.Name, v.Role)
	return v, true
}

func (s *site) cookieName() string {
	if s.cert != nil {
		return "__Host-" + cookieName
	}
	return cookieName
}

func (s *site) cookie(value string, age time.Duration) *http.Cookie {
	return &http.Cookie{Name: s.cookieName(), Value: value, Path: "/", MaxAge: int(age.Seconds()), HttpOnly: true, Secure: s.cert != nil, SameSite: http.SameSiteStrictMode}
}

func (s *site) askLogin(w http.ResponseWriter, r *http.Request) {
	if _, ok := s.viewer(r); ok {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	s.render(w, http.StatusOK, view{Page: "login", Title: "Log in"})
}

func (s *site) login(w http.ResponseWriter, r *http.Request) {
	if s.service.Unix {
		http.NotFound(w, r)
		return
	}
	name, from := r.PostFormValue("name"), peerOf(r.Context()).addr
	user, why := s.door.check(from, name, r.PostFormValue("password"), s.now())
	if why != "" {
		s.log.Warn("login refused", "addr", from, "user", clip(name, 64), "reason", string(why))
		status := http.StatusForbidden
		if why != wrongPassword {
			w.Header().Set("Retry-After", "60")
			status = http.StatusTooManyRequests
		}
		s.render(w, status, view{Page: "login", Title: "Log in", Problem: string(why)})
		return
	}
	if old, err := r.Cookie(s.cookieName()); err == nil {
		s.sessions.end(old.Value)
	}
	s.log.Info("login", "addr", from, "user", user.Name, "role", user.Role)
	http.SetCookie(w, s.cookie(s.sessions.begin(user.Name, user.Role, s.now()), sessionTime))
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func (s *site) logout(w http.ResponseWriter, r *http.Request) {
	if v, ok := s.viewer(r); !ok || !genuine(r, v) {
		s.expired(w)
		return
	}
	if old, err := r.Cookie(s.cookieName()); err == nil {
		s.sessions.end(old.Value)
	}
	http.SetCookie(w, s.cookie("", -time.Second))
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

// genuine reports whether a form is one of ours: another site cannot read the token in it.
func genuine(r *http.Request, v viewer) bool {
	return subtle.ConstantTimeCompare([]byte(r.PostFormValue("token")), []byte(v.Token)) == 1
}

func (s *site) expired(w http.ResponseWriter) {
	s.render(w, http.StatusForbidden, view{Page: "login", Title: "Log in", Problem: "Your session has ended. Log in, then try again."})
}

// viewed serves a page to those who are logged in.
func (s *site) viewed(show func(*http.Request, viewer) (view, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, ok := s.viewer(r)
		if !ok {
			http.Redirect(w, r, "/login", http.StatusSeeOther)
			return
		}
		page, err := show(r, v)
		page.Viewer = v
		if err != nil {
			s.fail(w, page, err)
			return
		}
		s.render(w, http.StatusOK, page)
	}
}

// acted does what a form asks for, then shows what was done.
func (s *site) acted(act func(*http.Request, viewer) (string, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, ok := s.viewer(r)
		if !ok || !genuine(r, v) {
			s.expired(w)
			return
		}
		done, err := act(r, v)
		page := view{Page: "done", Title: "Done", Viewer: v, Done: done, Addr: r.PostFormValue("addr")}
		if err != nil {
			page.Title = "Not done"
			s.fail(w, page, err)
			return
		}
		s.render(w, http.StatusOK, page)
	}
}

// fail shows why a request could not be served.
func (s *site) fail(w http.ResponseWriter, page view, err error) {
	status := http.StatusBadGateway
	refused := new(control.Error)
	if errors.As(err, &refused) {
		status = http.StatusBadRequest
	} else if errors.Is(err, context.Canceled) {
		return
	}
	page.Page, page.Problem, page.Refresh = "done", err.Error(), 0
	s.render(w, status, page)
}

func (s *site) render(w http.ResponseWriter, status int, page view) {
	var out bytes.Buffer
	if err := s.pages.ExecuteTemplate(&out, "page.html", page); err != nil {
		s.log.Error("template", "page", page.Page, "err", err)
		http.Error(w, "This page cannot be shown; see journalctl -u mefdaemon.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(out.Bytes())
}
