package page

import (
	"net/http"

	"mef/internal/control"
	"mef/internal/metrics"
	"mef/internal/pagechild"
)

// metricsPage serves /metrics.
func metricsPage(service pagechild.Service, client *control.Client) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		if !named(r, service.Unix, nil) {
			http.Error(w, notNamed, http.StatusMisdirectedRequest)
			return
		}
		picture, err := client.Picture(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		w.Header().Set("Content-Type", metrics.ContentType)
		_, _ = w.Write(metrics.Text(&picture))
	})
	return mux
}
