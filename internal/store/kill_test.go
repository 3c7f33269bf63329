package store

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"mef/internal/ban"
)

// TestMain is the writer that the tests kill, or the reader of a damaged file, if its environment says so.
func TestMain(m *testing.M) {
	if path := os.Getenv("MEF_TEST_WRITE"); path != "" {
		fmt.Fprintln(os.Stderr, writeForever(path))
		os.Exit(1)
	}
	if path := os.Getenv("MEF_TEST_UNCHECKED"); path != "" {
		fmt.Fprintln(os.Stderr, openUnchecked(path))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// How the writer's file is laid out: transaction n sets the position to n, tally n%tallies to n, and ban n%banned, counted n.
const (
	tallies = 700
	banned  = 90
)

func bannedAs(n uint64) ban.Ban {
	return ban.Ban{
		Key:   ban.Key{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(n % banned)}), 32)},
		Count: int(n), Rule: "sshd", Evidence: []string{strings.Repeat("line ", int(n%300))},
	}
}

// writeForever goes on where the file stands, and says each transaction's number once it is done.
func writeForever(path string) error {
	s, err := Open(path, Options{})
	if err != nil {
		return err
	}
	st, err := s.Load(time.Now())
	if err != nil {
		return err
	}
	n, _ := strconv.ParseUint(st.Positions["log"], 10, 64)
	for {
		n++
		u := Update{
			Bans:      []ban.Ban{bannedAs(n)},
			Positions: map[string]string{"log": fmt.Sprint(n)},
			Records:   []Record{{Key: binary.BigEndian.AppendUint64(nil, n%tallies), Value: binary.BigEndian.AppendUint64(nil, n)}},
		}
		if err := s.Commit(&u, time.Now()); err != nil {
			return err
		}
		fmt.Println(n)
		if n%5 == 0 {
			if err := s.compact(); err != nil {
				return err
			}
		}
	}
}

// TestKill kills a writer at random moments, compactions among them, and looks at what it leaves behind.
func TestKill(t *testing.T) {
	rounds := 120
	if testing.Short() {
		rounds = 15
	}
	path := filepath.Join(t.TempDir(), "mef.db")
	var last uint64
	for range rounds {
		said := writeAndKill(t, path, last)
		last = verify(t, path, said)
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("%d transactions, %d times killed", last, rounds)
}

// writeAndKill returns the last transaction that the writer said was done.
func writeAndKill(t *testing.T, path string, last uint64) uint64 {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "MEF_TEST_WRITE="+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	for n := 0; ; n++ {
		line, err := lines.ReadString('\n')
		if err == io.EOF {
			break
		}
		if last, err = strconv.ParseUint(strings.TrimSpace(line), 10, 64); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			timer := time.AfterFunc(time.Duration(rand.Int64N(int64(60*time.Millisecond))), func() { cmd.Process.Kill() })
			defer timer.Stop()
		}
	}
	cmd.Wait()
	return last
}

// verify reads the file: it has transaction said, or the one after, whole, and every one before.
func verify(t *testing.T, path string, said uint64) (last uint64) {
	t.Helper()
	s, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.Warning() != nil {
		t.Fatal(s.Warning())
	}
	if rest, _ := filepath.Glob(path + ".*"); len(rest) > 0 {
		t.Errorf("left behind: %q", rest)
	}
	st, err := s.Load(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	last, _ = strconv.ParseUint(st.Positions["log"], 10, 64)
	if last != said && last != said+1 {
		t.Fatalf("position %d; the writer said %d was on disk", last, said)
	}
	// before returns the latest transaction up to last that is n modulo m.
	before := func(n, m uint64) uint64 { return last - (last+m-n)%m }
	found := uint64(0)
	for k, v := range s.Records() {
		found++
		if n := binary.BigEndian.Uint64(k); binary.BigEndian.Uint64(v) != before(n, tallies) {
			t.Errorf("tally %d is of transaction %d, want %d", n, binary.BigEndian.Uint64(v), before(n, tallies))
		}
	}
	if want := min(last, tallies); found != want {
		t.Errorf("%d tallies, want %d", found, want)
	}
	var keys []ban.Key
	for _, b := range st.Bans {
		keys = append(keys, b.Key)
	}
	whole, err := s.Bans(keys)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range whole {
		n := uint64(b.Prefix.Addr().As4()[3])
		if want := bannedAs(before(n, banned)); b.Count != want.Count || b.Evidence[0] != want.Evidence[0] {
			t.Errorf("ban %v is of transaction %d, want %d", b.Key, b.Count, want.Count)
		}
	}
	if want := min(last, banned); uint64(len(whole)) != want || s.Skipped() > 0 {
		t.Errorf("%d bans, %d skipped; want %d, 0", len(st.Bans), s.Skipped(), want)
	}
	return last
}
