// Package browsertest starts a real browser for tests of pages.
package browsertest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"mef/internal/netnstest"
)

// Chromium starts a browser on a host, nil for this one. It ends with the test, after a time, or by cancel.
func Chromium(t *testing.T, host *netnstest.NS, within time.Duration) (ctx context.Context, cancel func()) {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		netnstest.Missing(t, "chromium; see scripts/deps")
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.Flag("no-sandbox", true),
		chromedp.WSURLReadTimeout(time.Minute))
	if host != nil {
		nsenter, err := exec.LookPath("nsenter")
		if err != nil {
			netnstest.Missing(t, "nsenter of util-linux")
		}
		opts = append(opts, chromedp.ModifyCmdFunc(func(cmd *exec.Cmd) {
			cmd.Path, cmd.Args = nsenter, append([]string{"nsenter", fmt.Sprintf("--net=/proc/%d/fd/%d", os.Getpid(), host.Fd()), path}, cmd.Args[1:]...)
		}))
	}
	ctx, cancel = context.WithTimeout(t.Context(), within)
	t.Cleanup(cancel)
	ctx, stop := chromedp.NewExecAllocator(ctx, opts...)
	t.Cleanup(stop)
	ctx, end := chromedp.NewContext(ctx)
	t.Cleanup(end)
	if err := chromedp.Do(ctx, chromedp.Navigate("about:blank")); err != nil {
		t.Fatal(err)
	}
	return ctx, cancel
}
