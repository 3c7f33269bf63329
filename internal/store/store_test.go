package store_test

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"mef/internal/ban"
	"mef/internal/store"
)

// noon is when these tests play.
var noon = time.Date(2026, 3, 4, 12, 0, 0, 5, time.UTC)

// open opens a store that the test's end closes.
func open(t testing.TB, path string, opt store.Options) *store.Store {
	t.Helper()
	s, err := store.Open(path, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func commit(t testing.TB, s *store.Store, u *store.Update, now time.Time) {
	t.Helper()
	if err := s.Commit(u, now); err != nil {
		t.Fatal(err)
	}
}

func load(t testing.TB, s *store.Store, now time.Time) store.State {
	t.Helper()
	st, err := s.Load(now)
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(st.Bans, func(a, b ban.Ban) int { return a.Key.Compare(b.Key) })
	complete(t, s, st.Bans)
	return st
}

// complete reads the rest of bans, which has to agree with what is known of them.
func complete(t testing.TB, s *store.Store, bans []ban.Ban) {
	t.Helper()
	var keys []ban.Key
	for _, b := range bans {
		keys = append(keys, b.Key)
	}
	whole, err := s.Bans(keys)
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range bans {
		bans[i] = whole[b.Key]
		brief := bans[i]
		brief.Reason, brief.Author, brief.Note, brief.Evidence = "", "", "", nil
		if d := diff(brief, b); d != "" {
			t.Errorf("the ban, and what was loaded of it: %s", d)
		}
	}
}

// records returns the tracker's records.
func records(s *store.Store) map[string]string {
	out := make(map[string]string)
	for k, v := range s.Records() {
		out[string(k)] = string(v)
	}
	return out
}

// diff compares what was put with what came back.
func diff(want, got any) string {
	return cmp.Diff(want, got, cmpopts.EquateApproxTime(0), cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Prefix{}))
}

func mefdb(t testing.TB) string { return filepath.Join(t.TempDir(), "mef.db") }

// sampleBan is a ban such as a real one, for an hour.
func sampleBan(i int) ban.Ban {
	addr := netip.AddrFrom4([4]byte{198, byte(18 + i>>16), byte(i >> 8), byte(i)})
	lines := make([]string, ban.MaxEvidence)
	for n := range lines {
		lines[n] = fmt.Sprintf("Failed password for invalid user admin%d from %s port %d ssh2", n, addr, 40000+i%20000+n)
	}
	return ban.Ban{
		Key:   ban.Key{Prefix: netip.PrefixFrom(addr, 32)},
		Start: noon.Add(-time.Minute), Until: noon.Add(time.Hour),
		Rule: "sshd", Service: "sshd", Count: 1,
		ID:       fmt.Sprintf("sshd %s/32 3f1c5a6e9b7d4c2f8a1b2c3d4e5f6a7b:%d", addr, 1000000+i),
		Reason:   "5 failures in 42s at sshd (limit 5 in 10m0s): first ban, 10m0s",
		Evidence: lines,
	}
}

// lastingBan is a ban without end.
func lastingBan(i int) ban.Ban {
	b := sampleBan(i)
	b.Until = time.Time{}
	return b
}

func TestRoundTrip(t *testing.T) {
	for name, b := range map[string]ban.Ban{
		"everything set": func() ban.Ban {
			b := sampleBan(7)
			b.Ports, b.Class, b.Author, b.Note = "25,465,8000-8010", ban.Unverified, "root", "a note\nwith \x00 bytes \xff"
			return b
		}(),
		"nothing but a prefix":   {Key: ban.Key{Prefix: netip.MustParsePrefix("2001:db8::/64")}},
		"permanent":              {Key: ban.Key{Prefix: netip.MustParsePrefix("192.0.2.0/24")}, Start: noon, Rule: ban.ByHand, Count: 3},
		"end beyond nanoseconds": {Key: ban.Key{Prefix: netip.MustParsePrefix("::/128")}, Until: noon.AddDate(5000, 0, 0)},
		"start before 1970":      {Key: ban.Key{Prefix: netip.MustParsePrefix("0.0.0.0/32")}, Start: time.Date(1960, 1, 1, 0, 0, 0, 999, time.UTC)},
	} {
		t.Run(name, func(t *testing.T) {
			path := mefdb(t)
			s := open(t, path, store.Options{})
			commit(t, s, &store.Update{Bans: []ban.Ban{b}}, noon)
			s.Close()
			got := load(t, open(t, path, store.Options{}), noon)
			if d := diff([]ban.Ban{b}, got.Bans); d != "" {
				t.Errorf("bans after reopening (-put +got):\n%s", d)
			}
		})
	}
}

func TestUpdate(t *testing.T) {
	one, two, three := sampleBan(1), sampleBan(2), sampleBan(3)
	path := mefdb(t)
	s := open(t, path, store.Options{})
	commit(t, s, &store.Update{
		Bans:      []ban.Ban{one, two, three},
		Positions: map[string]string{"journal": "s=1", "/var/log/auth.log": "1:2:3"},
		Records:   []store.Record{{Key: []byte("a"), Value: []byte("1")}, {Key: []byte("b"), Value: []byte("2")}},
	}, noon)
	two.Until, two.Count = noon.Add(4*time.Hour), 2 // extended
	commit(t, s, &store.Update{
		Bans:      []ban.Ban{two},
		Lifted:    []ban.Key{one.Key, sampleBan(99).Key},
		Positions: map[string]string{"journal": "s=2", "/var/log/auth.log": "", "never seen": ""},
		Records:   []store.Record{{Key: []byte("a")}, {Key: []byte("b"), Value: []byte("3")}, {Key: []byte("nothing")}},
	}, noon)
	s.Close()

	s = open(t, path, store.Options{})
	st := load(t, s, noon)
	if d := diff([]ban.Ban{two, three}, st.Bans); d != "" {
		t.Errorf("bans (-want +got):\n%s", d)
	}
	if want := map[string]string{"journal": "s=2"}; !maps.Equal(st.Positions, want) {
		t.Errorf("positions %q, want %q", st.Positions, want)
	}
	if got, want := records(s), map[string]string{"b": "3"}; !maps.Equal(got, want) {
		t.Errorf("records %q, want %q", got, want)
	}
	if st := load(t, s, noon.Add(2*time.Hour)); len(st.Bans) != 1 || st.Bans[0].Key != two.Key {
		t.Errorf("two hours later %d bans are in force, want the extended one: %v", len(st.Bans), st.Bans)
	}
	if s.Warning() != nil || s.Skipped() != 0 {
		t.Errorf("warning %v, %d skipped; want none", s.Warning(), s.Skipped())
	}
}

func TestOverBansAreClearedOut(t *testing.T) {
	s := open(t, mefdb(t), store.Options{})
	commit(t, s, &store.Update{Bans: []ban.Ban{sampleBan(1)}}, noon)
	commit(t, s, &store.Update{Positions: map[string]string{"journal": "1"}}, noon.Add(2*time.Hour))
	// As of noon it would be in force, if it were still there.
	if st := load(t, s, noon); len(st.Bans) != 0 {
		t.Errorf("a ban that is over is still in the file: %v", st.Bans)
	}
}

func TestFilesAreOurs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "lib", "mef")
	path := filepath.Join(dir, "mef.db")
	commit(t, open(t, path, store.Options{}), &store.Update{Positions: map[string]string{"a": "b"}}, noon)
	for name, want := range map[string]os.FileMode{path: 0o600, dir: 0o750} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v; want %v", name, info.Mode().Perm(), err, want)
		}
	}
}

func TestTwoDaemons(t *testing.T) {
	path := mefdb(t)
	first := open(t, path, store.Options{})
	commit(t, first, &store.Update{Positions: map[string]string{"journal": "1"}}, noon)
	_, err := store.Open(path, store.Options{})
	if !errors.Is(err, store.ErrLocked) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "cache_dir") {
		t.Errorf("second Open: %v; want ErrLocked, the file's name, and what to do", err)
	}
	commit(t, first, &store.Update{Positions: map[string]string{"journal": "2"}}, noon)
	first.Close()
	if st := load(t, open(t, path, store.Options{}), noon); st.Positions["journal"] != "2" {
		t.Errorf("position %q after the first has ended, want 2", st.Positions["journal"])
	}
}
