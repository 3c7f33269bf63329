package reputation

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/cloud/wire"
	"mef/internal/conf"
	"mef/internal/control"
)

// Each event of another host does what it says, with who did it.
func TestEventsOfOtherHosts(t *testing.T) {
	var did []string
	r := New(&conf.Config{}, slog.New(slog.DiscardHandler))
	var taken ban.Shared
	r.Host = Host{
		TakeOver: func(_ context.Context, b ban.Shared) error {
			taken = b
			did = append(did, "ban "+b.Key.String())
			return nil
		},
		Lift: func(_ context.Context, p netip.Prefix, why string) error {
			did = append(did, "lift "+p.String()+": "+why)
			return nil
		},
		Withdraw: func(_ context.Context, p netip.Prefix, id, _ string) error {
			did = append(did, "withdraw "+p.String()+" "+id)
			return nil
		},
		Allow: func(_ context.Context, a control.AllowRequest) error {
			did = append(did, "allow "+a.Entry+" "+a.Author+" "+a.Origin+" "+a.For.String())
			return nil
		},
		Disallow: func(_ context.Context, entry, author string) error {
			did = append(did, "disallow "+entry+" "+author)
			return nil
		},
		LogsIn: func(_ context.Context, p netip.Prefix) (bool, error) {
			did = append(did, "logs in "+p.String())
			return false, nil
		},
		Undo: func(_ context.Context, host, bans, why string) error {
			did = append(did, "undo "+host+" "+bans+": "+why)
			return nil
		},
	}
	p := netip.MustParsePrefix("203.0.113.7/32")
	for _, e := range []wire.FleetEvent{
		{ID: "1", Kind: wire.FleetBan, Prefix: p, Ports: "22", Left: 3600, Rule: "sshd", Category: "ssh", Host: "web1", Origin: "x"},
		{ID: "2", Kind: wire.FleetBan, Prefix: p, Left: 1e6, Rule: "score", Category: "ssh", Hosts: 5, Count: 10},
		{ID: "3", Kind: wire.FleetUnban, Prefix: p, Host: "web1", Origin: "x"},
		{ID: "4", Kind: wire.FleetAllow, Prefix: p, Left: 60, Host: "web1", Origin: "x"},
		{ID: "5", Kind: wire.FleetDisallow, Prefix: p, Host: "web1", Origin: "x"},
		{ID: "6", Kind: wire.FleetAsk, Prefix: p},
		{ID: "7", Kind: wire.FleetWithdraw, Prefix: p},
		{ID: "8", Kind: wire.FleetRevoke, Host: "web1", Origin: "x"},
		{ID: "9", Kind: wire.FleetRevoke},
		{ID: "10", Kind: "later version", Prefix: p},
	} {
		if err := r.carryOut(t.Context(), e); err != nil {
			t.Error(err)
		}
		if e.ID == "1" && (taken.ID != "fleet x 1" || taken.Host != "web1" || taken.For != time.Hour || taken.Reason != "host web1 banned it by rule sshd (ssh)") {
			t.Errorf("%+v", taken)
		}
		if e.ID == "2" && (taken.ID != "fleet  2" || taken.For != 24*time.Hour || taken.Reason != "5 hosts of the operator together saw 10 failures (ssh)") {
			t.Errorf("%+v", taken)
		}
	}
	want := []string{"ban 203.0.113.7 ports 22", "logs in 203.0.113.7/32", "ban 203.0.113.7", "lift 203.0.113.7/32: an operator lifted it on host web1",
		"allow 203.0.113.7 host web1 x 1m0s", "disallow 203.0.113.7 host web1", "logs in 203.0.113.7/32", "withdraw 203.0.113.7/32 fleet  ",
		"undo x fleet x : host web1 was revoked", "undo  fleet : this host no longer shares bans with others"}
	if !slices.Equal(did, want) {
		t.Errorf("did\n%q, want\n%q", did, want)
	}
}
