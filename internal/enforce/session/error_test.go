package session

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAnErrorOfOneDoesNotKeepTheOthers(t *testing.T) {
	for name, tt := range map[string]struct {
		errs  []error // by what is ended
		tried int
		n     int
		want  error
	}{
		"none":                {[]error{nil, nil, nil}, 3, 3, nil},
		"one is gone":         {[]error{nil, unix.ENOENT, nil}, 3, 2, nil},
		"one cannot be ended": {[]error{nil, unix.EINVAL, unix.EBUSY, nil}, 4, 2, unix.EINVAL},
		"no kernel for it":    {[]error{unix.EOPNOTSUPP, unix.EOPNOTSUPP, unix.EOPNOTSUPP}, 1, 0, unix.EOPNOTSUPP},
		"no right to do it":   {[]error{nil, unix.EPERM, nil}, 2, 1, unix.EPERM},
	} {
		t.Run(name, func(t *testing.T) {
			tried := 0
			n, err := endEach(make([][]byte, len(tt.errs)), func([]byte) error {
				tried++
				return tt.errs[tried-1]
			})
			if tried != tt.tried || n != tt.n || !errors.Is(err, tt.want) {
				t.Errorf("tried %d, ended %d, error %v; want %d, %d, %v", tried, n, err, tt.tried, tt.n, tt.want)
			}
		})
	}
}

func TestWhatAKernelCannotDoIsSaidOnce(t *testing.T) {
	for name, tt := range map[string]struct {
		err   error
		lines int
		words string
	}{
		"not built in":    {unix.EOPNOTSUPP, 1, "CONFIG_INET_DIAG_DESTROY"},
		"not allowed":     {unix.EPERM, 1, "operation not permitted"},
		"something today": {unix.ENOBUFS, 3, "no buffer space"},
	} {
		t.Run(name, func(t *testing.T) {
			var said strings.Builder
			e := New(slog.New(slog.NewTextHandler(&said, nil)))
			for range 3 {
				e.report(&e.loggedDestroy, "ending sockets", errors.Join(nil, fmt.Errorf("destroy: %w", tt.err)))
				e.report(&e.loggedDestroy, "ending sockets", nil)
			}
			if n := strings.Count(said.String(), "packets are dropped nevertheless"); n != tt.lines || !strings.Contains(said.String(), tt.words) {
				t.Errorf("said %d times, want %d, with %q:\n%s", n, tt.lines, tt.words, said.String())
			}
		})
	}
}
