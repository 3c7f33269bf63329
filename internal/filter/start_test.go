package filter_test

import (
	"runtime"
	"testing"
	"time"

	"mef/internal/conf/rulefile"
	"mef/internal/filter"
)

// Reading and compiling all shipped rules is a small part of a start, and lines that no rule knows need hardly any memory.
func TestStartIsCheap(t *testing.T) {
	took, used := time.Hour, int64(0)
	for try := 0; try < 5 && took > startWithin; try++ { // a machine that is busy with something else is not so every time
		var now time.Duration
		now, used = startFilter(t)
		took = min(took, now)
	}
	t.Logf("%v, %d KB", took, used)
	if took > startWithin || used > 3<<10 { // 50 ms on a quiet machine, without the race detector
		t.Errorf("all shipped rules took %v and %d KB", took, used)
	}
}

const startWithin = 500 * time.Millisecond

// startFilter returns how long reading and compiling took, and how many KB the rules hold after a few lines.
func startFilter(t *testing.T) (took time.Duration, used int64) {
	t.Helper()
	before, begin := heap(), time.Now()
	rules, err := rulefile.Shipped(filter.Shipped())
	if err != nil {
		t.Fatal(err)
	}
	set, errs := filter.Compile(rules)
	if errs.Err() != nil {
		t.Fatal(errs)
	}
	took = time.Since(begin)
	v := set.View(all)
	var m filter.Match
	for _, text := range []string{
		"Mar  1 10:00:00 web1 cron[7]: hello", "Mar  1 10:00:00 web1 sshd[7]: Failed password for root from 203.0.113.7 port 4711 ssh2",
		"Mar  1 10:00:00 mx1 postfix/smtpd[7]: connect from unknown[203.0.113.7]", "Mar  1 10:00:00 mx1 dovecot: imap-login: hello",
	} {
		v.Match(line(text), &m)
	}
	used = (int64(heap()) - int64(before)) >> 10
	runtime.KeepAlive(v)
	return took, used
}
