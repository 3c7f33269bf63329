package logfile

import "testing"

func TestPositionText(t *testing.T) {
	p := position{fileID{0xfe01, 77}, 3, 1 << 40, sumOf([]byte("first line\n")), sumOf([]byte("last"))}
	got, err := parsePosition(p.String())
	if err != nil || got != p {
		t.Errorf("parsePosition(%q) = %+v, %v, want %+v", p.String(), got, err, p)
	}
	for name, text := range map[string]string{
		"empty":           "",
		"other version":   "2:1:1:1:1:1:1:1:1",
		"too short":       "1:1:1",
		"no number":       "1:1:1:1:x:1:1:1:1",
		"negative offset": "1:1:1:1:ffffffffffffffff:1:1:1:1",
		"long head":       "1:1:1:1:400:101:1:1:1",
		"long tail":       "1:1:1:1:400:1:1:41:1",
		"tail of nothing": "1:1:1:1:0:1:1:1:1",
	} {
		if p, err := parsePosition(text); err == nil {
			t.Errorf("%s: parsePosition(%q) = %+v, want an error", name, text, p)
		}
	}
}

func FuzzPosition(f *testing.F) {
	f.Add("1:fe01:4d:3:1:1:2:1:4")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parsePosition(text)
		if err != nil {
			return
		}
		if again, err := parsePosition(p.String()); err != nil || again != p {
			t.Errorf("%q reads as %+v, which does not read back: %+v, %v", text, p, again, err)
		}
	})
}

func TestRotatedName(t *testing.T) {
	for _, tt := range []struct {
		path, of string
		want     bool
	}{
		{"/var/log/maillog.1", "/var/log/maillog", true},
		{"/var/log/maillog-20260102", "/var/log/maillog", true},
		{"/var/log/maillog-2026-01-02_03.4", "/var/log/maillog", true},
		{"/var/log/maillog", "/var/log/maillog", false},
		{"/var/log/maillog2", "/var/log/maillog", false},
		{"/var/log/maillog.err", "/var/log/maillog", false},
		{"/var/log/maillog.", "/var/log/maillog", false},
		{"/var/log/other.1", "/var/log/maillog", false},
	} {
		if got := rotatedName(tt.path, tt.of); got != tt.want {
			t.Errorf("rotatedName(%q, %q) = %v, want %v", tt.path, tt.of, got, tt.want)
		}
	}
}
