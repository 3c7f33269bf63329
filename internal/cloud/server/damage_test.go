package server

import (
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mef/internal/cloud/reputation"
)

// TestFlippedBits flips a bit in each file of a data directory, at its ends and at places by chance: the server starts with everything, or it refuses
// with an error that names the file, or the directory of the log, and the way back.
func TestFlippedBits(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	h := join(t, s, "")
	h.mustReport(attacker)
	s.stop()
	s = start(t, dir)
	h.inv.Server = s.Addr().String()
	const more = 5
	for i := range more { // in the log only
		h.mustReport(netip.AddrFrom4([4]byte{203, 0, 113, byte(10 + i)}))
	}
	copied := filepath.Join(t.TempDir(), "copied")
	if err := os.CopyFS(copied, withoutSockets{os.DirFS(dir)}); err != nil { // as after a crash
		t.Fatal(err)
	}
	feed := slices.Clone(s.feedKey)
	s.stop()
	var files []string
	err := fs.WalkDir(os.DirFS(copied), ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	})
	if err != nil || len(files) < 5 {
		t.Fatal(files, err)
	}
	n := 6
	if testing.Short() {
		n = 1
	}
	random := rand.New(rand.NewPCG(1, 2))
	for _, file := range files {
		t.Run(file, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join(copied, file))
			if err != nil {
				t.Fatal(err)
			}
			if len(text) == 0 {
				return
			}
			places := []int{0, len(text) - 1}
			for range n {
				places = append(places, random.IntN(len(text)))
			}
			for _, at := range places {
				dir := filepath.Join(t.TempDir(), "damaged")
				if err := os.CopyFS(dir, os.DirFS(copied)); err != nil {
					t.Fatal(err)
				}
				bad := slices.Clone(text)
				bad[at] ^= 1 << random.IntN(8)
				if err := os.WriteFile(filepath.Join(dir, file), bad, 0o600); err != nil {
					t.Fatal(err)
				}
				s, err := Open(t.Context(), Options{Dir: dir, Listen: "127.0.0.1:0", Name: "x:1", Log: slog.New(slog.DiscardHandler)})
				if err == nil {
					found := 0
					s.state.book.Each(reputation.OwnHosts, func(netip.Prefix, uint16) { found++ })
					if found != 1+more || len(s.state.agents) != 1 || !slices.Equal(s.feedKey, feed) {
						t.Errorf("byte %d of %d: it starts with %d of %d addresses, %d of 1 hosts, the same key: %v", at, len(text), found, 1+more, len(s.state.agents), slices.Equal(s.feedKey, feed))
					}
					s.Close()
					continue
				}
				named := filepath.Base(file)
				if strings.HasPrefix(file, "nats/") {
					named = "nats"
				}
				if !strings.Contains(err.Error(), "mefcloud restore") || !strings.Contains(err.Error(), named) {
					t.Errorf("byte %d: the error does not name the file and the way back: %v", at, err)
				}
			}
		})
	}
}
