// Package duration reads and writes durations as the operator's files and all messages do: 90, 10m, 7d.
package duration

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Units that package time does not have.
const (
	Day  = 24 * time.Hour
	Year = 365 * Day
)

// Parse reads a duration as all of mef writes it: in Go's syntax ("10m", "1h30m"), with days in front ("7d", "1d12h"),
// or in plain seconds ("600").
func Parse(s string) (time.Duration, error) {
	bad := fmt.Errorf("duration %.80q: write seconds, or a number with s, m, h or d such as 10m or 7d", s)
	if seconds, err := strconv.ParseInt(s, 10, 64); err == nil {
		if seconds < 0 || seconds > math.MaxInt64/int64(time.Second) {
			return 0, bad
		}
		return time.Duration(seconds) * time.Second, nil
	}
	var total time.Duration
	if days, rest, ok := strings.Cut(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return 0, bad
		}
		total, s = time.Duration(n)*Day, rest
		if s == "" {
			return total, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || total > math.MaxInt64-d {
		return 0, bad
	}
	return total + d, nil
}

// Format writes d with the largest unit that divides it, as an operator would.
func Format(d time.Duration) string {
	for _, unit := range []struct {
		size time.Duration
		name string
	}{{Day, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}} {
		if d != 0 && d%unit.size == 0 {
			return strconv.FormatInt(int64(d/unit.size), 10) + unit.name
		}
	}
	return strconv.FormatInt(int64(d/time.Second), 10)
}

// Span writes a duration for people: "30d", "2h40m", "3m12s"; at most two units, rounded down.
func Span(d time.Duration) string {
	if d < time.Second {
		return "under 1s"
	}
	units := [...]struct {
		name string
		d    time.Duration
	}{{"d", Day}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}}
	var room [24]byte
	s := room[:0]
	for i, u := range units {
		if d < u.d {
			continue
		}
		s = append(strconv.AppendInt(s, int64(d/u.d), 10), u.name...)
		if i+1 < len(units) && d%u.d >= units[i+1].d {
			s = append(strconv.AppendInt(s, int64(d%u.d/units[i+1].d), 10), units[i+1].name...)
		}
		break
	}
	return string(s)
}
