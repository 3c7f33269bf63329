package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

// withSchema makes a file whose schema entry is value.
func withSchema(t *testing.T, value []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mef.db")
	s, err := Open(path, Options{Version: "10.1"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.db.Update(func(tx *bbolt.Tx) error { return put(tx.Bucket(bucketMeta), keySchema, value) }); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestNewerSchema(t *testing.T) {
	path := withSchema(t, append(binary.AppendUvarint(nil, schema+1), "11.0"...))
	_, err := Open(path, Options{Version: "10.1"})
	if !errors.Is(err, ErrNewer) {
		t.Fatalf("Open: %v, want ErrNewer", err)
	}
	for _, word := range []string{path, `"11.0"`, `"10.1"`, fmt.Sprintf("schema %d", schema+1), "install the newer version", "move the file away"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("error %q does not say %q", err, word)
		}
	}
	if _, err := Open(path, Options{}); !errors.Is(err, ErrNewer) {
		t.Errorf("the file is not left as it was: %v", err)
	}
	if aside, _ := filepath.Glob(path + ".damaged-*"); len(aside) > 0 {
		t.Errorf("a newer file was set aside: %q", aside)
	}
}

func TestUnreadableSchema(t *testing.T) {
	for name, value := range map[string][]byte{"zero": {0}, "endless": {0xff, 0xff}, "empty": {}} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(withSchema(t, value), Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if !errors.Is(s.Warning(), ErrDamaged) {
				t.Errorf("warning %v, want ErrDamaged", s.Warning())
			}
		})
	}
}

func TestSchemaRemembersItsWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mef.db")
	for _, version := range []string{"10.1", "10.2"} { // the second finds nothing to migrate
		s, err := Open(path, Options{Version: version})
		if err != nil {
			t.Fatal(err)
		}
		s.db.View(func(tx *bbolt.Tx) error {
			if have, writer, err := readSchema(tx); have != schema || writer != "10.1" || err != nil {
				t.Errorf("schema %d by %q, %v; want %d by 10.1", have, writer, err, schema)
			}
			return nil
		})
		s.Close()
	}
}

// A file of the first version, which knew no notes, is taken over with all that is in it.
func TestFirstSchemaIsTakenOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mef.db")
	s, err := Open(path, Options{Version: "10.1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(&Update{Positions: map[string]string{"journal": "7"}}, time.Now()); err != nil {
		t.Fatal(err)
	}
	err = s.db.Update(func(tx *bbolt.Tx) error {
		first := append(binary.AppendUvarint(nil, 1), "10.0"...)
		return errors.Join(tx.DeleteBucket(bucketNotes), put(tx.Bucket(bucketMeta), keySchema, first))
	})
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(path, Options{Version: "10.1"}); err != nil || s.Warning() != nil {
		t.Fatalf("Open: %v, warning %v", err, s.Warning())
	}
	defer s.Close()
	for _, note := range []string{"first", "second", ""} {
		if err := s.Commit(&Update{Notes: map[string]string{"allow 192.0.2.7": note, "other": "stays"}}, time.Now()); err != nil {
			t.Fatal(err)
		}
		st, err := s.Load(time.Now())
		if err != nil || st.Positions["journal"] != "7" || st.Notes["other"] != "stays" {
			t.Errorf("%v: positions %q, notes %q", err, st.Positions, st.Notes)
		}
		if got, there := st.Notes["allow 192.0.2.7"]; got != note || there != (note != "") {
			t.Errorf("note %q, want %q", got, note)
		}
	}
}
