package hostwatch

import (
	"context"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestWhenChanged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "passwd")
	write := func(text string) {
		if err := os.WriteFile(path+"~", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+"~", path); err != nil {
			t.Fatal(err)
		}
	}
	write("root:x:0:0::/root:/bin/sh\n")
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		var calls atomic.Int32
		done := make(chan error)
		go func() { done <- whenChanged(ctx, path, time.Minute, func() { calls.Add(1) }) }()
		time.Sleep(10*time.Minute + time.Second)
		synctest.Wait()
		if n := calls.Load(); n != 0 {
			t.Errorf("%d calls for a file that stays as it is", n)
		}
		write("root:x:0:0::/root:/bin/sh\ndovecot:x:107:114::/:/bin/false\n")
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if n := calls.Load(); n != 1 {
			t.Errorf("%d calls for one change", n)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
