package natslog

import (
	"fmt"
	"strings"
	"sync"
)

// faults keeps the last warnings of a broker, which say what is wrong with its files. It is a logger of the broker.
type faults struct {
	dir  string // of the files
	mu   sync.Mutex
	text []string
}

const maxFaults = 3

func (f *faults) add(format string, args ...any) {
	text := strings.TrimSpace(fmt.Sprintf(format, args...))
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.text) < maxFaults && len(text) < 500 {
		f.text = append(f.text, text)
	}
}

// explain adds to an error where the files are and what the broker has said about them.
func (f *faults) explain(err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil || f.dir == "" {
		return err
	}
	if len(f.text) == 0 {
		return fmt.Errorf("%w (files in %q)", err, f.dir)
	}
	return fmt.Errorf("%w (files in %q; the broker: %q)", err, f.dir, f.text)
}

// Warnf keeps a warning.
func (f *faults) Warnf(format string, args ...any) { f.add(format, args...) }

// Errorf keeps an error.
func (f *faults) Errorf(format string, args ...any) { f.add(format, args...) }

// Fatalf keeps an error.
func (f *faults) Fatalf(format string, args ...any) { f.add(format, args...) }

// Noticef does nothing.
func (f *faults) Noticef(string, ...any) {}

// Debugf does nothing.
func (f *faults) Debugf(string, ...any) {}

// Tracef does nothing.
func (f *faults) Tracef(string, ...any) {}
