package confirm_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"mef/internal/confirm"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func TestLeft(t *testing.T) {
	for name, tt := range map[string]struct {
		until time.Duration // from now
		want  time.Duration
	}{
		"open":                   {4 * time.Minute, 4 * time.Minute},
		"over":                   {-time.Second, 0},
		"the clock was set back": {300 * time.Hour, 10 * time.Minute},
	} {
		w := confirm.Window{Until: noon.Add(tt.until), For: 10 * time.Minute}
		if got := w.Left(noon); got != tt.want {
			t.Errorf("%s: %v left, want %v", name, got, tt.want)
		}
	}
}

func TestAWindowOutlivesItsProgram(t *testing.T) {
	path := filepath.Join(t.TempDir(), "armed.json")
	if w, err := confirm.Read(path, noon); w != nil || err != nil || w.HasLapsed() {
		t.Fatalf("without a file: %+v, %v", w, err)
	}
	w := confirm.Window{Since: noon, Until: noon.Add(time.Hour), For: time.Hour}
	if err := w.Write(path); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		at     time.Duration
		lapsed bool
	}{"in time": {time.Minute, false}, "too late": {time.Hour, true}} {
		if got, err := confirm.Read(path, noon.Add(tt.at)); err != nil || got.HasLapsed() != tt.lapsed || !got.Since.Equal(noon) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if got, err := confirm.Read(path, noon.Add(-time.Hour)); err != nil || !got.Since.Equal(noon.Add(-time.Hour)) {
		t.Errorf("the clock was set back: %+v, %v; want that new bans are among those to be lifted", got, err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := confirm.Read(path, noon); err == nil || !got.HasLapsed() {
		t.Errorf("a damaged file: %+v, %v; want that it counts as lapsed", got, err)
	}
	if err := confirm.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got, err := confirm.Read(path, noon); got != nil || err != nil {
		t.Errorf("after Remove: %+v, %v", got, err)
	}
}

// The time of switching off is not before what was known just before, as the time of a file that was just written may be.
func TestOff(t *testing.T) {
	dir := t.TempDir()
	if at, err := confirm.Off(dir); err != nil || !at.IsZero() {
		t.Fatalf("never switched off, it is off since %v, error %v", at, err)
	}
	for range 100 {
		before := time.Now()
		if err := confirm.SetOff(dir); err != nil {
			t.Fatal(err)
		}
		at, err := confirm.Off(dir)
		if err != nil || at.Before(before) || at.After(time.Now()) {
			t.Fatalf("switched off after %v, it is off since %v, error %v", before, at, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "off"), nil, 0o600); err != nil { // as an earlier version wrote it
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(dir, "off"), noon, noon); err != nil {
		t.Fatal(err)
	}
	if at, err := confirm.Off(dir); err != nil || !at.Equal(noon) {
		t.Errorf("switched off by an earlier version, it is off since %v, error %v", at, err)
	}
	if err := confirm.ClearOff(dir); err != nil {
		t.Fatal(err)
	}
	if at, err := confirm.Off(dir); err != nil || !at.IsZero() {
		t.Errorf("cleared, it is off since %v, error %v", at, err)
	}
}
