package daemon

import "context"

// Requests cross goroutines as values. A caller may go away at any moment, because its client did; what it asked for is then done
// all the same, later, and the result goes into a channel that nobody reads. So a function that is handed to another goroutine
// returns what the caller wants, and never writes to the caller's variables.

// query runs fn on the engine's goroutine, between two batches, and returns its result. The error is that of ctx.
func query[T any](ctx context.Context, e *loop, fn func() T) (T, error) {
	result := make(chan T, 1)
	var none T
	select {
	case e.calls <- func() { result <- fn() }:
	case <-ctx.Done():
		return none, ctx.Err()
	}
	select {
	case v := <-result:
		return v, nil
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// do is query for what only changes the engine.
func (e *loop) do(ctx context.Context, fn func()) error {
	_, err := query(ctx, e, func() struct{} { fn(); return struct{}{} })
	return err
}

// ask runs fn on the keeper's goroutine and returns its result. The context of fn is the keeper's: once begun, fn goes on to its end
// even if the caller has gone.
func ask[T any](ctx context.Context, k *keeper, fn func(context.Context) (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	result := make(chan outcome, 1)
	var none T
	select {
	case k.asked <- func(ctx context.Context) {
		v, err := fn(ctx)
		result <- outcome{v, err}
	}:
	case <-ctx.Done():
		return none, ctx.Err()
	}
	select {
	case o := <-result:
		return o.value, o.err
	case <-ctx.Done():
		return none, ctx.Err()
	}
}
