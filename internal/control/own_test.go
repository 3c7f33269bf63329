package control

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
)

// Processes of the user that the daemon runs as, such as mefpage, cannot act as an operator.
func TestOwnUserIsNoOperator(t *testing.T) {
	for _, user := range []string{ownUser, "alice", "root"} {
		for request, forOwn := range map[[2]string]bool{
			{"GET", "/v1/status"}: true, {"POST", "/v1/reload"}: true,
			{"POST", "/v1/bans"}: false, {"DELETE", "/v1/bans"}: false, {"POST", "/v1/bans/clear"}: false, {"POST", "/v1/allow/batch"}: false,
			{"POST", "/v1/arm"}: false, {"POST", "/v1/stop"}: false, {"POST", "/v1/blocked/code"}: false,
		} {
			served := false
			r := httptest.NewRequestWithContext(context.WithValue(t.Context(), peerKey{}, peer{name: user}), request[0], request[1], nil)
			answer := httptest.NewRecorder()
			ownLimited(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served = true })).ServeHTTP(answer, r)
			if want := forOwn || user != ownUser; served != want || !want && answer.Code < http.StatusBadRequest {
				t.Errorf("%v by %s: served %v, status %d", request, user, served, answer.Code)
			}
		}
	}
}
