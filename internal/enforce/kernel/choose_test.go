package kernel

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"mef/internal/conf"
	"mef/internal/enforce"
	"mef/internal/enforce/enforcetest"
)

// The first packet filter that this host has is chosen, or the one that is asked for, with the reason; if there is none, the error says what
// each lacks.
func TestChoose(t *testing.T) {
	noModule, notRoot := errors.New("module nf_tables is missing"), errors.New("CAP_NET_ADMIN is missing")
	for name, tt := range map[string]struct {
		want   conf.Backend
		looked []found
		chosen string
		reason string
		lacks  string
	}{
		"the best":        {conf.Automatic, []found{{"nftables", nil}}, "nftables", "nftables is available", ""},
		"the second best": {conf.Automatic, []found{{"nftables", noModule}, {"iptables", nil}}, "iptables", "iptables is available; nftables is not available: module nf_tables is missing", ""},
		"none": {conf.Automatic, []found{{"nftables", noModule}, {"iptables", notRoot}}, "", "",
			"nftables is not available: module nf_tables is missing; iptables is not available: CAP_NET_ADMIN is missing"},
		"asked for":             {conf.IPTables, []found{{"iptables", nil}}, "iptables", "firewall_backend=iptables", ""},
		"asked for and missing": {conf.NFTables, []found{{"nftables", noModule}}, "", "", "firewall_backend=nftables: module nf_tables is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			chosen, reason, err := choose(tt.want, tt.looked)
			if tt.lacks != "" {
				if err == nil || err.Error() != tt.lacks {
					t.Errorf("error %v, want %q", err, tt.lacks)
				}
				return
			}
			if err != nil || chosen != tt.chosen || reason != tt.reason {
				t.Errorf("chosen %q because %q, %v; want %q because %q", chosen, reason, err, tt.chosen, tt.reason)
			}
		})
	}
}

// Only what is wanted is opened, and nothing after the first that opens.
func TestOpen(t *testing.T) {
	var tried []string
	of := func(name string, err error) backend {
		return backend{name: name, open: func(int, *slog.Logger, enforce.Settings) (enforce.Backend, error) {
			tried = append(tried, name)
			if err != nil {
				return nil, err
			}
			return new(enforcetest.Fake), nil
		}}
	}
	missing := errors.New("missing")
	for name, tt := range map[string]struct {
		want  conf.Backend
		kinds []backend
		tried string
	}{
		"the best":        {conf.Automatic, []backend{of("nftables", nil), of("iptables", nil)}, "nftables"},
		"the second best": {conf.Automatic, []backend{of("nftables", missing), of("iptables", nil)}, "nftables iptables"},
		"asked for":       {conf.IPTables, []backend{of("nftables", nil), of("iptables", nil)}, "iptables"},
	} {
		tried = nil
		filter, _, err := openOf(tt.kinds, 0, tt.want, slog.New(slog.DiscardHandler), enforce.Settings{})
		if filter == nil || err != nil || strings.Join(tried, " ") != tt.tried {
			t.Errorf("%s: tried %q (%v), want %q", name, tried, err, tt.tried)
		}
	}
	if _, _, err := openOf([]backend{of("nftables", missing)}, 0, conf.Automatic, slog.New(slog.DiscardHandler), enforce.Settings{}); err == nil {
		t.Error("a packet filter that is missing was opened")
	}
}

// Every kind of packet filter can be removed and looked for without a daemon.
func TestBackendsAreWhole(t *testing.T) {
	for _, b := range backends() {
		if b.open == nil || b.remove == nil || b.present == nil || strings.TrimSpace(b.name) == "" || b.ours == "" {
			t.Errorf("backend %q is not whole", b.name)
		}
	}
}
