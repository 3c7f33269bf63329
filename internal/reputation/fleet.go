package reputation

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"time"

	"mef/internal/ban"
	"mef/internal/cloud/wire"
	"mef/internal/control"
)

// A Host does here what happened on another host of the operator. Errors are of this host; what must not be done here is no error.
type Host struct {
	// TakeOver bans what another host has banned.
	TakeOver func(context.Context, ban.Shared) error
	// Lift lifts all bans of a prefix.
	Lift func(ctx context.Context, prefix netip.Prefix, reason string) error
	// Allow adds an entry to the allow list, Disallow deletes one.
	Allow    func(context.Context, control.AllowRequest) error
	Disallow func(ctx context.Context, entry, author string) error
	// Withdraw lifts the ban of a prefix that was taken over and whose ID begins with a text.
	Withdraw func(ctx context.Context, prefix netip.Prefix, bans, reason string) error
	// LogsIn reports whether users log in from a prefix.
	LogsIn func(context.Context, netip.Prefix) (bool, error)
	// Undo lifts the bans that were taken over and whose ID begins with a text, and deletes the allow entries of a host; with an empty ID,
	// of all other hosts.
	Undo func(ctx context.Context, host, bans, reason string) error
}

// origin begins the IDs of bans that were taken over from a host.
func origin(id string) string { return ban.ByFleet + " " + id + " " }

// carryOut carries out here what happened on another host.
func (r *Reputation) carryOut(ctx context.Context, e wire.FleetEvent) error {
	switch e.Kind {
	case wire.FleetAsk:
		return r.user(ctx, e)
	case wire.FleetWithdraw:
		return r.Host.Withdraw(ctx, e.Prefix, origin(""), "users log in from there on another host")
	case wire.FleetBan:
		if e.Origin == "" {
			if err := r.user(ctx, e); err != nil {
				return err
			}
		}
		ports, err := ban.ParsePorts(e.Ports)
		if err != nil {
			return err
		}
		host := cmp.Or(e.Host, "the other hosts")
		b := ban.Shared{Key: ban.Key{Prefix: e.Prefix, Ports: ports}, For: min(time.Duration(e.Left)*time.Second, wire.MaxFleetLeft),
			Host: host, ID: origin(e.Origin) + e.ID, Reason: reason(e)}
		if e.Forged {
			b.Class = ban.Unverified
		}
		return r.Host.TakeOver(ctx, b)
	case wire.FleetUnban:
		return r.Host.Lift(ctx, e.Prefix, fmt.Sprintf("an operator lifted it on host %s", e.Host))
	case wire.FleetAllow:
		return r.Host.Allow(ctx, control.AllowRequest{Entry: ban.Key{Prefix: e.Prefix}.String(), For: time.Duration(e.Left) * time.Second, Author: "host " + e.Host, Origin: e.Origin})
	case wire.FleetDisallow:
		return r.Host.Disallow(ctx, ban.Key{Prefix: e.Prefix}.String(), "host "+e.Host)
	case wire.FleetRevoke:
		if e.Origin == "" {
			return r.Host.Undo(ctx, "", ban.ByFleet+" ", "this host no longer shares bans with others")
		}
		return r.Host.Undo(ctx, e.Origin, origin(e.Origin), fmt.Sprintf("host %s was revoked", e.Host))
	}
	return nil // of a later version
}

// user reports to the others if users log in here from a suspect.
func (r *Reputation) user(ctx context.Context, e wire.FleetEvent) error {
	known, err := r.Host.LogsIn(ctx, e.Prefix)
	if known {
		r.Cloud.User(e.Prefix.Addr())
	}
	return err
}

// reason returns the reason of a ban by others.
func reason(e wire.FleetEvent) string {
	switch {
	case e.Origin == "":
		return fmt.Sprintf("%d hosts of the operator together saw %d failures (%s)", e.Hosts, e.Count, e.Category)
	case e.Rule == ban.ByHand:
		return fmt.Sprintf("an operator banned it on host %s", e.Host)
	case e.Rule == ban.ByScore:
		return fmt.Sprintf("host %s banned it by its score (%s)", e.Host, e.Category)
	}
	return fmt.Sprintf("host %s banned it by rule %s (%s)", e.Host, e.Rule, e.Category)
}
