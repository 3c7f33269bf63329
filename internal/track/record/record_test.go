package record_test

import (
	"bytes"
	"math"
	"testing"

	"mef/internal/track/record"
)

// What is written is read again, each record by itself, and a value that ends early is an error.
func TestRecords(t *testing.T) {
	var p record.Pack
	for i := range 3 {
		p.Begin('x')
		p.Uint(uint64(i))
		p.Value(record.Version)
		p.Int(-7)
		p.Uint(math.MaxUint64)
		p.Float(1.5)
		p.Bool(true)
		p.Text("héllo")
		p.End(i == 1)
	}
	p.Begin('y')
	p.Remove()
	if n := len(p.Records); n != 4 || p.Records[3].Value != nil || !bytes.Equal(p.Records[3].Key, []byte("y")) {
		t.Fatalf("%d records, the last is %+v", n, p.Records[n-1])
	}
	for i, rec := range p.Records[:3] {
		if !bytes.Equal(rec.Key, []byte{'x', byte(i)}) || rec.Value[0] != record.Version || rec.Spare != (i == 1) {
			t.Errorf("record %d: %+v", i, rec)
		}
		read := func(b []byte) bool {
			r := record.Reader{Rest: b}
			same := r.Int() == -7 && r.Uint() == math.MaxUint64 && r.Float() == 1.5 && r.Bool() && r.Text() == "héllo"
			return same && r.Err == nil && len(r.Rest) == 0
		}
		if !read(rec.Value[1:]) {
			t.Errorf("record %d is read otherwise than it was written", i)
		}
		for cut := 1; cut < len(rec.Value); cut++ {
			if read(rec.Value[1:cut]) {
				t.Errorf("record %d, cut to %d bytes, is read without an error", i, cut)
			}
		}
	}
	p.BeginNumber('z', 1<<40+7)
	p.Remove()
	for key, want := range map[string]uint64{string(p.Records[4].Key[1:]): 1<<40 + 7, "1234567": 0, "123456789": 0} {
		if r := (record.Reader{}); r.Number([]byte(key)) != want || (r.Err == nil) != (want != 0) {
			t.Errorf("the key %q is not read as the number %d: %v", key, want, r.Err)
		}
	}
	for _, f := range []float32{-1, float32(math.Inf(1)), float32(math.NaN())} {
		var w record.Writer
		w.Float(f)
		if r := (record.Reader{Rest: w}); r.Float() != 0 || r.Err == nil {
			t.Errorf("%v is read as points", f)
		}
	}
}
