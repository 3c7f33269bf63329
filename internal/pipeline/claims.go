package pipeline

import (
	"context"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"mef/internal/owner"
)

// Bounds on looking up addresses that claim to be a search engine's.
const (
	maxClaims    = 64 // that wait; what does not fit is asked again with a later request
	claimsAtOnce = 4
)

// VerifyClaims finds out by lookUp whether addresses are those of crawlers, until ctx is done.
func (p *Pipeline) VerifyClaims(ctx context.Context, lookUp func(ctx context.Context, addr netip.Addr, domains []string) (bool, error)) error {
	var g errgroup.Group
	for range claimsAtOnce {
		g.Go(func() error {
			for {
				select {
				case <-ctx.Done():
					return nil
				case c := <-p.claims:
					is, err := lookUp(ctx, c.Addr, c.Domains)
					if err != nil {
						p.Log.Debug("look up a crawler", "addr", c.Addr, "of", c.Name, "err", err)
					}
					_ = owner.Do(ctx, p.Engine, func(s *State) { s.Engine.Answered(c, is, err, time.Now()) }) // ctx is done otherwise
				}
			}
		})
	}
	return g.Wait()
}
