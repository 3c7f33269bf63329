package surge_test

import (
	"testing"
	"time"

	"mef/internal/track/surge"
)

const hour = int64(time.Hour)

func hourly() surge.Scale {
	return surge.Scale{Window: time.Hour, Least: 10, Pace: 24 * time.Hour}
}

// Three times the usual number of sources is an attack, and what goes on for days becomes usual.
func TestAttack(t *testing.T) {
	var s surge.Surge
	if s.Begun() {
		t.Error("it has begun before the first source")
	}
	add := func(n int, now int64) {
		for range n {
			s.Add(now, hourly())
		}
	}
	add(29, 1)
	if n := s.Attack(1, hourly(), 0); n != 0 {
		t.Errorf("%d sources are an attack where 10 are usual", n)
	}
	add(1, 2)
	if n := s.Attack(2, hourly(), 0); n != 30 || s.Usual() != 10 {
		t.Errorf("%d sources are an attack, %d are usual; want 30 and 10", n, s.Usual())
	}
	if n := s.Attack(2, hourly(), 31); n != 0 {
		t.Errorf("%d sources are an attack of at least 31", n)
	}
	for h := range int64(24 * 5) {
		add(30, 2+h*hour)
	}
	if n := s.Attack(2+5*24*hour, hourly(), 0); n != 0 {
		t.Errorf("after five days %d sources are an attack, where %d are usual", n, s.Usual())
	}
	if n := s.Sources(2+7*24*hour, hourly()); n != 0 {
		t.Errorf("two days after the last source: %d", n)
	}
}

func TestParse(t *testing.T) {
	var s surge.Surge
	for i := range 100 {
		s.Add(int64(i)*hour/7+1, hourly())
	}
	whole := s.AppendTo(nil)
	back, n := surge.Parse(append(whole, "more"...), 10)
	if n != len(whole) || back != s {
		t.Errorf("read as %+v in %d bytes, want %+v in %d", back, n, s, len(whole))
	}
	if back, _ := surge.Parse(whole, 1000); back.Usual() != 1000 {
		t.Errorf("%d are usual, want 1000 at least", back.Usual())
	}
	for cut := range whole {
		if back, n := surge.Parse(whole[:cut], 10); n != 0 || back != (surge.Surge{}) {
			t.Errorf("cut to %d bytes it is read as %+v", cut, back)
		}
	}
}
