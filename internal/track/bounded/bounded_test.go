package bounded_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"mef/internal/track/bounded"
)

func TestSlab(t *testing.T) {
	var s bounded.Slab[int]
	for i := range 2000 {
		n := s.Get()
		if n == 0 || *s.At(n) != 0 {
			t.Fatalf("value %d has index %d and is %d", i, n, *s.At(n))
		}
		if *s.At(n) = i + 1; i%2 == 1 {
			s.Put(n)
		}
	}
	if s.Len() != 1000 || s.Last() != 1001 {
		t.Errorf("%d values in use, %d indexes; want 1000 and 1001", s.Len(), s.Last())
	}
}

// A chain has the latest lines of its source, as far as the ring still has them.
func TestLines(t *testing.T) {
	var l bounded.Lines
	var a, b uint64
	for i := range 10 {
		a = l.Add(a, fmt.Append(nil, "a", i))
		b = l.Add(b, fmt.Append(nil, "b", i))
	}
	if got := l.Chain(nil, a, 3); !slices.Equal(got, []string{"a7", "a8", "a9"}) {
		t.Errorf("%q", got)
	}
	if got := l.Chain([]string{"x"}, b, 99); len(got) != 11 || got[0] != "x" || got[1] != "b0" || got[10] != "b9" {
		t.Errorf("%q", got)
	}
	for range bounded.MaxLines - 3 {
		l.Add(0, []byte("other"))
	}
	if got := l.Chain(nil, a, 99); !slices.Equal(got, []string{"a9"}) || l.Len() != bounded.MaxLines {
		t.Errorf("after a flood %q, %d lines", got, l.Len())
	}
}

// Lines of any kind are read as they were added, however much they share with the next one.
func TestLinesDiffer(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var l bounded.Lines
	var heads [40]uint64
	var want [len(heads)][]string
	for step := range 20_000 {
		i := r.IntN(len(heads))
		if r.IntN(50) == 0 {
			heads[i], want[i] = 0, nil
		}
		var line []byte
		for range r.IntN(4) {
			line = append(line, bytes.Repeat([]byte{"ab"[r.IntN(2)]}, r.IntN(1+r.IntN(300)))...)
		}
		heads[i] = l.Add(heads[i], line)
		want[i] = append(want[i], string(line))
		n := 1 + r.IntN(len(want[i]))
		if got := l.Chain(nil, heads[i], n); !slices.Equal(got, want[i][len(want[i])-n:]) {
			t.Fatalf("step %d: %q, want %q", step, got, want[i])
		}
	}
}

type aged struct {
	bounded.Age[aged]
	n int
}

func TestAges(t *testing.T) {
	var l bounded.Ages[aged, *aged]
	var all [5]aged
	for i := range all {
		all[i].n = i
		l.Add(&all[i])
	}
	for step, tt := range []struct {
		remove, add []int
		want        []int
	}{
		{nil, nil, []int{0, 1, 2, 3, 4}},
		{[]int{2}, nil, []int{0, 1, 3, 4}},
		{[]int{0, 4}, nil, []int{1, 3}},
		{[]int{1}, []int{1, 2}, []int{3, 1, 2}},
		{[]int{2, 3, 1}, nil, nil},
		{nil, []int{4}, []int{4}},
	} {
		for _, i := range tt.remove {
			l.Remove(&all[i])
		}
		for _, i := range tt.add {
			l.Add(&all[i])
		}
		var got []int
		for e := range l.All() {
			got = append(got, e.n)
		}
		if oldest := l.Oldest(); !slices.Equal(got, tt.want) || l.Len() != len(got) || (oldest == nil) != (len(got) == 0) || oldest != nil && oldest.n != got[0] {
			t.Errorf("step %d: %v of %d, the oldest %v, want %v", step, got, l.Len(), oldest, tt.want)
		}
	}
}

// An index answers as a map does, whatever is put in and removed, also where keys share a hash.
func TestIndex(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var x bounded.Index
	keys, want, next := map[uint32]int{}, map[int]uint32{}, uint32(0)
	hash := func(key int) uint32 { return uint32(key/3) * 0x9e3779b1 }
	check := func(key int) {
		if got := x.Find(hash(key), func(n uint32) bool { return keys[n] == key }); got != want[key] {
			t.Fatalf("%d has number %d, want %d", key, got, want[key])
		}
	}
	check(1)
	for range 50_000 {
		key := r.IntN(2000)
		switch number, ok := want[key]; {
		case ok && r.IntN(2) == 0:
			x.Remove(hash(key), number)
			delete(want, key)
		case !ok && r.IntN(3) > 0:
			next++
			keys[next] = key
			x.Put(hash(key), next)
			want[key] = next
		}
		check(r.IntN(2000))
	}
	for key := range 2000 {
		check(key)
	}
	if x.Len() != len(want) {
		t.Errorf("%d numbers, want %d", x.Len(), len(want))
	}
}

// ByName answers as its map does, also where names share a hash, and after they are replaced.
func TestByName(t *testing.T) {
	var b bounded.ByName[int]
	for round := range 2 {
		all := map[string]int{"": -1, "a": -2}
		for i := range 300 {
			all[fmt.Sprint("rule", i)] = i + round
		}
		b.Set(all)
		for i := range 900 {
			name := fmt.Sprint("rule", i*7%400)
			want, ok := all[name]
			if got, found := b.Get(name); got != want || found != ok {
				t.Fatalf("%q is %d, %v; want %d, %v", name, got, found, want, ok)
			}
		}
		for _, name := range []string{"", "a", "b"} {
			if got, _ := b.Get(name); got != all[name] {
				t.Errorf("%q is %d", name, got)
			}
		}
	}
}

// Arrays keep what is appended to each until it is cut, whatever the others do.
func TestArrays(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var s bounded.Arrays[int]
	var all [300]bounded.Array
	var want [len(all)][]int
	total := 0
	for step := range 100_000 {
		i := r.IntN(len(all))
		if n := len(want[i]); r.IntN(30) == 0 {
			n = r.IntN(n + 1)
			s.Cut(&all[i], n)
			total -= len(want[i]) - n
			want[i] = want[i][:n]
		} else if n < 1000 {
			s.Append(&all[i], step)
			total++
			want[i] = append(want[i], step)
		}
		if got := s.Of(all[i]); !slices.Equal(got, want[i]) || all[i].Len() != len(got) || s.Len() != total {
			t.Fatalf("step %d: array %d is %v of %d, want %v; %d values in all, want %d", step, i, got, all[i].Len(), want[i], s.Len(), total)
		}
	}
	for i := range all {
		if got := s.Of(all[i]); !slices.Equal(got, want[i]) {
			t.Errorf("array %d is %v at the end, want %v", i, got, want[i])
		}
	}
}

// What very many arrays took is returned when they are cut, and one that comes and goes takes memory once.
func TestArraysReturnMemory(t *testing.T) {
	const arrays, each = 50_000, 5
	var s bounded.Arrays[[3]int64]
	all := make([]bounded.Array, arrays)
	before := heap()
	for range each {
		for i := range all {
			s.Append(&all[i], [3]int64{1})
		}
	}
	const values = arrays * each * 24
	if took := heap() - before; took > values*11/10 {
		t.Errorf("%d values of 24 bytes take %d bytes", arrays*each, took)
	}
	for i := range all {
		s.Cut(&all[i], 0)
	}
	if left := heap() - before; left > values/20 {
		t.Errorf("%d of %d bytes are left when all arrays are empty", left, values)
	}
	once := func() {
		s.Append(&all[0], [3]int64{1})
		s.Cut(&all[0], 0)
	}
	if n := testing.AllocsPerRun(100, once); n > 0 {
		t.Errorf("%v allocations for a value that comes and goes, want 0", n)
	}
	runtime.KeepAlive(&s)
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
