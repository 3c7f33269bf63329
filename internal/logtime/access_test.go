package logtime_test

import (
	"testing"
	"time"

	"mef/internal/logtime"
)

func TestDatesOfAccessLogs(t *testing.T) {
	near := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for line, want := range map[string]string{
		`192.0.2.7 - - [10/Oct/2025:13:55:36 -0700] "GET / HTTP/1.1" 200 1`:                                                 "2025-10-10T20:55:36Z",
		`www.example.org:443 2001:db8::7 - bob [01/Jan/2026:00:00:00 +0000] "GET / HTTP/1.1"`:                               "2026-01-01T00:00:00Z",
		`192.0.2.7 - x [1] [01/Jan/2026:00:00:00 +0000] "GET / HTTP/1.1"`:                                                   "2026-01-01T00:00:00Z",
		`192.0.2.7 - - [32/Jan/2026:00:00:00 +0000] "GET / HTTP/1.1"`:                                                       "",
		`192.0.2.7 - - [10/Okt/2025:13:55:36 -0700] "GET / HTTP/1.1"`:                                                       "",
		`192.0.2.7 - - [10/anF/2025:13:55:36 -0700] "GET / HTTP/1.1"`:                                                       "",
		`192.0.2.7 - - [10/Oct/2025:13:55:36`:                                                                               "",
		`{"level":"info","ts":1767225600.25,"logger":"http.log.access.log0"}`:                                               "2026-01-01T00:00:00.25Z",
		`{"ClientHost":"192.0.2.7","time":"2026-01-01T01:00:00+01:00"}`:                                                     "2026-01-01T00:00:00Z",
		`{"log":"x \"ts\":1234567890 \"time\":\"2020-01-01T00:00:00Z\"\n","stream":"stdout","time":"2026-01-01T00:00:00Z"}`: "2026-01-01T00:00:00Z",
		`{"uri":"/\"ts\":1234567890","status":404}`:                                                                         "",
		`{"ts":12}`:                                                  "",
		`{"ts":17672256000001}`:                                      "",
		`{"level":30,"time":1767225600250}`:                          "2026-01-01T00:00:00.25Z",
		`{"event": "x", "timestamp": 1767225600.5}`:                  "2026-01-01T00:00:00.5Z",
		`{"event": "x", "timestamp": "2026-01-01T00:00:00.5+00:00"}`: "2026-01-01T00:00:00.5Z",
		`{"timestamp":"2026-01-01 01:00:00.536 UTC","user":"x"}`:     "2026-01-01T01:00:00.536Z",
		`{"t":"2026-01-01T00:00:00.18+02:00","msg":"x"}`:             "2025-12-31T22:00:00.18Z",
		`{"t":{"$date":"2026-01-01T00:00:00.903+02:00"},"s":"I"}`:    "2025-12-31T22:00:00.903Z",
		`{"t":"yesterday","time":"2026-01-01T00:00:00Z"}`:            "2026-01-01T00:00:00Z",
	} {
		at, ok := logtime.Parse([]byte(line), near, time.UTC)
		got := ""
		if ok {
			got = at.UTC().Format(time.RFC3339Nano)
		}
		if got != want {
			t.Errorf("%s\n got %q, want %q", line, got, want)
		}
		r := logtime.Reader{Near: near, Loc: time.UTC} // which remembers dates that lines begin with
		r.Parse([]byte(`192.0.2.7 - - [10/Oct/2020:13:55:36 -0700] "GET / HTTP/1.1" 200 1`))
		if again, _ := r.Parse([]byte(line)); ok && !again.Equal(at) {
			t.Errorf("%s\n behind another line it is of %v", line, again)
		}
	}
}
