package pagechild

import (
	"net/http"

	"mef/internal/conf"
	"mef/internal/control"
)

// Headers of the requests of mefpage. HeaderUser is the user of the page, HeaderRole his role; without a user a request may read only what
// metrics are made of, and what the page for blocked customers shows, and lift a ban by a code of support.
const (
	HeaderUser = "Mef-User"
	HeaderRole = "Mef-Role"
)

// As returns a client of the daemon that acts for a user of the page.
func As(c *control.Client, user, role string) *control.Client {
	return c.With(http.Header{HeaderUser: {user}, HeaderRole: {role}})
}

// needs has the role that each request of mefpage needs, by method and path. No other request is served, whatever the role: mefpage
// talks to strangers, so it must not be able to stop the daemon, to end all bans, or to change the configuration.
var needs = map[string]string{
	"GET /v1/picture":     "read",
	"GET /v1/history":     "read",
	"GET /v1/stats":       "read",
	"GET /v1/bans/past":   "read",
	"GET /v1/status":      "read",
	"GET /v1/services":    "read",
	"GET /v1/why":         "read",
	"GET /v1/alarms":      "read",
	"DELETE /v1/bans":     "support", // a ban is lifted with a time of grace
	"POST /v1/bans":       "operator",
	"POST /v1/allow":      "operator",
	"DELETE /v1/allow":    "operator",
	"POST /v1/alarms/ack": "operator",
}

// permit returns the author of a request of mefpage, or why the daemon does not serve it.
func permit(r *http.Request) (author string, err error) {
	request := r.Method + " " + r.URL.Path
	user, role := r.Header.Get(HeaderUser), r.Header.Get(HeaderRole)
	if user == "" {
		switch request {
		case "GET /v1/picture", "GET /v1/metrics", "GET /v1/blocked", "POST /v1/blocked/free":
			return "page", nil
		}
		return "", control.Refuse("%s needs a user of the page", request)
	}
	if !ValidName(user) {
		return "", control.Refuse("%q is no name of a user of the page", user)
	}
	need, known := needs[request]
	if !known {
		return "", control.Refuse("%s is not for the page; use mefctl", request)
	}
	if rank(role) < rank(need) {
		return "", control.Refuse("your role on the page is %q, and this needs %q, one of %q", role, need, conf.PageRoles)
	}
	return "page:" + user, nil
}
