package owner

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

// A counter is the state of these tests.
type counter struct{ n int }

// serve runs the calls of a counter until ctx is done.
func serve(ctx context.Context, o Of[*counter], c *counter) {
	for {
		select {
		case <-ctx.Done():
			return
		case call := <-o.Calls():
			call(ctx, c)
		}
	}
}

func TestCallsRunOneAtATime(t *testing.T) {
	o := New[*counter]()
	go serve(t.Context(), o, &counter{})
	done := make(chan error)
	const callers = 50
	for range callers {
		go func() { done <- Do(t.Context(), o, func(c *counter) { c.n++ }) }()
	}
	for range callers {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if n, err := Query(t.Context(), o, func(c *counter) int { return c.n }); n != callers || err != nil {
		t.Errorf("counted %d, %v; want %d", n, err, callers)
	}
	failed := errors.New("failed")
	if n, err := Ask(t.Context(), o, func(_ context.Context, c *counter) (int, error) { return c.n, failed }); n != callers || !errors.Is(err, failed) {
		t.Errorf("Ask = %d, %v; want both results of the function", n, err)
	}
}

// TestCallerGivesUp: what has begun goes on with the owner's context, and what has not is never run.
func TestCallerGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := New[*counter]()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := Do(ctx, o, func(c *counter) { c.n = 100 }); !errors.Is(err, context.Canceled) {
			t.Errorf("nobody serves: %v, want %v", err, context.Canceled)
		}
		ending, end := context.WithCancel(t.Context())
		c := &counter{}
		go serve(ending, o, c)
		ctx, cancel = context.WithCancel(t.Context())
		begun, goOn := make(chan bool), make(chan bool)
		go func() {
			<-begun
			cancel()
		}()
		_, err := Ask(ctx, o, func(ctx context.Context, c *counter) (int, error) {
			close(begun)
			<-goOn
			c.n++
			return c.n, ctx.Err()
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("abandoned: %v, want %v", err, context.Canceled)
		}
		close(goOn)
		synctest.Wait()
		if c.n != 1 {
			t.Errorf("the abandoned call counted to %d, want 1", c.n)
		}
		end()
	})
}
