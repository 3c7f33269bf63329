package logtext_test

import (
	"encoding/json"
	"strings"
	"testing"

	"mef/internal/logtext"
)

// record is what dockerd writes of a piece of output.
func record(t *testing.T, stream, text string) string {
	t.Helper()
	log, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	return `{"log":` + string(log) + `,"stream":"` + stream + `","time":"2026-03-01T10:00:00.123456789Z"}`
}

// Docker cuts long lines into records; a client must not be able to choose where one begins.
func TestCarrier(t *testing.T) {
	long := strings.Repeat("x", 16<<10)
	type piece struct{ stream, text string }
	const lost = "\x00" // the record is too long for the source, which skips it
	for name, tt := range map[string]struct {
		pieces []piece
		want   []string
	}{
		"whole lines":      {[]piece{{"stdout", "a\n"}, {"stderr", "b\n"}}, []string{"a", "b"}},
		"of a terminal":    {[]piece{{"stdout", "a\r\n"}}, []string{"a"}},
		"with colours":     {[]piece{{"stdout", "\x1b[33m2026 \x1b[1;31mWARN\x1b[0m a\x1b[m\n"}}, []string{"2026 WARN a"}},
		"other sequences":  {[]piece{{"stdout", "a\x1b[2Kb\x1b[\x1b\n"}}, []string{"a\x1b[2Kb\x1b[\x1b"}},
		"in two records":   {[]piece{{"stdout", long}, {"stdout", "forged\n"}, {"stdout", "a\n"}}, []string{long + "forged", "a"}},
		"two streams":      {[]piece{{"stdout", "a"}, {"stderr", "b"}, {"stdout", "A\n"}, {"stderr", "B\n"}}, []string{"aA", "bB"}},
		"too long":         {[]piece{{"stdout", long}, {"stdout", long}, {"stdout", long}, {"stdout", long}, {"stdout", "forged\n"}, {"stdout", "a\n"}}, []string{"a"}},
		"after a gap":      {[]piece{{"stdout", "a\n"}, {"stdout", lost}, {"stdout", "forged\n"}, {"stdout", "b\n"}}, []string{"a", "b"}},
		"after a long gap": {[]piece{{"stdout", "a\n"}, {"stdout", lost}, {"stdout", "forged"}, {"stdout", "forged\n"}, {"stdout", "b\n"}}, []string{"a", "b"}},
	} {
		t.Run(name, func(t *testing.T) {
			var c logtext.Carrier
			var got []string
			end := uint64(0)
			for _, p := range tt.pieces {
				if p.text == lost {
					end += 100_000
					continue
				}
				line := record(t, p.stream, p.text)
				end += uint64(len(line)) + 1
				if text, ok := c.Cut([]byte(line), end); ok {
					got = append(got, string(text))
				}
			}
			if a, b := strings.Join(got, "|"), strings.Join(tt.want, "|"); a != b {
				t.Errorf("lines of %d bytes: %.60q, want %d: %.60q", len(a), a, len(b), b)
			}
		})
	}
}

// Places that are numbers of lines have no gaps, and a new file begins at its beginning.
func TestCarrierPlaces(t *testing.T) {
	line := []byte(record(t, "stdout", "a\n"))
	length := uint64(len(line)) + 1
	var numbers []uint64
	for n := range 3 * length {
		numbers = append(numbers, n+1)
	}
	for name, places := range map[string][]uint64{"lines": numbers, "unknown": {0, 0, 0}, "rotation": {1_000_000, length, 2 * length}} {
		var c logtext.Carrier
		for _, end := range places {
			if _, ok := c.Cut(line, end); !ok {
				t.Errorf("%s: the line at %d is dropped", name, end)
			}
		}
	}
}
