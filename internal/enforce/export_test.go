package enforce

import (
	"context"
	"time"
)

// SetBack pretends that the wall clock has just been set back.
func (e *Enforcer) SetBack(ctx context.Context, by time.Duration) error {
	return e.do(ctx, func(context.Context) error { e.clock.offset += by; return nil })
}
