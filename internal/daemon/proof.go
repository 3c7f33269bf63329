package daemon

import (
	"context"
	"strings"
	"time"

	"mef/internal/control"
)

const (
	// proveAfter lets the daemon take up its work before it proves that it works.
	proveAfter = time.Second
	// proveEvery is how often it is proven, in namespaces of its own, that a ban blocks on this machine.
	proveEvery = time.Hour
	// proofAge is how old the last proof may be before the host no longer counts as protected.
	proofAge = proveEvery + 10*time.Minute
)

// prove runs the self-test at the start and every hour until ctx is done.
func (d *daemon) prove(ctx context.Context) error {
	next := time.NewTimer(proveAfter)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-next.C:
			next.Reset(proveEvery)
		}
		p := d.proveOnce(ctx)
		if ctx.Err() != nil {
			return nil
		}
		d.proof.Store(&p)
		if !p.ok && p.impossible == "" {
			d.log.Error("the self-test failed: bans may not block", "detail", p.detail)
			d.records.Add(control.Record{Time: p.at, Event: "error", Reason: "self-test: " + p.detail})
		}
	}
}

// proveOnce tries bans with packets, and compares the table that guards this host with what it should hold.
func (d *daemon) proveOnce(ctx context.Context) proof {
	impossible, problem := d.selfTest(ctx)
	p := proof{ok: impossible == "" && problem == "", impossible: impossible, detail: problem}
	if wrong := d.liveTable(ctx); wrong != "" {
		p = proof{detail: strings.TrimPrefix(p.detail+"; live table: "+wrong, "; ")}
	}
	p.at = time.Now()
	return p
}

// liveTable says what is wrong with the table that guards this host, "" if nothing is. What others have done a moment ago is left
// the time that it may take to be mended.
func (d *daemon) liveTable(ctx context.Context) string {
	for end := time.Now().Add(control.MendTime); ; {
		_, wrong, err := d.enforcer.Compare(ctx)
		switch {
		case err == nil && len(wrong) == 0:
			return ""
		case ctx.Err() == nil && time.Now().Before(end):
			pause(ctx, comparePause)
		case err != nil:
			return err.Error()
		default:
			return "missing or changed, and not put back: " + strings.Join(wrong, ", ")
		}
	}
}

// comparePause is between two looks at a table that is not as it should be.
const comparePause = 100 * time.Millisecond

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// A proof is the outcome of one self-test.
type proof struct {
	at         time.Time
	ok         bool
	impossible string // why it cannot be run here
	detail     string // what failed
}

// show adds the proof to a status as of now: a failure means unprotected, no possibility of a test is a warning.
func (p *proof) show(s *control.Status, now time.Time) {
	switch {
	case p == nil:
		s.Proof = control.Proof{State: "running"}
	case p.impossible != "":
		s.Proof = control.Proof{State: "impossible", At: &p.at, Detail: p.impossible}
		s.Warnings = append(s.Warnings, "the self-test cannot be run here: "+p.impossible)
	case !p.ok:
		s.Proof = control.Proof{State: "failed", At: &p.at, Detail: p.detail}
		s.Missing = append(s.Missing, "the self-test failed: "+p.detail+"; run mefctl selftest")
	case now.Sub(p.at) > proofAge:
		s.Proof = control.Proof{State: "old", At: &p.at}
		s.Missing = append(s.Missing, "the last self-test is older than an hour; run mefctl selftest")
	default:
		s.Proof = control.Proof{State: "passed", At: &p.at}
	}
}
