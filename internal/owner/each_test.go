package owner

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
)

func TestEachItemHasAGoroutineWhileItIsInTheSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		changed, log := make(chan struct{}), make(chan string, 10)
		var items []string
		done := make(chan struct{})
		go func() {
			defer close(done)
			Each(ctx, changed, func() []string { return items }, func(ctx context.Context, item string) {
				log <- "begin " + item
				<-ctx.Done()
				log <- "end " + item
			})
		}()
		expect := func(want ...string) {
			t.Helper()
			synctest.Wait()
			var got []string
			for range len(log) {
				got = append(got, <-log)
			}
			if slices.Sort(got); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		expect()
		for _, step := range []struct{ items, want []string }{
			{[]string{"a", "b"}, []string{"begin a", "begin b"}},
			{[]string{"b", "c"}, []string{"begin c", "end a"}},
			{[]string{"b", "c"}, nil},
			{[]string{"a", "b", "c"}, []string{"begin a"}},
		} {
			items = step.items
			changed <- struct{}{}
			expect(step.want...)
		}
		cancel()
		<-done
		expect("end a", "end b", "end c")
	})
}
