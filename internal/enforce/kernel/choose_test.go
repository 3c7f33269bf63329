package kernel

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"mef/internal/enforce"
	"mef/internal/enforce/enforcetest"
)

// The first packet filter that this host has is chosen, with the reason; if there is none, the error says what each lacks.
func TestChoose(t *testing.T) {
	fake := new(enforcetest.Fake)
	of := func(name string, err error) backend {
		return backend{name: name, open: func(*slog.Logger, enforce.Settings) (enforce.Backend, error) {
			if err != nil {
				return nil, err
			}
			return fake, nil
		}}
	}
	noModule, notRoot := errors.New("module nf_tables is missing"), errors.New("CAP_NET_ADMIN is missing")
	for name, tt := range map[string]struct {
		from   []backend
		reason string
		lacks  string
	}{
		"the best":        {[]backend{of("a", nil), of("b", notRoot)}, "a is available", ""},
		"the second best": {[]backend{of("a", noModule), of("b", nil)}, "b is available; a is not: module nf_tables is missing", ""},
		"the only one":    {[]backend{of("a", notRoot)}, "", "CAP_NET_ADMIN is missing"},
		"none":            {[]backend{of("a", noModule), of("b", notRoot)}, "", "a is not: module nf_tables is missing\nb is not: CAP_NET_ADMIN is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			filter, reason, err := choose(tt.from, slog.New(slog.DiscardHandler), enforce.Settings{})
			if tt.lacks != "" {
				if err == nil || err.Error() != tt.lacks {
					t.Errorf("error %v, want %q", err, tt.lacks)
				}
				return
			}
			if err != nil || filter != fake || reason != tt.reason {
				t.Errorf("chosen %v because %q, %v; want because %q", filter, reason, err, tt.reason)
			}
		})
	}
}

// Every kind of packet filter can be removed and looked for without a daemon.
func TestBackendsAreWhole(t *testing.T) {
	for _, b := range backends() {
		if b.open == nil || b.remove == nil || b.present == nil || strings.TrimSpace(b.name) == "" {
			t.Errorf("backend %q is not whole", b.name)
		}
	}
}
