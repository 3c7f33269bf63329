package control

import (
	"context"
	"net/http"
	"time"
)

// An ArmRequest begins the time in which the operator has to confirm that logging in still works.
type ArmRequest struct {
	For    time.Duration `json:"for_ns,omitempty"` // 0: ten minutes
	From   string        `json:"from,omitempty"`   // the sender's SSH connection, as in SSH_CONNECTION; empty if there is none
	Author string        `json:"-"`                // filled in by the server, from the socket
}

// Armed reports that the daemon bans and waits for a confirmation, or that none came in time.
type Armed struct {
	Until  time.Time `json:"until"`
	From   string    `json:"from,omitempty"`   // of the ArmRequest
	Lapsed bool      `json:"lapsed,omitempty"` // bans were lifted; further ones are logged, not applied
}

// Spared counts addresses and bans that something protects.
type Spared struct {
	// AdminPeers is how many addresses have a live SSH session of an administrator now: no ban closes the SSH ports to them.
	AdminPeers int `json:"admin_peers"`

	// Reasons counts the bans since the start that were not made, or left the SSH ports alone, by what kept them away.
	Reasons map[string]uint64 `json:"reasons,omitempty"`
}

// Arm makes the daemon lift its bans, and only log further ones, unless Confirm is called in time.
func (c *Client) Arm(ctx context.Context, req ArmRequest) (v Armed, err error) {
	return v, c.do(ctx, http.MethodPost, "/v1/arm", req, &v)
}

// Confirm reports to the daemon that the operator can log in.
func (c *Client) Confirm(ctx context.Context) error {
	return c.do(ctx, http.MethodPost, "/v1/confirm", nil, new(struct{}))
}

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
