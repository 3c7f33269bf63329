package offline_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"mef/internal/conf"
	"mef/internal/conf/mefconf"
	"mef/internal/filter"
	"mef/internal/offline"
)

// rules returns the shipped rules.
func rules(t *testing.T) []conf.Rule {
	t.Helper()
	return configuration(t).Rules
}

// configuration returns the defaults.
func configuration(t testing.TB) *conf.Config { return configured(t, "") }

// configured is configuration with settings of mef.conf.
func configured(t testing.TB, settings string) *conf.Config {
	t.Helper()
	empty := t.TempDir()
	path := filepath.Join(t.TempDir(), "mef.conf")
	text := "[global]\nrules_dir=" + empty + "\nwhitelist_dir=" + empty + "\nblacklist_dir=" + empty + "\n" + settings
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := mefconf.Load(path, filter.Shipped())
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

const failed = "Jan  2 03:04:05 host sshd[71]: Failed password for root from 192.0.2.7 port 4711 ssh2"

// TestEveryLineHasItsNumber feeds lines that break naive readers, in reads of any size, and expects one answer for each.
func TestEveryLineHasItsNumber(t *testing.T) {
	huge := strings.Repeat("x", 1<<20)
	for name, tt := range map[string]struct {
		in   string
		want string // a letter for each line: m matched, - not
	}{
		"no line end":       {failed, "m"},
		"empty":             {"", ""},
		"empty lines":       {"\n\n" + failed + "\n\n", "--m-"},
		"carriage returns":  {failed + "\r\n" + failed + "\r\n", "mm"},
		"1 MB line":         {huge + "\n" + failed + "\n", "-m"},
		"1 MB at the end":   {failed + "\n" + huge, "m-"},
		"two huge in a row": {huge + "\n" + huge + "\n" + failed, "--m"},
		"binary garbage":    {"\x00\xff\xfe\x01\n" + failed + "\n", "-m"},
		"NUL in the user":   {strings.Replace(failed, "root", "invalid user r\x00t", 1) + "\n" + failed, "mm"},
	} {
		for size, reader := range map[string]func(io.Reader) io.Reader{
			"whole":      func(r io.Reader) io.Reader { return r },
			"by halves":  iotest.HalfReader,
			"end at end": iotest.DataErrReader,
		} {
			t.Run(name+" "+size, func(t *testing.T) {
				m, err := offline.ForService(rules(t), "sshd")
				if err != nil {
					t.Fatal(err)
				}
				var got strings.Builder
				err = m.Run(reader(strings.NewReader(tt.in)), func(n int, match *filter.Match) error {
					if n != got.Len()+1 {
						t.Fatalf("line %d comes after %d lines", n, got.Len())
					}
					got.WriteByte(map[bool]byte{true: 'm', false: '-'}[match != nil])
					return nil
				})
				if err != nil || got.String() != tt.want {
					t.Errorf("answers %q, %v; want %q", got.String(), err, tt.want)
				}
			})
		}
	}
}

func TestUnknownService(t *testing.T) {
	if _, err := offline.ForService(rules(t), "telnetd"); !errors.Is(err, offline.ErrUnknownService) {
		t.Errorf("ForService: %v", err)
	}
}

func TestReadErrorIsReported(t *testing.T) {
	m, err := offline.ForService(rules(t), "")
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("disk gone")
	if _, err := m.Summarize(io.MultiReader(strings.NewReader(failed+"\n"), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("Summarize: %v", err)
	}
}
