package conf

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
		"7d":                  7 * day,
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
		"65535d":              65535 * day,
		"65536d":              -1,
		"65535d2562047h":      -1,
	} {
		t.Run(in, func(t *testing.T) {
			got, err := ParseDuration(in)
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
	for d, want := range map[time.Duration]string{0: "0", time.Second: "1s", 90 * time.Second: "90s", time.Hour: "1h", 36 * time.Hour: "36h", 7 * day: "7d"} {
		if got := FormatDuration(d); got != want {
			t.Errorf("%v is written %s, want %s", d, got, want)
		}
		if back, err := ParseDuration(want); err != nil || back != d {
			t.Errorf("%s is read as %v", want, back)
		}
	}
}

func TestDidYouMean(t *testing.T) {
	words := []string{"bantime", "bantime_cap", "mode", "ps_limit"}
	for in, want := range map[string]string{
		"bantme":      `did you mean "bantime"?`,
		"bnatime":     `did you mean "bantime"?`,
		"ban_time":    `did you mean "bantime"?`,
		"bantimecap":  `did you mean "bantime_cap"?`,
		"ps-limit":    `did you mean "ps_limit"?`,
		"moed":        `did you mean "mode"?`,
		"temperature": "",
		"x":           "",
	} {
		if got := DidYouMean(in, words); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}
