package duration

import (
	"testing"
	"time"
)

func TestParseDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"0":                   0,
		"90":                  90 * time.Second,
		"10m":                 10 * time.Minute,
		"1h30m":               90 * time.Minute,
		"1.5h":                90 * time.Minute,
		"7d":                  7 * Day,
		"1d12h":               36 * time.Hour,
		"":                    -1,
		"-5m":                 -1,
		"-1":                  -1,
		"d":                   -1,
		"1.5d":                -1,
		"-1d":                 -1,
		"1d-1h":               -1,
		"1w":                  -1,
		"10 m":                -1,
		"1d2d":                -1,
		"9223372037":          -1, // more seconds than a Duration holds
		"9223372036854775808": -1,
		"65535d":              65535 * Day,
		"65536d":              -1,
		"65535d2562047h":      -1,
	} {
		t.Run(in, func(t *testing.T) {
			got, err := Parse(in)
			if err != nil {
				got = -1
			}
			if got != want {
				t.Errorf("got %v (%v), want %v", got, err, want)
			}
		})
	}
}

func TestFormatDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0", time.Second: "1s", 90 * time.Second: "90s", time.Hour: "1h", 36 * time.Hour: "36h", 7 * Day: "7d"} {
		if got := Format(d); got != want {
			t.Errorf("%v is written %s, want %s", d, got, want)
		}
		if back, err := Parse(want); err != nil || back != d {
			t.Errorf("%s is read as %v", want, back)
		}
	}
}
