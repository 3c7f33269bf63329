package daemon

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/control"
)

// TestAbandonedRequests has clients go away at any moment of every request, as Ctrl-C does. What the daemon still does for them must
// not touch what they have: the race detector sees it if it does. The daemon answers afterwards as before.
func TestAbandonedRequests(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.7")
	for name, request := range map[string]func(ctx context.Context, h *house) error{
		"status":  func(ctx context.Context, h *house) error { _, err := h.Status(ctx); return err },
		"picture": func(ctx context.Context, h *house) error { _, err := h.Picture(ctx); return err },
		"why":     func(ctx context.Context, h *house) error { _, err := h.Why(ctx, addr); return err },
		"reload":  func(ctx context.Context, h *house) error { _, err := h.Reload(ctx, "alice"); return err },
		"lists":   func(ctx context.Context, h *house) error { _, err := h.Lists(ctx, ""); return err },
		"allow": func(ctx context.Context, h *house) error {
			_, err := h.Allow(ctx, control.AllowRequest{Entry: "192.0.2.9"})
			return err
		},
		"bans": func(ctx context.Context, h *house) error { _, err := h.Bans(ctx); return err },
		"ban": func(ctx context.Context, h *house) error {
			_, err := h.Ban(ctx, control.BanRequest{Prefix: "192.0.2.10", For: time.Hour})
			return err
		},
		"clear": func(ctx context.Context, h *house) error { _, err := h.ClearBans(ctx, "alice"); return err },
		"arm": func(ctx context.Context, h *house) error {
			_, err := h.Arm(ctx, control.ArmRequest{For: time.Hour})
			return err
		},
		"held": func(ctx context.Context, h *house) error { _, err := h.Enforcer.Held(ctx); return err },
		"over": func(ctx context.Context, h *house) error { _, err := h.Enforcer.HeldOver(ctx, addr); return err },
	} {
		t.Run(name, func(t *testing.T) {
			h := settle(t, "", map[string]string{"deny/a.conf": "198.51.100.0/24\n"})
			var bans []ban.Ban
			for i := range 500 {
				a := netip.AddrFrom4([4]byte{203, byte(i >> 8), byte(i), 1})
				bans = append(bans, ban.Ban{Key: ban.Key{Prefix: netip.PrefixFrom(a, 32)}, Start: time.Now(), Until: time.Now().Add(time.Hour), Rule: "x"})
			}
			if err := h.Enforcer.Ban(t.Context(), bans...); err != nil {
				t.Fatal(err)
			}
			patient := time.Microsecond
			for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); patient += patient/8 + 1 {
				ctx, cancel := context.WithTimeout(t.Context(), patient)
				_ = request(ctx, h) // mostly that its time was over
				cancel()
				if patient > 3*time.Millisecond {
					patient = time.Microsecond
				}
			}
			if err := request(t.Context(), h); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
