package control

import (
	"context"
	"net/http"
)

// Cleared reports how many bans were lifted at once, and how many stay because a blacklist file asks for them.
type Cleared struct {
	Lifted int `json:"lifted"`
	Listed int `json:"listed"`
}

// ClearBans lifts every ban that no blacklist file asks for.
func (c *Client) ClearBans(ctx context.Context) (v Cleared, err error) {
	return v, c.do(ctx, http.MethodPost, "/v1/bans/clear", nil, &v)
}
