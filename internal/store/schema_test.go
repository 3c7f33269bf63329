package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"mef/internal/ban"
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

// earlier makes a file of an earlier schema, with bans by key, a position and a record of the tracker of each kind.
func earlier(t *testing.T, schema uint64, bans ...ban.Ban) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mef.db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{PageSize: pageSize, NoFreelistSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, step := range migrations[:schema] {
			if err := step(tx); err != nil {
				return err
			}
		}
		var e encoder
		for i := range bans {
			k := banKey(bans[i].Key)
			if err := put(tx.Bucket(bucketBansByKey), k, e.ban(&bans[i])); err != nil {
				return err
			}
		}
		return errors.Join(put(tx.Bucket(bucketMeta), keySchema, append(binary.AppendUvarint(nil, schema), "10.0"...)),
			put(tx.Bucket(bucketPositions), []byte("journal"), []byte("7")),
			put(tx.Bucket(bucketTracker), []byte("own"), []byte("1")),
			put(tx.Bucket(bucketTracker), []byte("source"), []byte("1")), // a spare one
			tx.Bucket(bucketBansByKey).Put([]byte("damaged"), []byte("what cannot be read")))
	})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// A file of an earlier version is taken over with all that is in it, and what is in it can be changed, deleted and read like new.
func TestEarlierSchemasAreTakenOver(t *testing.T) {
	now := time.Now().Round(0)
	someBan := func(i int, line string) ban.Ban {
		return ban.Ban{Key: ban.Key{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 32)}, Rule: "sshd", ID: "id",
			Start: now, Until: now.Add(time.Hour), Evidence: []string{line}}
	}
	for have := uint64(1); have < schema; have++ {
		path := earlier(t, have, someBan(1, "one"), someBan(2, "two"), someBan(3, "three"))
		s, err := Open(path, Options{Version: "10.1"})
		if err != nil || s.Warning() != nil {
			t.Fatalf("schema %d: Open: %v, warning %v", have, err, s.Warning())
		}
		check := func(when string, wantBans, wantRecords map[string]string) {
			t.Helper()
			st, err := s.Load(now)
			if err != nil || st.Positions["journal"] != "7" {
				t.Errorf("schema %d, %s: %v, positions %q", have, when, err, st.Positions)
			}
			bans, records := map[string]string{}, map[string]string{}
			for _, b := range st.Bans {
				all, err := s.Bans([]ban.Key{b.Key})
				if err != nil || len(all[b.Key].Evidence) != 1 {
					t.Fatalf("schema %d, %s: ban %s is %+v, %v", have, when, b.Key, all[b.Key], err)
				}
				bans[b.Key.String()] = all[b.Key].Evidence[0]
			}
			for k, v := range s.Records() {
				records[string(k)] += string(v)
			}
			if !maps.Equal(bans, wantBans) || !maps.Equal(records, wantRecords) {
				t.Errorf("schema %d, %s: bans %q, records %q; want %q, %q", have, when, bans, records, wantBans, wantRecords)
			}
		}
		check("taken over", map[string]string{"192.0.2.1": "one", "192.0.2.2": "two", "192.0.2.3": "three"}, map[string]string{"own": "1", "source": "1"})
		u := Update{Bans: []ban.Ban{someBan(2, "again"), someBan(4, "four")}, Lifted: []ban.Key{someBan(3, "").Key},
			Notes:   map[string]string{"note": "stays"},
			Records: []Record{{Key: []byte("own"), Value: []byte("2")}, {Key: []byte("source"), Value: []byte("2"), Spare: true}, {Key: []byte("new"), Value: []byte("1"), Spare: true}}}
		if err := s.Commit(&u, now); err != nil {
			t.Fatal(err)
		}
		wantBans := map[string]string{"192.0.2.1": "one", "192.0.2.2": "again", "192.0.2.4": "four"}
		check("changed", wantBans, map[string]string{"own": "2", "source": "2", "new": "1"})
		s.Close()
		if s, err = Open(path, Options{Version: "10.1"}); err != nil || s.Warning() != nil {
			t.Fatalf("schema %d: open again: %v, warning %v", have, err, s.Warning())
		}
		check("opened again", wantBans, map[string]string{"own": "2", "source": "2", "new": "1"})
		if err := s.Commit(&Update{Records: []Record{{Key: []byte("source")}, {Key: []byte("new")}}}, now); err != nil {
			t.Fatal(err)
		}
		check("deleted", wantBans, map[string]string{"own": "2"})
		if st, _ := s.Load(now); st.Notes["note"] != "stays" {
			t.Errorf("schema %d: notes %q", have, st.Notes)
		}
		s.Close()
	}
}

// A note is replaced, and an empty one deletes it.
func TestNotes(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "mef.db"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, note := range []string{"first", "second", ""} {
		if err := s.Commit(&Update{Notes: map[string]string{"allow 192.0.2.7": note, "other": "stays"}}, time.Now()); err != nil {
			t.Fatal(err)
		}
		st, err := s.Load(time.Now())
		if err != nil || st.Notes["other"] != "stays" {
			t.Errorf("%v: notes %q", err, st.Notes)
		}
		if got, there := st.Notes["allow 192.0.2.7"]; got != note || there != (note != "") {
			t.Errorf("note %q, want %q", got, note)
		}
	}
}
