package console_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"mef/internal/console"
)

// TestInputEndsWithTheContext has a signal end a command that reads, though nobody writes.
func TestInputEndsWithTheContext(t *testing.T) {
	in, out := io.Pipe()
	defer out.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	signal := errors.New("signal")
	root := &cobra.Command{SilenceErrors: true, SilenceUsage: true, RunE: func(cmd *cobra.Command, _ []string) error {
		buf := make([]byte, 10)
		if n, err := cmd.InOrStdin().Read(buf); string(buf[:n]) != "text" || err != nil {
			t.Errorf("read %q, %v", buf[:n], err)
		}
		cancel(signal)
		_, err := io.ReadAll(cmd.InOrStdin())
		return err
	}}
	done := make(chan error, 1)
	go func() { done <- console.Run(ctx, root, nil, in, io.Discard, io.Discard) }()
	out.Write([]byte("text"))
	select {
	case err := <-done:
		if !errors.Is(err, signal) {
			t.Errorf("the command ended with %v, want %v", err, signal)
		}
	case <-time.After(20 * time.Second):
		t.Error("the command still reads")
	}
}
