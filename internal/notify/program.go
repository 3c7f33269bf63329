package notify

import (
	"context"

	"mef/internal/conf"
	"mef/internal/printable"
	"mef/internal/run"
)

// maxOutput is how many bytes a program may write to its standard output.
const maxOutput = 64 << 10

// program returns the way to a program. The message is its standard input: none of its arguments comes from outside.
func program(cfg conf.Notify) way {
	return func(ctx context.Context, m *message) outcome {
		text, err := printable.Marshal(m)
		if err != nil {
			return outcome{err: err}
		}
		_, err = run.Feed(ctx, append(text, '\n'), maxOutput, cfg.Command[0], cfg.Command[1:]...)
		return outcome{err: err}
	}
}
