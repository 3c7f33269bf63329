// Package blocked is the page for customers whose address is banned on the ports of the web server: since when, until when, for which
// service, whom to ask with which reference, and what lifts the ban: a field for a code of support and, if the daemon offers one, a sum.
//
// It shows neither names nor evidence, keeps nothing of a request, answers every path alike and one request a connection, and has no
// script. What it knows of an address is what the daemon answers; an address that has no such ban is told so.
package blocked

import (
	"context"
	"crypto/tls"
	"errors"
	"html/template"
	"net/http"
	"net/netip"
	"time"

	"mef/internal/control"
)

// A Daemon answers about blocked customers: a control.Client.
type Daemon interface {
	Blocked(ctx context.Context, addr netip.Addr) (control.Blocked, error)
	Free(ctx context.Context, req control.FreeRequest) error
}

// maxForm is how much of a request's body is read, in bytes; patience how long the daemon may take.
const (
	maxForm  = 1 << 10
	patience = 10 * time.Second
)

// Handler returns the page. contact is whom to ask, empty if nobody.
func Handler(d Daemon, contact string) http.Handler {
	page := template.Must(template.New("blocked").Parse(text))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, stop := context.WithTimeout(r.Context(), patience)
		defer stop()
		from, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil {
			http.Error(w, "no address", http.StatusBadRequest)
			return
		}
		v := view{Contact: contact}
		addr := from.Addr().Unmap().WithZone("")
		if r.Method == http.MethodPost {
			r.Body = http.MaxBytesReader(w, r.Body, maxForm)
			v.Freed = d.Free(ctx, control.FreeRequest{Addr: addr, Code: r.PostFormValue("code"), Token: r.PostFormValue("token"), Answer: r.PostFormValue("answer")}) == nil
			v.Wrong, v.BySum = !v.Freed, r.PostFormValue("token") != ""
		}
		status := http.StatusForbidden
		if v.Freed {
			status = http.StatusOK
		} else if v.Blocked, err = d.Blocked(ctx, addr); err != nil {
			var none *control.Error
			v.None, v.Down = errors.As(err, &none), !errors.As(err, &none)
			status = http.StatusServiceUnavailable
		}
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Cache-Control", "no-store")
		h.Set("Connection", "close")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		w.WriteHeader(status)
		_ = page.Execute(w, v) // the reader may have gone
	})
}

// OnlyNamed has TLS refuse the names that its certificate does not have: the browser then says that it cannot connect, instead of a warning that
// the customer would have to click away, or could not where the site demands TLS (HSTS).
func OnlyNamed(cfg *tls.Config) {
	cert := &cfg.Certificates[0]
	cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if hello.ServerName != "" {
			return nil, cert.Leaf.VerifyHostname(hello.ServerName)
		}
		return nil, nil
	}
}

// A view is what the page is made of.
type view struct {
	control.Blocked
	Contact string

	Freed, Wrong bool // what became of a code, or of a sum
	BySum        bool
	None, Down   bool // no such ban; no answer of the daemon
}

// Time is a time for people everywhere.
func (v view) Time(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

const text = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>Your address is blocked</title>
<style>
body { font: 1rem/1.5 sans-serif; max-width: 40rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere }
dt { font-weight: bold } dd { margin: 0 0 .5rem } input, button { font: inherit; padding: .3rem }
</style>
</head>
<body>
{{if .Freed}}<h1>Your address is no longer blocked</h1>
<p>Wait five seconds, then load the page that you wanted again.</p>
{{else if .None}}<h1>Your address is not blocked</h1>
<p>Load the page that you wanted again.</p>
{{else if .Down}}<h1>Your address is blocked</h1>
<p>Details are not available now. Try again later.</p>
{{else}}<h1>Your address is blocked</h1>
<p>This server does not accept connections from your address at some of its ports, because of attempts to log in or requests that looked like an attack.
They may come from another device or person behind the same address.</p>
<dl>
<dt>Address</dt><dd>{{.Addr}}</dd>
<dt>Since</dt><dd>{{.Time .Since}}</dd>
<dt>Until</dt><dd>{{if .Until}}{{.Time .Until}}{{else}}lifted by the operator{{end}}</dd>
{{with .Service}}<dt>Service</dt><dd>{{.}}</dd>
{{end}}<dt>Reference</dt><dd>{{.Reference}}</dd>
</dl>
{{with .Contact}}<p>If you think that this is a mistake, ask {{.}} and name the reference.</p>
{{end}}{{if .Wrong}}<p role="alert"><strong>{{if .BySum}}The answer is wrong, or the page is too old.{{else}}The code is wrong, was used, or is too old.{{end}}</strong></p>
{{end}}{{if .Sum}}<form method="post" action="/">
<p>You can unblock your address once by an answer. If the attempts go on, it is blocked again, for longer.</p>
<p><label>How much is {{.Sum}}? <input name="answer" inputmode="numeric" maxlength="4" size="4" autocomplete="off" required></label>
<input type="hidden" name="token" value="{{.Token}}"> <button>Unblock</button></p>
</form>
{{end}}<form method="post" action="/">
<p><label>Code from support: <input name="code" maxlength="20" autocomplete="off" required></label> <button>Unblock</button></p>
</form>
{{end}}</body>
</html>
`
