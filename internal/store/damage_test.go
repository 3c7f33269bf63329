package store_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mef/internal/ban"
	"mef/internal/store"
)

// healthy returns the bytes of a file with so many bans, which are returned too, a position and some records.
func healthy(t testing.TB, n int) ([]byte, map[ban.Key]ban.Ban) {
	t.Helper()
	path := mefdb(t)
	s := open(t, path, store.Options{})
	bans := make(map[ban.Key]ban.Ban)
	u := store.Update{Positions: map[string]string{"journal": "s=1"}}
	for i := range n {
		b := sampleBan(i)
		bans[b.Key] = b
		u.Bans = append(u.Bans, b)
		u.Records = append(u.Records, store.Record{Key: fmt.Append(nil, "k", i), Value: fmt.Append(nil, "value of k", i)})
	}
	commit(t, s, &u, noon)
	s.Close()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// The file grows by more than it holds; what is behind is of no interest.
	for len(data) > 4096 && strings.Trim(string(data[len(data)-4096:]), "\x00") == "" {
		data = data[:len(data)-4096]
	}
	return data, bans
}

// survive opens a file of the given bytes and uses it. Whatever they are, the process lives, nothing comes out that was not
// put in, and the store works afterwards. It reports whether the file was set aside.
func survive(t *testing.T, data []byte, bans map[ban.Key]ban.Ban) bool {
	t.Helper()
	path := mefdb(t)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(path, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	aside := s.Warning() != nil
	st, err := s.Load(noon)
	if err != nil {
		t.Fatalf("load: %v", err)
	}
	complete(t, s, st.Bans)
	for _, b := range st.Bans {
		if d := diff(bans[b.Key], b); d != "" {
			t.Errorf("a ban that nobody put (-put +got):\n%s", d)
		}
	}
	for k, v := range records(s) {
		if v != "value of "+k {
			t.Errorf("a record that nobody put: %q = %q", k, v)
		}
	}
	b := sampleBan(1 << 20)
	u := store.Update{Bans: []ban.Ban{b}, Lifted: []ban.Key{sampleBan(3).Key}, Positions: map[string]string{"after": "that"}}
	commit(t, s, &u, noon)
	s.Close()
	s, err = store.Open(path, store.Options{})
	if err != nil || s.Warning() != nil {
		t.Fatalf("open again: %v, %v", err, s.Warning())
	}
	defer s.Close()
	again := load(t, s, noon)
	if again.Positions["after"] != "that" {
		t.Errorf("what was saved afterwards is lost: %v", again.Positions)
	}
	want := []ban.Key{b.Key}
	for _, b := range st.Bans {
		if b.Key != u.Lifted[0] {
			want = append(want, b.Key)
		}
	}
	for _, key := range want {
		if !slices.ContainsFunc(again.Bans, func(b ban.Ban) bool { return b.Key == key }) {
			t.Errorf("%v is lost after one more was saved", key)
		}
	}
	return aside
}

func TestDamagedFiles(t *testing.T) {
	data, bans := healthy(t, 500)
	for name, broken := range map[string][]byte{
		"text":               []byte("this is no database"),
		"garbage":            garbage(100_000),
		"zeros":              make([]byte, 65536),
		"one byte":           {7},
		"cut in the middle":  data[:len(data)/2],
		"cut within a page":  data[:len(data)-1000],
		"only meta pages":    data[:8192],
		"both metas damaged": damaged(data, 8192, 40),
		"garbage after meta": append(data[:8192:8192], garbage(len(data)-8192)...),
		"pages swapped":      append(append(data[:8192:8192], data[16384:]...), data[8192:16384]...),
	} {
		t.Run(name, func(t *testing.T) {
			path := mefdb(t)
			if err := os.WriteFile(path, broken, 0o600); err != nil {
				t.Fatal(err)
			}
			s := open(t, path, store.Options{})
			err := s.Warning()
			aside, _ := filepath.Glob(path + ".damaged-*")
			if !errors.Is(err, store.ErrDamaged) || len(aside) != 1 || !strings.Contains(err.Error(), aside[0]) {
				t.Fatalf("warning %v, set aside %q; want ErrDamaged and the one file's name", err, aside)
			}
			if kept, _ := os.ReadFile(aside[0]); string(kept) != string(broken) {
				t.Error("the file that was set aside is not what it was")
			}
			s.Close()
			survive(t, broken, bans)
		})
	}
}

func garbage(n int) []byte {
	out := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(out)
	return out
}

// damaged returns the data with flips bytes changed before the place end.
func damaged(data []byte, end, flips int) []byte {
	out := append([]byte(nil), data...)
	r := rand.New(rand.NewPCG(uint64(end), uint64(flips)))
	for range flips {
		out[r.IntN(end)] ^= byte(1 + r.IntN(255))
	}
	for i := 16; i < end; i += 4096 {
		out[i] ^= 0x55 // magic
	}
	return out
}

// TestFlippedBytes breaks a file in hundreds of random ways.
func TestFlippedBytes(t *testing.T) {
	data, bans := healthy(t, 150)
	rounds := 300
	if testing.Short() {
		rounds = 30
	}
	r := rand.New(rand.NewPCG(5, 6))
	asides := 0
	for range rounds {
		broken := append([]byte(nil), data...)
		for range 1 + r.IntN(4) {
			at := r.IntN(len(broken))
			if r.IntN(2) == 0 { // heads of pages are where it hurts
				at = at&^4095 + r.IntN(64)
			}
			broken[at] ^= 1 << r.IntN(8)
		}
		if survive(t, broken, bans) {
			asides++
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("%d of %d files set aside", asides, rounds)
}

func TestUnreadableRecordsAreLeftOut(t *testing.T) {
	data, bans := healthy(t, 20)
	at := strings.Index(string(data), "value of k7")
	data[at] ^= 1
	path := mefdb(t)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, path, store.Options{})
	st := load(t, s, noon)
	if got := records(s); len(st.Bans) != len(bans) || len(got) != 19 || s.Skipped() != 1 || s.Warning() != nil {
		t.Errorf("%d bans, %d records, %d skipped, warning %v; want 20, 19, 1, none", len(st.Bans), len(got), s.Skipped(), s.Warning())
	}
}

func TestDamagedFilesKept(t *testing.T) {
	path := mefdb(t)
	for i := range 5 {
		if err := os.WriteFile(path, fmt.Append(nil, "broken ", i), 0o600); err != nil {
			t.Fatal(err)
		}
		open(t, path, store.Options{}).Close()
	}
	aside, _ := filepath.Glob(path + ".damaged-*")
	var texts []string
	for _, name := range aside {
		text, _ := os.ReadFile(name)
		texts = append(texts, string(text))
	}
	if d := diff([]string{"broken 2", "broken 3", "broken 4"}, texts); d != "" {
		t.Errorf("the last three are kept (-want +got):\n%s", d)
	}
}

// FuzzFile mutates a whole file.
func FuzzFile(f *testing.F) {
	data, bans := healthy(f, 30)
	f.Add(uint16(0), []byte{}, uint16(0))
	f.Add(uint16(23), []byte("0"), uint16(133)) // the sequence of a bucket
	for page := range len(data) / 4096 {
		f.Add(uint16(page), []byte{1, 0, 0, 0, 9}, uint16(8))
	}
	f.Fuzz(func(t *testing.T, page uint16, patch []byte, at uint16) {
		broken := append([]byte(nil), data...)
		copy(broken[min(len(broken), int(page)%(len(data)/4096)*4096+int(at)%4096):], patch)
		survive(t, broken, bans)
	})
}

// Who deletes the file of a daemon that runs has deleted its name: nothing of what is in it is lost.
func TestDeletedWhileInUse(t *testing.T) {
	for name, remove := range map[string]func(path string) error{
		"the file":   os.Remove,
		"the folder": func(path string) error { return os.RemoveAll(filepath.Dir(path)) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "mef", "mef.db")
			s := open(t, path, store.Options{})
			commit(t, s, &store.Update{Bans: []ban.Ban{lastingBan(1)}}, noon)
			if err := remove(path); err != nil {
				t.Fatal(err)
			}
			commit(t, s, &store.Update{Bans: []ban.Ban{lastingBan(2)}}, noon)
			if w := s.Warning(); w == nil || !strings.Contains(w.Error(), path+" was deleted while in use") {
				t.Errorf("warning %v, want one that the file was deleted", w)
			}
			if _, err := store.Open(path, store.Options{}); !errors.Is(err, store.ErrLocked) {
				t.Errorf("another daemon opens the file: %v; want ErrLocked", err)
			}
			s.Close()
			if st := load(t, open(t, path, store.Options{}), noon); len(st.Bans) != 2 {
				t.Errorf("%d bans are in the file, want both", len(st.Bans))
			}
		})
	}
}
