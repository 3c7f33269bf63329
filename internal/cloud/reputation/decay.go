package reputation

import "math"

// unit is the trust of an anchor. Trust and mass are whole numbers of it, so that every server computes the same from the same reports, on every
// kind of machine.
const unit = 1_000_000

// A decay holds the powers of two by which a value falls: entry i is 2^(-i/len), as a fraction of 2^32.
type decay []uint64

func newDecay(halfLife int) decay {
	d := make(decay, halfLife)
	for i := range d {
		d[i] = uint64(math.Round(math.Exp2(32 - float64(i)/float64(halfLife))))
	}
	return d
}

// of returns what is left of v after some steps, of which as many as d has entries halve it.
func (d decay) of(v, steps int64) int64 {
	if steps <= 0 {
		return v
	}
	halvings := steps / int64(len(d))
	if halvings > 62 {
		return 0
	}
	return int64(uint64(v) * d[steps%int64(len(d))] >> 32 >> halvings)
}
