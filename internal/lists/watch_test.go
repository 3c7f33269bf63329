package lists

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestNothingIsMissedOnceWatched changes directories as soon as they are reported to be watched, several times over, for there would be
// little time to miss it in.
func TestNothingIsMissedOnceWatched(t *testing.T) {
	var watches []*watch
	for range 20 {
		dir := filepath.Join(t.TempDir(), "allow")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		w := newWatch(slog.New(slog.DiscardHandler))
		go w.run(t.Context())
		w.at(t.Context(), []string{dir}, time.Hour)
		if err := os.WriteFile(filepath.Join(dir, "a.conf"), []byte("203.0.113.7\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		watches = append(watches, w)
	}
	limit := time.After(time.Minute)
	for i, w := range watches {
		select {
		case <-w.changed:
		case <-limit:
			t.Fatalf("watch %d did not tell of a change", i)
		}
	}
}
