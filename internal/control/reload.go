package control

import (
	"context"
	"net/http"
)

// A Reloaded reports what the configuration amounts to that was read again and is now in force.
type Reloaded struct {
	Config   string   `json:"config"`
	Mode     string   `json:"mode"`               // "enforce" or "observe"
	Rules    int      `json:"rules"`              // enabled
	Notices  []string `json:"notices,omitempty"`  // about keys that do not do what their author may expect
	Mistakes []string `json:"mistakes,omitempty"` // lines of lists that are left out
}

// Reload has the daemon read its configuration again, and returns once that is in force.
func (c *Client) Reload(ctx context.Context) (v Reloaded, err error) {
	return v, c.do(ctx, http.MethodPost, "/v1/reload", nil, &v)
}
