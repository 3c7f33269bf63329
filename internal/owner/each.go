package owner

import (
	"context"
	"slices"
	"sync"
)

// Each runs a goroutine for each item of a set that changes, until ctx is done and all have ended. items returns the set; it is called
// whenever changed receives. The context of an item that has left the set is done; an item that stays runs on.
func Each[T comparable](ctx context.Context, changed <-chan struct{}, items func() []T, run func(context.Context, T)) {
	running := make(map[T]context.CancelFunc)
	var all sync.WaitGroup
	defer all.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
		now := items()
		for item, stop := range running {
			if !slices.Contains(now, item) {
				stop()
				delete(running, item)
			}
		}
		for _, item := range now {
			if running[item] == nil {
				begun, stop := context.WithCancel(ctx)
				running[item] = stop
				all.Go(func() {
					defer stop()
					run(begun, item)
				})
			}
		}
	}
}
