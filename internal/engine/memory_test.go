package engine_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"mef/internal/conf"
	"mef/internal/conf/rulefile"
	"mef/internal/engine"
	"mef/internal/event"
	"mef/internal/exempt"
	"mef/internal/filter"
)

// What is kept for a source is little, however many rules read it: they share what they were compiled to.
func TestMemoryOfASource(t *testing.T) {
	const sources, most = 200, 8 << 10
	rules, err := rulefile.Shipped(filter.Shipped())
	if err != nil {
		t.Fatal(err)
	}
	set, errs := filter.Compile(rules)
	if err := errs.Err(); err != nil {
		t.Fatal(err)
	}
	e := engine.New(engine.Config{Rules: set}, exempt.Facts{})
	read := func(source string) {
		b := new(event.Pool).Get()
		b.Source, b.Lines = source, []event.Line{{Time: time.Now(), Text: []byte("Jan  2 03:04:05 h sshd[1]: hello")}}
		for range e.Lines(b, time.Now()) {
		}
		b.Release()
	}
	read("the first")
	before := heap()
	for i := range sources {
		read(fmt.Sprint("/var/log/", i))
	}
	if each := (int64(heap()) - int64(before)) / sources; each > most {
		t.Errorf("%d bytes a source, want at most %d", each, most)
	}
	runtime.KeepAlive(e)
}

// Most lines of an attack come from sources that are banned already, or soon will be. Such a line costs the copy of its text.
func TestAllocationsOfALine(t *testing.T) {
	rules, err := rulefile.Shipped(filter.Shipped())
	if err != nil {
		t.Fatal(err)
	}
	set, errs := filter.Compile(rules)
	if err := errs.Err(); err != nil {
		t.Fatal(err)
	}
	e := engine.New(engine.FromConf(&conf.Config{Rules: rules, Score: conf.Score{Failure: 10, Ban: 100, HalfLife: time.Hour},
		Ban: conf.BanTimes{First: time.Hour}}, set), exempt.Facts{})
	b := &event.Batch{Source: "s", Lines: []event.Line{{Text: []byte(
		"Jan  2 03:04:05 h sshd[1]: Failed password for invalid user admin from 192.0.2.7 port 40022 ssh2")}}}
	at := noon
	bans := 0
	read := func() {
		at = at.Add(time.Millisecond)
		b.Lines[0].Time = at
		for o := range e.Lines(b, at) {
			if o.Kind == engine.Banned {
				bans++
			}
		}
	}
	for range 1000 {
		read()
	}
	if bans != 1 {
		t.Fatalf("%d bans, want 1", bans)
	}
	if n := testing.AllocsPerRun(1000, read); n > 1 {
		t.Errorf("%v allocations for a line of a banned source, want 1", n)
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC() // what pools hold is given up by the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
