package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// A healthy file must never be set aside: whatever a store does, check finds nothing.
func TestCheckAcceptsWhatBoltWrites(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "mef.db"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r := rand.New(rand.NewPCG(1, 2))
	rounds := 600
	if testing.Short() {
		rounds = 100
	}
	s.db.NoSync = true // nobody pulls the plug
	for round := range rounds {
		// Waves: the tree grows to some depth and shrinks to nothing again.
		grow := round/60%2 == 0
		var u Update
		for range 1 + r.IntN(400) {
			key := binary.BigEndian.AppendUint32(nil, r.Uint32N(12000)*0x9E3779B9)
			key = append(key, strings.Repeat("k", r.IntN(8)*r.IntN(60))...)
			record := Record{Key: key}
			if grow == (r.IntN(10) > 0) {
				record.Value = make([]byte, 1+r.IntN(300))
			}
			u.Records = append(u.Records, record)
		}
		if round%97 == 5 {
			u.Records = append(u.Records, Record{Key: []byte(fmt.Sprint("large", round)), Value: make([]byte, 20_000)})
		}
		if !grow && round%3 == 0 { // whole stretches, so that pages are merged
			n := 0
			from := byte(r.IntN(256))
			for k := range s.Records() {
				if n++; k[0] >= from && n < 5000 {
					u.Records = append(u.Records, Record{Key: append([]byte(nil), k...)})
				}
			}
		}
		if err := s.Commit(&u, time.Unix(int64(round), 0)); err != nil {
			t.Fatal(err)
		}
		if round%150 == 149 {
			if err := s.compact(); err != nil {
				t.Fatal(err)
			}
			s.db.NoSync = true
		}
		file, err := os.Open(s.path)
		if err != nil {
			t.Fatal(err)
		}
		err = check(file, s.Size())
		file.Close()
		if err != nil {
			t.Fatalf("after round %d: %v", round, err)
		}
	}
}

// openUnchecked opens a file as a Store does, but without check. It returns when bbolt's goroutines have ended: one that panics lets the
// opener go on first, which would end the process with success.
func openUnchecked(path string) error {
	before := runtime.NumGoroutine()
	defer func() {
		for runtime.NumGoroutine() > before {
			time.Sleep(time.Millisecond)
		}
	}()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	s := &Store{path: path, maxSize: DefaultMaxSize}
	_, err = s.bolt(path, f)
	return err
}

// TestBoltCrashesOnDamage shows what check is for: on damage bbolt panics in goroutines of its own, which no recover can reach, and a
// daemon would not start any more. check finds each of these files.
func TestBoltCrashesOnDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mef.db")
	s, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var u Update
	for i := range 2000 {
		u.Records = append(u.Records, Record{Key: fmt.Append(nil, "key ", i), Value: make([]byte, 100)})
	}
	if err := errors.Join(s.Commit(&u, time.Now()), s.Close()); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	crashes := 0
	for page := 2; page*pageSize < len(good); page++ {
		head := good[page*pageSize:]
		if flags := binary.NativeEndian.Uint16(head[8:]); flags != flagBranch {
			continue
		}
		bad := bytes.Clone(good)
		binary.NativeEndian.PutUint64(bad[page*pageSize+headerSize+8:], 1<<40) // its first child is behind the end
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := check(bytes.NewReader(bad), int64(len(bad))); err == nil {
			t.Errorf("check accepts a file whose page %d leads nowhere", page)
		}
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), "MEF_TEST_UNCHECKED="+path)
		if out, err := child.CombinedOutput(); err != nil && bytes.Contains(out, []byte("goroutine")) {
			crashes++
		} else {
			t.Logf("page %d: %v, %s", page, err, out)
		}
	}
	if crashes == 0 {
		t.Error("bbolt survived everything: check is not needed any more")
	}
}
