// Package duty keeps what must come to hold although it may fail now: bans that must be lifted, lists that must be applied.
//
// A duty that fails stays due and is tried again, at first after a second and then less often, until it succeeds. Meanwhile others can
// see what is due and why.
package duty

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Between two attempts, at first and at most.
const (
	retryFirst = time.Second
	retryMost  = 30 * time.Second
)

// A List has the duties that failed when last tried. It belongs to one goroutine; Text may be called from any.
type List struct {
	report func(name string, err error)
	failed map[string]failure
	timer  *time.Timer // to the next attempt; running while any is due
	wait   time.Duration
	text   atomic.Pointer[string]
}

type failure struct {
	do  func(context.Context) error
	err error
}

// New returns a List without duties. report is called when a duty fails that was not due, and with a nil error when one that was due is
// done.
func New(report func(name string, err error)) *List {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return &List{report: report, failed: make(map[string]failure), timer: t}
}

// Do does a duty, and keeps it due if it fails: then do is called again by Retry. An error while ctx is done changes nothing.
func (l *List) Do(ctx context.Context, name string, do func(context.Context) error) error {
	err := do(ctx)
	if ctx.Err() != nil {
		return err
	}
	_, again := l.failed[name]
	if err == nil {
		delete(l.failed, name)
	} else {
		l.failed[name] = failure{do, err}
	}
	if again != (err != nil) {
		l.report(name, err)
	}
	l.changed()
	return err
}

// Drop forgets a duty.
func (l *List) Drop(name string) {
	delete(l.failed, name)
	l.changed()
}

// changed sets the timer and the text by what is due.
func (l *List) changed() {
	switch {
	case len(l.failed) == 0:
		l.timer.Stop()
		l.wait = 0
		l.text.Store(nil)
		return
	case l.wait == 0:
		l.wait = retryFirst
		l.timer.Reset(l.wait)
	}
	var all []string
	for _, name := range slices.Sorted(maps.Keys(l.failed)) {
		all = append(all, fmt.Sprintf("%s: %v", name, l.failed[name].err))
	}
	text := strings.Join(all, "; ")
	l.text.Store(&text)
}

// Due receives when it is time for Retry.
func (l *List) Due() <-chan time.Time { return l.timer.C }

// Retry tries again what is due.
func (l *List) Retry(ctx context.Context) {
	for _, name := range slices.Sorted(maps.Keys(l.failed)) {
		_ = l.Do(ctx, name, l.failed[name].do) // stays due
	}
	if len(l.failed) > 0 {
		l.wait = min(2*l.wait, retryMost)
		l.timer.Reset(l.wait)
	}
}

// Text returns what is due and why, "" if nothing is.
func (l *List) Text() string {
	if text := l.text.Load(); text != nil {
		return *text
	}
	return ""
}
