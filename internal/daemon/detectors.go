package daemon

import (
	"context"
	"time"

	"mef/internal/answers"
	"mef/internal/control"
	"mef/internal/engine"
	"mef/internal/owner"
	"mef/internal/pipeline"
)

// A detector finds attacks in something other than log lines. It has everything that the daemon needs of one, so that another one is an
// entry of detectors and no change anywhere else in this package. Its rules are those of engine.FromConf.
type detector struct {
	// run hands what it finds to the engine's goroutine until ctx is done: events, by pipeline.State.Event.
	run func(ctx context.Context) error
	// status looks at what may take time, and returns what adds to a status on the engine's goroutine.
	status  func() statusPart
	note    string            // the name of what it saves in mef.db; empty: nothing
	restore func(text string) // takes over the note of an earlier run, before run
}

// A statusPart adds to a status. It runs on the engine's goroutine.
type statusPart func(*control.Status, *pipeline.State)

// detectors returns the detectors.
func (d *daemon) detectors() []detector {
	return []detector{d.scans(), d.reputation(), d.notifications(), d.samples()}
}

// samples counts dropped packets by service, source and network, of samples that the packet filter reports.
func (d *daemon) samples() detector {
	return detector{
		run: func(ctx context.Context) error { return d.kernel.Samples(ctx, d.recorder.Sampling, d.recorder.Dropped) },
		status: func() statusPart {
			why := d.kernel.Unsampled()
			return func(s *control.Status, _ *pipeline.State) {
				if why != "" {
					s.Warnings = append(s.Warnings, why)
				}
			}
		},
	}
}

// reputation detects sources that block lists have, and reports bans to others.
func (d *daemon) reputation() detector {
	const note = "reported" // which addresses have been reported lately, by collector
	count := func(ctx context.Context, ev *engine.Event) error {
		return owner.Act(ctx, d.Engine, func(ctx context.Context, s *pipeline.State) error { return s.Event(ctx, ev) })
	}
	save := func(ctx context.Context, text string) {
		d.SaveNotes(map[string]string{note: text})
		d.Flush(ctx)
	}
	return detector{
		run: func(ctx context.Context) error { return d.Reputation.Run(ctx, count, save) },
		status: func() statusPart {
			add := d.Reputation.Status(time.Now())
			return func(s *control.Status, _ *pipeline.State) { add(s) }
		},
		note:    note,
		restore: d.Reputation.Reports.Restore,
	}
}

// notifications detects that the status of the host has changed, and has administrators notified of that and of other records.
func (d *daemon) notifications() detector {
	return detector{
		run: func(ctx context.Context) error { return d.notifier.Run(ctx, d.Status, d.Records.Add) },
		status: func() statusPart {
			add := d.notifier.Status(time.Now())
			return func(s *control.Status, _ *pipeline.State) { add(s) }
		},
	}
}

// scans detects port scans and floods: packets that the packet filter reports.
func (d *daemon) scans() detector {
	const note = "served" // the ports of services: see kernel.Kernel.Packets
	count := func(ctx context.Context, packets []engine.Packet) error {
		return owner.Act(ctx, d.Engine, func(ctx context.Context, s *pipeline.State) error { return s.Packets(ctx, packets) })
	}
	return detector{
		run: func(ctx context.Context) error {
			return d.kernel.Packets(ctx, count, func(text string) { d.SaveNotes(map[string]string{note: text}) })
		},
		status: func() statusPart {
			now := time.Now()
			scans := d.kernel.ScanStatus(now)
			return func(s *control.Status, state *pipeline.State) {
				answers.Scans(s, scans, state.Engine.Scans(now))
				answers.Floods(s, scans, state.Engine.Floods())
			}
		},
		note:    note,
		restore: d.kernel.RestoreServed,
	}
}

// restoreDetectors has the detectors take over what they saved.
func (d *daemon) restoreDetectors(notes map[string]string) {
	for _, one := range d.detectors() {
		if one.note != "" {
			one.restore(notes[one.note])
		}
	}
}

// detectorStatus returns what adds to a status what the detectors report.
func (d *daemon) detectorStatus() statusPart {
	var all []statusPart
	for _, one := range d.detectors() {
		all = append(all, one.status())
	}
	return func(s *control.Status, state *pipeline.State) {
		for _, add := range all {
			add(s, state)
		}
	}
}
