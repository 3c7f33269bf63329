package offline_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"mef/internal/ban"
	"mef/internal/offline"
)

func sshLine(minute int, text string) string {
	return time.Date(2026, 3, 2, 8, minute, 0, 0, time.UTC).Format(time.RFC3339) + " host sshd[1]: " + text + "\n"
}

// Rotated logs in any order, however they are compressed, are one log.
func TestLogsInAnyOrder(t *testing.T) {
	parts := make([]string, 4)
	for i := range 8 { // in turn, so that the files overlap in time
		parts[i%4] += sshLine(i, "Failed password for root from 203.0.113.7 port 1 ssh2")
	}
	dir := t.TempDir()
	write := func(name string, text string, compress func(io.Writer) io.WriteCloser) string {
		var b bytes.Buffer
		w := compress(&b)
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	paths := []string{
		write("d", parts[3], func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }),
		write("c", parts[2], func(w io.Writer) io.WriteCloser { z, _ := zstd.NewWriter(w); return z }),
		write("b", parts[1], func(w io.Writer) io.WriteCloser { x, _ := xz.NewWriter(w); return x }),
		write("a", parts[0], func(w io.Writer) io.WriteCloser { return plain{w} }),
	}
	r, err := offline.NewReplay(configuration(t), offline.Options{WhatIf: true})
	if err != nil {
		t.Fatal(err)
	}
	var bans []ban.Ban
	r.OnBan(func(b ban.Ban) error { bans = append(bans, b); return nil })
	read := 0
	var logs []offline.Input
	for _, path := range paths {
		in, closer, err := offline.Open(path, func(n int) { read += n })
		if err != nil {
			t.Fatal(err)
		}
		defer closer.Close()
		logs = append(logs, in)
	}
	if err := offline.Play(logs, func(text string) { t.Error(text) }, r); err != nil {
		t.Fatal(err)
	}
	if len(bans) != 1 || !bans[0].Start.Equal(time.Date(2026, 3, 2, 8, 4, 0, 0, time.UTC)) {
		t.Errorf("bans %+v, want one, by the fifth line in order of time", bans)
	}
	s := r.Summary()
	if s.Through != 5 || s.Stopped != 3 || s.Bans != 1 || s.Banned != 1 || s.Rules["sshd"].Stopped != 3 {
		t.Errorf("summary %+v", s)
	}
	if read == 0 {
		t.Error("no progress")
	}
	if _, _, err := offline.Open(write("bad", "\x1f\x8bnot gzip", func(w io.Writer) io.WriteCloser { return plain{w} }), nil); err == nil {
		t.Error("a damaged file was opened")
	}
}

// A log that was cut off counts as far as it goes, and is named with the line; the others go on.
func TestLogCutOff(t *testing.T) {
	var cut bytes.Buffer
	z := gzip.NewWriter(&cut)
	for i := range 2000 {
		fmt.Fprintf(z, "Mar  2 07:%02d:%02d web1 sshd[7]: Failed password for user%d from 203.0.113.7 port %d ssh2\n", i/60%60, i%60, i*7919, i*31)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "auth.log.1.gz")
	if err := os.WriteFile(path, cut.Bytes()[:cut.Len()/2], 0o600); err != nil {
		t.Fatal(err)
	}
	whole := ""
	for i := range 5 {
		whole += sshLine(i, "Failed password for root from 203.0.113.9 port 1 ssh2")
	}
	for name, others := range map[string][]offline.Input{"alone": nil, "with another": {{Name: "auth.log", Reader: strings.NewReader(whole), Near: time.Date(2026, 3, 3, 0, 0, 0, 0, time.UTC)}}} {
		in, closer, err := offline.Open(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer closer.Close()
		in.Near = time.Date(2026, 3, 3, 0, 0, 0, 0, time.UTC)
		r, err := offline.NewReplay(configuration(t), offline.Options{WhatIf: true})
		if err != nil {
			t.Fatal(err)
		}
		banned := make(map[string]bool)
		r.OnBan(func(b ban.Ban) error { banned[b.Key.Prefix.Addr().String()] = true; return nil })
		err = offline.Play(append(others, in), nil, r)
		if !errors.Is(err, offline.ErrIncomplete) || !regexp.MustCompile(`auth\.log\.1\.gz: .* line [1-9]\d+: unexpected EOF`).MatchString(err.Error()) {
			t.Errorf("%s: %v, want that the log is cut off, and where", name, err)
		}
		if !banned["203.0.113.7"] || others != nil && !banned["203.0.113.9"] {
			t.Errorf("%s: banned %v, want the sources of all lines that can be read", name, banned)
		}
	}
}

type plain struct{ io.Writer }

func (plain) Close() error { return nil }

// What a ban would have kept away does not count, and makes no further ban.
func TestWhatIf(t *testing.T) {
	log := ""
	for i := range 5 {
		log += sshLine(i, "Failed password for root from 203.0.113.7 port 1 ssh2")
	}
	for range 60 {
		log += sshLine(6, "Failed password for root from 203.0.113.7 port 1 ssh2")
	}
	log += sshLine(7, "Accepted password for root from 203.0.113.7 port 1 ssh2")
	log += sshLine(20, "Failed password for root from 203.0.113.7 port 1 ssh2")
	r, err := offline.NewReplay(configuration(t), offline.Options{WhatIf: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Run(strings.NewReader(log), time.Now(), nil); err != nil {
		t.Fatal(err)
	}
	s := r.Summary()
	if s.Bans != 1 || s.Through != 6 || s.Stopped != 60 || s.Honest != 1 || s.LoginsLost != 1 || fmt.Sprint(s.Addresses) != "[203.0.113.7]" {
		t.Errorf("summary %+v", s)
	}
}

// A date without a year is never later than the log that it is in, and up to a year earlier.
func TestYearOfDatesWithoutOne(t *testing.T) {
	for name, tt := range map[string]struct {
		end  time.Time // of the log
		want string    // date of the ban
	}{
		"a log of the same month":          {time.Date(2026, 3, 3, 0, 0, 0, 0, time.Local), "2026-03-02"},
		"in a time zone ahead":             {time.Date(2026, 3, 2, 2, 0, 0, 0, time.Local), "2026-03-02"},
		"a log of nine months":             {time.Date(2026, 11, 30, 0, 0, 0, 0, time.Local), "2026-03-02"},
		"a log that ends in the next year": {time.Date(2027, 1, 2, 0, 0, 0, 0, time.Local), "2026-03-02"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := offline.NewReplay(configuration(t), offline.Options{})
			if err != nil {
				t.Fatal(err)
			}
			var log strings.Builder
			for i := range 5 {
				fmt.Fprintf(&log, "Mar  2 08:00:%02d h sshd[%d]: Failed password for root from 203.0.113.7 port 1 ssh2\n", i, i)
			}
			var bans []string
			r.OnBan(func(b ban.Ban) error {
				bans = append(bans, b.Start.In(time.Local).Format(time.DateOnly))
				return nil
			})
			if err := offline.Play([]offline.Input{{Name: "log", Reader: strings.NewReader(log.String()), Near: tt.end}}, func(string) {}, r); err != nil {
				t.Fatal(err)
			}
			if len(bans) != 1 || bans[0] != tt.want {
				t.Errorf("bans of %q, want one of %s", bans, tt.want)
			}
		})
	}
}

// Dates that cannot be right are named with their place, and the rest goes on.
func TestStrangeDatesAreNamed(t *testing.T) {
	for name, tt := range map[string]struct{ log, want string }{
		"a stray date":                    {"2026-03-02T08:00:00Z h a: x\n2031-01-01T00:00:00Z h a: x\n2026-03-02T08:00:01Z h a: x\n", "log:2: the date 2031-01-01 00:00:00 does not fit"},
		"dates go back":                   {"2026-03-02T08:00:00Z h a: x\n2026-03-02T08:00:00Z h a: x\n2026-03-01T08:00:00Z h a: x\n2026-03-01T08:00:01Z h a: x\n", "log:3: dates go back by 24h0m0s"},
		"clocks go back":                  {"2026-10-25T02:59:58Z h a: x\n2026-10-25T02:59:59Z h a: x\n2026-10-25T02:00:01Z h a: x\n2026-10-25T02:00:02Z h a: x\n", "log:3: dates go back by 59m58s"},
		"two zones":                       {"2026-03-02T08:00:00Z h a: x\n2026-03-02T09:00:02Z h a: x\n2026-03-02T08:00:04Z h a: x\n2026-03-02T08:00:05Z h a: x\n", "log:2: the date 2026-03-02 09:00:02 does not fit"},
		"two zones, the other one behind": {"2026-03-02T08:00:00Z h a: x\n2026-03-02T08:00:01Z h a: x\n2026-03-02T07:00:02Z h a: x\n2026-03-02T08:00:04Z h a: x\n", "log:3: the date 2026-03-02 07:00:02 does not fit"},
		"no such day":                     {"2026-02-28T08:00:00Z h a: x\n2026-02-30T08:00:00Z h a: x\n2026-02-28T08:00:01Z h a: x\n", "log:2: there is no such date or time"},
		"no such hour":                    {"2026-02-28T08:00:00Z h a: x\n2026-02-28T25:00:00Z h a: x\n2026-02-28T08:00:01Z h a: x\n", "log:2: there is no such date or time"},
		"no such day, access log":         {"192.0.2.1 - - [31/Apr/2026:08:00:00 +0000] \"GET / HTTP/1.1\" 200 1\n", "log:1: there is no such date or time"},
		"no date at all":                  {"h a: x\nh a: x\n", "log:1: this line and all others have no date: they count as of one moment, as if they came at once"},
		"no such day, JSON":               {"{\"time\":\"2026-02-30T08:00:00Z\"}\n", "log:1: there is no such date or time"},
		"no year":                         {"Mar  2 08:00:00 h a: x\nMar  2 08:00:01 h a: x\n", "log:1: dates have no year: the latest one up to 2026-03-03"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := offline.NewReplay(configuration(t), offline.Options{})
			if err != nil {
				t.Fatal(err)
			}
			var notices []string
			logs := []offline.Input{{Name: "log", Reader: strings.NewReader(tt.log), Near: time.Date(2026, 3, 3, 0, 0, 0, 0, time.UTC)}}
			if err := offline.Play(logs, func(text string) { notices = append(notices, text) }, r); err != nil {
				t.Fatal(err)
			}
			if len(notices) != 1 || !strings.HasPrefix(notices[0], tt.want) {
				t.Errorf("notices %q, want %q", notices, tt.want)
			}
		})
	}
}
