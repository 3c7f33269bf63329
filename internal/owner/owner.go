// Package owner gives a state to one goroutine. Others never see the state: they hand over functions that run on its goroutine, one
// at a time, so nothing in it is locked.
//
// A caller may give up at any moment, because its client did. Its function then runs all the same, later, and nobody receives the
// result. So a function returns what the caller wants, and never writes to the caller's variables.
package owner

import "context"

// An Of is the way to a state S, usually a pointer, that one goroutine owns.
type Of[S any] struct{ calls chan Call[S] }

// A Call is a function that waits for the owner. Its context is the owner's: once begun, it goes on to its end even if the caller has
// given up.
type Call[S any] func(context.Context, S)

// New returns the way to a state. It has no room: a caller waits until the owner receives from Calls.
func New[S any]() Of[S] { return Of[S]{make(chan Call[S])} }

// Calls returns what the owner must receive and run.
func (o Of[S]) Calls() <-chan Call[S] { return o.calls }

// Ask runs fn on the owner's goroutine and returns its result, or the error of ctx if that is done first.
func Ask[S, T any](ctx context.Context, o Of[S], fn func(context.Context, S) (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	result := make(chan outcome, 1)
	var none T
	select {
	case o.calls <- func(ctx context.Context, s S) {
		v, err := fn(ctx, s)
		result <- outcome{v, err}
	}:
	case <-ctx.Done():
		return none, ctx.Err()
	}
	select {
	case r := <-result:
		return r.value, r.err
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// Query is Ask for what cannot fail.
func Query[S, T any](ctx context.Context, o Of[S], fn func(S) T) (T, error) {
	return Ask(ctx, o, func(_ context.Context, s S) (T, error) { return fn(s), nil })
}

// Do is Query for what has no result.
func Do[S any](ctx context.Context, o Of[S], fn func(S)) error {
	_, err := Query(ctx, o, func(s S) struct{} { fn(s); return struct{}{} })
	return err
}

// Act is Ask for what has no result but an error.
func Act[S any](ctx context.Context, o Of[S], fn func(context.Context, S) error) error {
	_, err := Ask(ctx, o, func(ctx context.Context, s S) (struct{}, error) { return struct{}{}, fn(ctx, s) })
	return err
}
