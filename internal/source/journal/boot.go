package journal

import (
	"bytes"
	"context"
	"errors"
	"io"

	"mef/internal/event"
)

// present returns the arguments without which a journalctl that follows might wait forever. It shows entries of the present boot
// only, whose ID it asks the kernel for. But in a container journald may have been given another one (systemd-nspawn mounts it
// over the kernel's), which a service in a sandbox, with a /proc of its own, does not see. So if the journal has nothing of the
// boot that the kernel reports, it is the newest entry's that goes on.
func (f *Follower) present(ctx context.Context) ([]string, error) {
	if cursor, err := last(ctx, f.cfg.Options, "--boot"); err == nil && cursor != nil {
		return nil, nil
	}
	cursor, err := last(ctx, f.cfg.Options)
	if err != nil || cursor == nil {
		return nil, err
	}
	newest, _ := parsePlace(cursor)
	boot, _, _ := bytes.Cut(bytes.TrimPrefix(newest.same, []byte("b=")), []byte(";"))
	f.log.Debug("following the boot of the newest journal entry, which is not the kernel's, as in a container", "boot", string(boot))
	return []string{"--boot=" + string(boot)}, nil
}

// last returns the cursor of the last entry that journalctl shows, nil if it shows none.
func last(ctx context.Context, opt Options, args ...string) (cursor []byte, err error) {
	p, err := start(ctx, opt, append(args, "--lines=1")...)
	if err != nil {
		return nil, err
	}
	var in input
	var pool event.Pool
	b := pool.Get()
	defer b.Release()
	for {
		err := in.read(b, p.Stdout)
		if errors.Is(err, io.EOF) {
			return cursor, end(p, false)
		}
		if err != nil {
			return nil, errors.Join(err, end(p, true))
		}
		for i := range in.entries {
			cursor = bytes.Clone(in.entries[i].cursor)
		}
	}
}
