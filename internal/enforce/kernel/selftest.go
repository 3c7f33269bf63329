package kernel

import (
	"context"
	"strings"
	"time"
)

const (
	// testAfter lets the daemon take up its work before it proves that it works.
	testAfter = time.Second
	// testEvery is how often it is proven, in namespaces of its own, that a ban blocks on this machine.
	testEvery = time.Hour
	// testAge is how old the last self-test may be before the host no longer counts as protected.
	testAge = testEvery + 10*time.Minute
	// repairTime is how long what others have changed may take to be restored.
	repairTime = time.Second
)

// A SelfTest is the outcome of one self-test.
type SelfTest struct {
	At         time.Time
	OK         bool
	Impossible string // why it cannot be run here
	Detail     string // what failed
}

// State returns what the test comes to as of now: "running", "passed", "failed", "old" or "impossible". missing is why the host does not
// count as protected, "" if it does; warning, what an operator should know all the same. The test may be nil: none has ended yet.
func (t *SelfTest) State(now time.Time) (state, missing, warning string) {
	switch {
	case t == nil:
		return "running", "", ""
	case t.Impossible != "":
		return "impossible", "", "the self-test cannot run on this host: " + t.Impossible
	case !t.OK:
		return "failed", "the self-test failed: " + t.Detail + "; run mefctl selftest", ""
	case now.Sub(t.At) > testAge:
		return "old", "the last self-test is older than an hour; run mefctl selftest", ""
	}
	return "passed", "", ""
}

// LastSelfTest returns the outcome of the last self-test; nil: none has ended yet.
func (k *Kernel) LastSelfTest() *SelfTest { return k.tested.Load() }

// RunSelfTests tests at the start and every hour, until ctx is done, that bans block: by test, which tries it with packets elsewhere
// and returns why that is impossible here or what is wrong, and by a look at what guards this host. It calls failed with a test that
// failed.
func (k *Kernel) RunSelfTests(ctx context.Context, test func(context.Context) (impossible, problem string), failed func(SelfTest)) error {
	next := time.NewTimer(testAfter)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-next.C:
			next.Reset(testEvery)
		}
		t := k.selfTest(ctx, test)
		if ctx.Err() != nil {
			return nil
		}
		k.tested.Store(&t)
		if !t.OK && t.Impossible == "" {
			failed(t)
		}
	}
}

func (k *Kernel) selfTest(ctx context.Context, test func(context.Context) (impossible, problem string)) SelfTest {
	impossible, problem := test(ctx)
	t := SelfTest{OK: impossible == "" && problem == "", Impossible: impossible, Detail: problem}
	if wrong := k.Fault(ctx, repairTime); wrong != "" && k.Status().Ready { // otherwise status shows why not
		t = SelfTest{Detail: strings.TrimPrefix(t.Detail+"; live table: "+wrong, "; ")}
	}
	t.At = time.Now()
	return t
}
