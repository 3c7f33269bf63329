package stdin_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"mef/internal/event"
	"mef/internal/source/stdin"
)

// read returns all lines of in, and how many were lost.
func read(t *testing.T, in io.Reader) (lines []string, lost int) {
	t.Helper()
	out := make(chan *event.Batch)
	r := stdin.New(in, out)
	go func() {
		defer close(out)
		if err := r.Run(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	offset := uint64(0)
	for b := range out {
		for _, l := range b.Lines {
			if lines = append(lines, string(l.Text)); l.Offset != offset+1 || l.Entry != nil || b.Source != stdin.Source {
				t.Errorf("line %d of %s: %+v", offset+1, b.Source, l)
			}
			offset = l.Offset
		}
		lost += b.Lost
		b.Release()
	}
	if _, reason := r.Status(); reason != "it has ended" {
		t.Errorf("in the end: %q", reason)
	}
	return lines, lost
}

func TestLines(t *testing.T) {
	huge := strings.Repeat("x", 3*stdin.MaxLine)
	for name, tt := range map[string]struct {
		in   string
		want []string
		lost int
	}{
		"lines":           {"a\nb\r\n\nc\n", []string{"a", "b", "", "c"}, 0},
		"no end":          {"a\nb", []string{"a", "b"}, 0},
		"nothing":         {"", nil, 0},
		"longest":         {strings.Repeat("y", stdin.MaxLine) + "\nb\n", []string{strings.Repeat("y", stdin.MaxLine), "b"}, 0},
		"too long":        {"a\n" + huge + "\nb\n" + huge + "\nc\n", []string{"a", "b", "c"}, 2},
		"too long, twice": {huge + "\n" + huge + "\nc\n", []string{"c"}, 2},
	} {
		for size, in := range map[string]io.Reader{"whole": strings.NewReader(tt.in), "by halves": iotest.HalfReader(strings.NewReader(tt.in)), "end at end": iotest.DataErrReader(strings.NewReader(tt.in))} {
			if got, lost := read(t, in); fmt.Sprint(got) != fmt.Sprint(tt.want) || lost != tt.lost {
				t.Errorf("%s, %s: %.100q and %d lost, want %.100q and %d", name, size, got, lost, tt.want, tt.lost)
			}
		}
	}
}

// A daemon that ends does not wait for the other end of the pipe.
func TestEndsWhileThePipeIsSilent(t *testing.T) {
	in, other, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- stdin.New(in, nil).Run(ctx) }()
	stop()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("it waits")
	}
}
