package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mef/bench/gen"
)

func TestParseShares(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		want gen.Shares
		bad  string // part of the error
	}{
		"empty is the default": {"", gen.Shares{}, ""},
		"two":                  {"sshd=3,cron=1", gen.Shares{gen.SSHD: 3, gen.Cron: 1}, ""},
		"what -h shows":        {shareText(gen.DefaultShares()), gen.DefaultShares(), ""},
		"unknown service":      {"telnet=1", gen.Shares{}, `"telnet=1"`},
		"no number":            {"sshd", gen.Shares{}, `"sshd"`},
		"negative":             {"sshd=-1", gen.Shares{}, `"sshd=-1"`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseShares(tt.text)
			if tt.bad != "" {
				if err == nil || !strings.Contains(err.Error(), tt.bad) {
					t.Errorf("error = %v, want one with %s", err, tt.bad)
				}
				return
			}
			if err != nil || got != tt.want {
				t.Errorf("shares = %v, %v, want %v", got, err, tt.want)
			}
		})
	}
}

func TestSpread(t *testing.T) {
	for name, tt := range map[string]struct {
		values []float64
		want   string
	}{
		"one":     {[]float64{1234567}, "1,234,567"},
		"three":   {[]float64{3000, 1, 200}, "200 (1 to 3,000)"},
		"an even": {[]float64{4, 2, 1, 3}, "2 (1 to 4)"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := spread(tt.values, count); got != tt.want {
				t.Errorf("spread = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestQuantile(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(i + 1)
	}
	for q, want := range map[float64]float64{0: 1, 0.5: 50, 0.99: 99, 1: 100} {
		if got := quantile(hundred, q); got != want {
			t.Errorf("quantile %v of 1 to 100 = %v, want %v", q, got, want)
		}
	}
}

// A run replaces its own tables and keeps the text above them, which is written by hand.
func TestReplaceKeepsTheReading(t *testing.T) {
	path := filepath.Join(t.TempDir(), "RESULTS.md")
	if err := os.WriteFile(path, []byte("# Reading\n\nIt is fast.\n\n"+marker+"\nold table\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p := &product{name: "mef", version: "v1"}
	r := results{products: []*product{p}, machine: "one machine"}
	s := r.section("Speed", "Lines.")
	s.set(p, "lines per CPU-second", "≥ 1", "%d", 7)
	for range 2 {
		if err := r.replaceIn(path); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(got)
	if !strings.HasPrefix(text, "# Reading\n\nIt is fast.\n\n"+marker) {
		t.Errorf("the reading is not what it was:\n%s", text)
	}
	if strings.Contains(text, "old table") || strings.Count(text, "| lines per CPU-second | ≥ 1 | 7 |") != 1 {
		t.Errorf("the tables were not replaced:\n%s", text)
	}
}
