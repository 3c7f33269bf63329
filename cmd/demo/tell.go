//go:build linux

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// A teller prints the story as it happens: a line says when, who and what.
type teller struct {
	mu    sync.Mutex
	out   io.Writer
	color bool
	began time.Time
}

func newTeller(out *os.File) *teller {
	info, err := out.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0
	return &teller{out: out, color: terminal && os.Getenv("NO_COLOR") == "", began: time.Now()}
}

// A style is how a line looks on a terminal (ECMA-48, select graphic rendition).
type style string

const (
	plain style = ""
	bold  style = "1"
	bad   style = "31"
	good  style = "32"
	faint style = "2"
)

// say tells what somebody did or met with.
func (t *teller) say(s style, who, format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	line := fmt.Sprintf("%6.2fs  %-27s %s", time.Since(t.began).Seconds(), who, fmt.Sprintf(format, args...))
	fmt.Fprintln(t.out, t.paint(s, line))
}

// title begins a chapter.
func (t *teller) title(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.out, "\n%s\n", t.paint(bold, text))
}

// show prints a command as it was typed, and what it said.
func (t *teller) show(command, output string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.out, "\n%s\n%s\n", t.paint(bold, "# "+command), strings.TrimRight(output, "\n"))
}

func (t *teller) paint(s style, text string) string {
	if !t.color || s == plain {
		return text
	}
	return "\x1b[" + string(s) + "m" + text + "\x1b[0m"
}
