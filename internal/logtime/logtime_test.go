package logtime_test

import (
	"testing"
	"time"

	"mef/internal/logtime"
)

func TestParse(t *testing.T) {
	berlin := time.FixedZone("CET", 3600)
	near := time.Date(2026, 3, 1, 12, 0, 0, 0, berlin)
	for name, tt := range map[string]struct {
		line string
		want string // RFC 3339; empty: no date
	}{
		"syslog":                      {"Mar  1 10:00:01 web1 sshd[1]: x", "2026-03-01T10:00:01+01:00"},
		"syslog, one blank":           {"Mar 1 10:00:01 web1 sshd[1]: x", "2026-03-01T10:00:01+01:00"},
		"syslog, padded day":          {"Mar 01 10:00:01 web1 sshd[1]: x", "2026-03-01T10:00:01+01:00"},
		"syslog with fraction":        {"Mar  1 10:00:01.250 web1 sshd[1]: x", "2026-03-01T10:00:01.25+01:00"},
		"syslog with year":            {"Mar  1 2024 10:00:01 web1 x", "2024-03-01T10:00:01+01:00"},
		"last December":               {"Dec 31 23:59:59 web1 sshd[1]: x", "2025-12-31T23:59:59+01:00"},
		"five months ahead":           {"Jul 20 00:00:00 web1 sshd[1]: x", "2026-07-20T00:00:00+01:00"},
		"seven months ahead":          {"Oct  1 00:00:00 web1 sshd[1]: x", "2025-10-01T00:00:00+01:00"},
		"29 February of no leap year": {"Feb 29 10:00:00 web1 sshd[1]: x", "2026-03-01T10:00:00+01:00"},
		"asctime":                     {"Fri Mar  1 10:00:01 2024 [pid 1] x", "2024-03-01T10:00:01+01:00"},
		"priority":                    {"<38>Mar  1 10:00:01 web1 x", "2026-03-01T10:00:01+01:00"},
		"RFC 3339":                    {"2026-02-28T10:00:01.123456-04:00 web1 x", "2026-02-28T10:00:01.123456-04:00"},
		"RFC 3339 in UTC":             {"2026-02-28T10:00:01Z web1 x", "2026-02-28T10:00:01Z"},
		"ISO without zone":            {"2026-02-28 10:00:01,5 x", "2026-02-28T10:00:01.5+01:00"},
		"ISO, zone without colon":     {"2018-12-20 10:09:05.180218+0000 host x", "2018-12-20T10:09:05.180218Z"},
		"ISO, zone behind a blank":    {"2018-12-20 10:09:05 +0130 host x", "2018-12-20T10:09:05+01:30"},
		"ISO with slashes":            {"2018/12/20 10:09:05 x", "2018-12-20T10:09:05+01:00"},
		"RFC 5424":                    {"<38>1 2026-02-28T10:00:01.5+01:00 host sshd 1 - - x", "2026-02-28T10:00:01.5+01:00"},
		"TAI64N":                      {"@400000004c91b044077a9e94 x: y", "2010-09-16T05:50:50.1254765Z"},
		"leap second":                 {"2016-12-31T23:59:60Z x", "2017-01-01T00:00:00Z"},
		"Polish":                      {"lis 30 10:00:01 web1 sshd[1]: x", "2025-11-30T10:00:01+01:00"},
		"French":                      {"févr. 28 10:00:01 web1 sshd[1]: x", "2026-02-28T10:00:01+01:00"},
		"German, with weekday":        {"Sat Mär  1 10:00:01 web1 x", "2026-03-01T10:00:01+01:00"},
		"Russian":                     {"фев 28 10:00:01 web1 sshd[1]: x", "2026-02-28T10:00:01+01:00"},
		"Chinese":                     {"11月 30 10:00:01 web1 sshd[1]: x", "2025-11-30T10:00:01+01:00"},
		"no month":                    {"abc 28 10:00:01 web1 sshd[1]: x", ""},
		"short-full":                  {"Sun 2026-03-01 10:00:01 UTC web1 x", "2026-03-01T10:00:01Z"},
		"short-full, own zone":        {"So 2026-03-01 10:00:01 CET web1 x", "2026-03-01T10:00:01+01:00"},
		"short-unix":                  {"1772355601.250000 web1 x", "2026-03-01T09:00:01.25Z"},
		"short-monotonic":             {"[12345.678901] web1 x", ""},
		"host named by IPv6 address":  {"Feb 28 10:00:01 2001:db8::5 x", "2026-02-28T10:00:01+01:00"},
		"year behind, as Cisco":       {"Feb 28 10:00:01 2024: x", "2024-02-28T10:00:01+01:00"},
		"Apache":                      {"[Sat Feb 28 10:00:01.123456 2026] [auth_basic:error] x", "2026-02-28T10:00:01.123456+01:00"},
		"ISO in brackets":             {"[2026-02-28 10:00:01.123 +00:00] [INF] x", "2026-02-28T10:00:01.123Z"},
		"compact in brackets":         {"[20260228-10:00:01] [INFO ] x", "2026-02-28T10:00:01+01:00"},
		"brackets without date":       {"[pid 12] [alice] OK LOGIN", ""},
		"bracket is not closed":       {"[2026-02-28 10:00:01 x", ""},
		"date alone":                  {"Mar  1 10:00:01", "2026-03-01T10:00:01+01:00"},
		"no date":                     {"sshd[1]: Mar  1 10:00:01", ""},
		"empty":                       {"", ""},
		"hour out of range":           {"Mar  1 24:00:01 web1 x", ""},
		"month out of range":          {"2026-13-01T10:00:01 x", ""},
		"day out of range":            {"Mar 32 10:00:01 x", ""},
		"text sticks to it":           {"2026-02-28T10:00:01x y", ""},
		"TAI64N before 1970":          {"@3fffffff4c91b044077a9e94 x", ""},
		"short TAI64N":                {"@400000004c91b044 x", ""},
		"priority alone":              {"<38>", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := logtime.Parse([]byte(tt.line), near, berlin)
			if !ok || tt.want == "" {
				if ok != (tt.want != "") {
					t.Errorf("Parse(%q) = %v, %v", tt.line, got, ok)
				}
				return
			}
			want, err := time.Parse(time.RFC3339Nano, tt.want)
			if err != nil {
				t.Fatal(err)
			}
			if !got.Equal(want) {
				t.Errorf("Parse(%q) = %v, want %v", tt.line, got, want)
			}
		})
	}
}

// A line of 29 February belongs to the nearest leap year, if that is one of those next to near.
func TestLeapDay(t *testing.T) {
	near := time.Date(2025, 1, 10, 0, 0, 0, 0, time.UTC)
	got, _ := logtime.Parse([]byte("Feb 29 10:00:00 x"), near, time.UTC)
	if want := time.Date(2024, 2, 29, 10, 0, 0, 0, time.UTC); !got.Equal(want) {
		t.Errorf("29 February read in January 2025 is %v, want %v", got, want)
	}
}

func TestCutLeavesTheRest(t *testing.T) {
	for text, want := range map[string]string{
		"Mar  1 10:00:01 web1 x":              "web1 x",
		"Fri Mar  1 10:00:01 2024 [pid 1] x":  "[pid 1] x",
		"2026-02-28 10:00:01.1 +0100  web1 x": "web1 x",
		"Mar  1 10:00:01: %SEC x":             "%SEC x",
		"Mar  1 10:00:01":                     "",
		"Mars 1 10:00:01 x":                   "Mars 1 10:00:01 x",
	} {
		if _, rest, _ := logtime.Cut([]byte(text)); string(rest) != want {
			t.Errorf("Cut(%q) leaves %q, want %q", text, rest, want)
		}
	}
}

// A Reader says what Parse says, whatever it has read before.
func FuzzReader(f *testing.F) {
	f.Add("Mar  1 10:00:01 ", "web1 x", "web2 x")
	f.Add("Mar  1 10:00:01 ", "web1 x", "2024 web1 x")
	f.Add("Mar  1 10:00:01 2024", ": x", " x")
	f.Add("Fri Mar  1 10:00:01 ", "+0100 web1 x", "2024 web1 x")
	f.Add("2026-02-28 10:00:01", " web1 x", " +0130 web1 x")
	f.Add("2026-02-28 10:00:01", ".5 web1 x", ".25 web1 x")
	f.Add("So 2026-03-01 10:00:01 ", "CET web1 x", "UTC web1 x")
	f.Add("[Sat Feb 28 10:00:01.123456 2026", "] [a] x", "x] [a] x")
	f.Add("[2026-02-28 10:00:01.123 ", "+00:00] [INF] x", "] [INF] x")
	f.Add("<38>", "1 2026-02-28T10:00:01.5+01:00 host x", "2026-02-28T10:00:01.5+01:00 host x")
	f.Add("1772355601.250000 ", "web1 x", "web2")
	f.Add("", "no date", "Mar  1 10:00:01 web1 x")
	near := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, front, first, second string) {
		r := logtime.Reader{Near: near, Loc: time.UTC}
		for _, line := range []string{front + first, front + second, front + first, front, second} {
			at, ok := r.Parse([]byte(line))
			if want, wantOK := logtime.Parse([]byte(line), near, time.UTC); !at.Equal(want) || ok != wantOK {
				t.Errorf("%q: %v %v, want %v %v", line, at, ok, want, wantOK)
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("Mar  1 10:00:01 web1 sshd[1]: x"))
	f.Add([]byte("<38>1 2026-02-28T10:00:01.5+01:00 host sshd 1 - - x"))
	f.Add([]byte("@400000004c91b044077a9e94 x: y"))
	f.Add([]byte("Fri Mar  1 10:00:01 2024 [pid 1] x"))
	near := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, line []byte) {
		if at, ok := logtime.Parse(line, near, time.UTC); ok && (at.Year() < -1 || at.Year() > 10001) {
			t.Errorf("Parse(%q) = %v", line, at)
		}
	})
}

func BenchmarkReader(b *testing.B) {
	for name, log := range map[string]struct {
		line   string
		second int // where its last digit stands
	}{
		"syslog":  {"Mar  1 10:00:01 web1 sshd[1]: x", 14},
		"RFC3339": {"2026-02-28T10:00:01.123456+01:00 web1 x", 18},
	} {
		b.Run(name, func(b *testing.B) {
			r := logtime.Reader{Near: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), Loc: time.Local}
			line := []byte(log.line)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				line[log.second] = '0' + byte(i%16/15)
				r.Parse(line)
			}
		})
	}
}

func BenchmarkCut(b *testing.B) {
	for name, text := range map[string]string{
		"syslog":  "Mar  1 10:00:01 web1 sshd[1]: x",
		"RFC3339": "2026-02-28T10:00:01.123456+01:00 web1 x",
	} {
		b.Run(name, func(b *testing.B) {
			s := []byte(text)
			b.ReportAllocs()
			for b.Loop() {
				logtime.Cut(s)
			}
		})
	}
}

func TestImpossible(t *testing.T) {
	for line, want := range map[string]bool{
		"Feb 29 08:00:00 h a: x":                     false, // in some years
		"Feb 30 08:00:00 h a: x":                     true,
		"<34>Apr 31 08:00:00 h a: x":                 true,
		"Apr 30 24:00:00 h a: x":                     true,
		"2024-02-29T08:00:00Z h a: x":                false,
		"2026-02-29T08:00:00Z h a: x":                true,
		"1900-02-29 08:00:00 x":                      true,
		"2026-13-01T08:00:00Z h a: x":                true,
		"2026-12-31 23:59:60 x":                      false, // a leap second
		`192.0.2.1 - - [30/Feb/2026:08:00:00 +0000]`: true,
		`192.0.2.1 - - [28/Feb/2026:08:00:00 +0000]`: false,
		`{"time":"2026-06-31T08:00:00Z"}`:            true,
		"no date at all":                             false,
		"":                                           false,
	} {
		if got := logtime.Impossible([]byte(line)); got != want {
			t.Errorf("Impossible(%q) = %t, want %t", line, got, want)
		}
		if _, ok := logtime.Parse([]byte(line), time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), time.UTC); ok && want {
			t.Errorf("Parse(%q) returns a time", line)
		}
	}
}
