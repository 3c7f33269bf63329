package control

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
)

// What changes something goes on though its client has gone away; what only asks does not, and nothing goes on once the server ends.
func TestChangesOutliveTheirClient(t *testing.T) {
	for method, want := range map[string]bool{http.MethodGet: false, http.MethodPost: true, http.MethodDelete: true} {
		server, end := context.WithCancel(t.Context())
		client, leave := context.WithCancel(context.WithValue(server, peerKey{}, peer{name: "alice"}))
		finish(server, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			leave()
			if goesOn := r.Context().Err() == nil; goesOn != want {
				t.Errorf("%s goes on without its client: %v, want %v", method, goesOn, want)
			}
			if p, _ := r.Context().Value(peerKey{}).(peer); p.name != "alice" {
				t.Errorf("%s: the peer is %+v", method, p)
			}
			end()
			<-r.Context().Done()
		})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(client, method, "/", nil))
	}
}
