package sleep

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestFor(t *testing.T) {
	for name, tt := range map[string]struct {
		sleep, until time.Duration // until the context ends; zero: it never does
		want         bool
		took         time.Duration
	}{
		"to its end":         {sleep: time.Minute, want: true, took: time.Minute},
		"the context ends":   {sleep: time.Minute, until: time.Second, took: time.Second},
		"no time":            {want: true},
		"a time that passed": {sleep: -time.Second, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if tt.until > 0 {
					time.AfterFunc(tt.until, cancel)
				}
				start := time.Now()
				if got := For(ctx, tt.sleep); got != tt.want || time.Since(start) != tt.took {
					t.Errorf("For = %v after %v, want %v after %v", got, time.Since(start), tt.want, tt.took)
				}
			})
		})
	}
}
