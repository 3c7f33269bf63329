package daemon

import (
	"context"
	"time"

	"mef/internal/control"
	"mef/internal/selftest"
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
		result, err := selftest.Spawn(ctx)
		if ctx.Err() != nil {
			return nil
		}
		p := proof{at: time.Now(), ok: err == nil && result.OK, impossible: result.Impossible}
		if err != nil {
			p.detail = err.Error()
		} else {
			p.detail = result.Problem()
		}
		d.proof.Store(&p)
		if !p.ok && p.impossible == "" {
			d.log.Error("the self-test failed: bans may not block", "detail", p.detail)
			d.records.add(control.Record{Time: p.at, Event: "error", Reason: "self-test: " + p.detail})
		}
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
