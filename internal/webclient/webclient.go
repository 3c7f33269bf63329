// Package webclient has what requests to other people's services have in common: a client that waits a bounded time and follows no
// redirect, keys in files that no other user can read, and errors that can be shown.
package webclient

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"mef/internal/conf/diag"
)

const (
	// Timeout is how long a client waits for an answer, its body included.
	Timeout = 20 * time.Second
	// MaxAnswer is how many bytes of an answer are worth reading.
	MaxAnswer = 64 << 10

	maxKey = 4 << 10
)

// New returns a client that waits a bounded time and follows no redirect: the key in a request is for one server.
func New() *http.Client {
	return &http.Client{
		Timeout:       Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConns: 1, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: MaxAnswer},
	}
}

// ReadKey reads a key from a file that no other user can read.
func ReadKey(path string) (string, error) {
	info, err := os.Stat(path)
	var at *fs.PathError
	switch {
	case errors.As(err, &at):
		return "", fmt.Errorf("key file %q: %w", path, at.Err)
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("key file %q is not a regular file", path)
	case info.Mode().Perm()&0o007 != 0:
		return "", fmt.Errorf("every user can read key file %q; run chmod o= %q", path, path)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrPermission) {
		return "", fmt.Errorf("mefdaemon cannot read key file %q; run chgrp mef %q and chmod 640 %q", path, path, path)
	} else if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKey))
	if err != nil {
		return "", err
	}
	key := strings.TrimSpace(string(text))
	if key == "" || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("key file %q must have the key in one line, and nothing else", path)
	}
	return key, nil
}

// Shown returns an error of a request without its URL, which may be long and have the key in it, as text that can be shown.
func Shown(err error) error {
	var inURL *url.Error
	if errors.As(err, &inURL) {
		err = inURL.Err
		if inURL.Timeout() {
			err = fmt.Errorf("no answer within %v", Timeout)
		}
	}
	return errors.New(diag.Printable(err.Error())) // a certificate may have any name
}

const (
	shortest = time.Second
	longest  = 25 * time.Hour // of pauses that others ask for
)

// Pause returns for how long an answer asks to send nothing; usual, unless it says so.
func Pause(h http.Header, now time.Time, usual time.Duration) time.Duration {
	pause := usual
	if seconds, err := strconv.Atoi(h.Get("Retry-After")); err == nil {
		pause = time.Duration(min(seconds, int(longest/time.Second))) * time.Second
	} else if at, err := http.ParseTime(h.Get("Retry-After")); err == nil {
		pause = at.Sub(now)
	} else if unix, err := strconv.ParseInt(h.Get("X-RateLimit-Reset"), 10, 64); err == nil {
		pause = time.Unix(unix, 0).Sub(now)
	}
	return min(max(pause, shortest), longest)
}
