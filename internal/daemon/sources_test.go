package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mef/internal/owner"
	"mef/internal/pipeline"
	"mef/internal/store"
)

// What is kept for a log file ends with it: its view and, in memory and on disk, its position.
func TestFilesThatWentAreForgotten(t *testing.T) {
	const files = 50
	h := settle(t, "", map[string]string{"rules/shop.conf": "[rule]\nfiles=HERE/log/*.log\nsource=file\nprograms=shop\nfailregex=^refused <HOST>$\n"})
	for i := range files {
		h.write(fmt.Sprintf("log/shop-%c%d.log", 'a'+i%26, i), "Jan  2 03:04:05 host shop[1]: hello\n")
	}
	known := func() (positions, views int) {
		err := owner.Do(t.Context(), h.Engine, func(s *pipeline.State) {
			for source := range s.Positions {
				if strings.HasPrefix(source, h.dir) {
					positions++
				}
			}
			views = len(s.Engine.Sources())
		})
		if err != nil {
			t.Fatal(err)
		}
		return positions, views
	}
	h.await("all files are read", func() bool { positions, _ := known(); return positions == files })
	h.end()
	logs, _ := filepath.Glob(filepath.Join(h.dir, "log", "*.log"))
	for _, path := range logs {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	h.start()
	h.await("they are forgotten", func() bool { positions, views := known(); return positions+views == 0 })
	h.end() // saves
	st, err := store.Open(filepath.Join(h.dir, "state", "mef.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	state, err := st.Load(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if len(state.Positions) > 0 {
		t.Errorf("%d positions are on disk", len(state.Positions))
	}
}
