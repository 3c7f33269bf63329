package journal

import (
	"bufio"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"mef/internal/run"
)

// Bounds on what Units looks at.
const (
	maxUnits   = 4096             // units; those of login sessions are not counted
	maxLooking = 10 * time.Second // in all
)

// Units returns the system units that the journal has entries of, sorted. journald records the unit itself: no process can log under
// another's. Units of login sessions and of users' own service managers are left out. The error wraps ErrNoJournal if journalctl is
// not installed.
func Units(ctx context.Context, opt Options) (units []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, maxLooking)
	defer cancel()
	p, err := start(ctx, opt, "--field=_SYSTEMD_UNIT")
	if err != nil {
		return nil, fmt.Errorf("list units in the journal: %w", err)
	}
	lines := bufio.NewScanner(p.Stdout)
	for lines.Scan() && len(units) < maxUnits {
		if unit := lines.Text(); !strings.HasSuffix(unit, ".scope") && !strings.HasPrefix(unit, "user@") {
			units = append(units, unit)
		}
	}
	full := len(units) == maxUnits || lines.Err() != nil
	if err := end(p, full); err != nil {
		return nil, fmt.Errorf("list units in the journal: %w", err)
	}
	slices.Sort(units)
	return units, nil
}

// end ends a journalctl, by force if enough was read of it.
func end(p *run.Process, enough bool) error {
	if enough {
		p.Kill()
		p.Wait() // reports that it was killed
		return nil
	}
	return p.Wait()
}
