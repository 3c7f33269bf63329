package journal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"mef/internal/event"
)

// chunk is how much is read at once, in bytes. A pipe holds no more.
const chunk = 64 << 10

// An input cuts a stream in the export format into entries.
type input struct {
	entries []entry // what the last read brought, in order and of one stream
	rest    []byte  // what was read behind them: the beginning of an entry, or entries of another stream
	more    bool    // rest has whole entries
	err     error   // what comes after entries is malformed

	skip     skipper
	skipping bool // in an entry that is too large
	lost     int  // entries that were too large
}

// read reads once from r and parses what is there. The entries point into b.
func (in *input) read(b *event.Batch, r io.Reader) error {
	in.entries = in.entries[:0]
	if in.err != nil {
		return in.err
	}
	buf := b.Buffer(len(in.rest) + chunk)
	n := copy(buf, in.rest)
	if !in.more {
		m, err := r.Read(buf[n:])
		if m == 0 && err != nil {
			return err
		}
		n += m
	}
	in.more = false
	used := in.parse(buf[:n])
	in.rest = append(in.rest[:0], buf[used:n]...)
	return nil
}

// takeLost returns how many entries were too large since it was last asked.
func (in *input) takeLost() int {
	n := in.lost
	in.lost = 0
	return n
}

// parse finds the entries in data and returns how much of it is done with.
func (in *input) parse(data []byte) (used int) {
	for used < len(data) {
		if in.skipping {
			n, end, err := in.skip.next(data[used:])
			used += n
			if in.skipping, in.err = !end, err; !end {
				return used
			}
			continue
		}
		var e entry
		size, err := parseEntry(data[used:], &e)
		switch {
		case err != nil:
			in.err = err
			return used
		case size == 0 && len(data)-used <= maxEntry:
			return used
		case size == 0:
			in.skip, in.skipping = skipper{}, true
			in.lost++
			continue
		case size > 1 && len(in.entries) > 0 && !bytes.Equal(e.place.stream, in.entries[0].place.stream):
			in.more = true
			return used
		case size > 1:
			in.entries = append(in.entries, e)
		}
		used += size
	}
	return used
}

// A skipper finds the end of an entry without keeping it. It follows the format, for the entry's fields may hold anything, the
// text of other entries among it.
type skipper struct {
	value  uint64 // bytes of a field's value that are to come, and its line end
	inText bool   // in the middle of a line
}

// next passes over data and returns how much of it belongs to the entry, and whether the entry ends there. Of what it does not
// pass over, more is needed.
func (s *skipper) next(data []byte) (n int, end bool, err error) {
	for n < len(data) {
		if s.value > 0 {
			step := min(s.value, uint64(len(data)-n))
			s.value -= step
			n += int(step)
			continue
		}
		line, _, whole := bytes.Cut(data[n:], []byte{'\n'})
		text := s.inText || bytes.IndexByte(line, '=') >= 0
		behind := n + len(line) + 1
		switch {
		case whole && len(line) == 0 && !s.inText:
			return behind, true, nil
		case whole && text:
			s.inText = false
			n = behind
		case text:
			s.inText = true
			return len(data), false, nil
		case len(line) > maxName:
			return n, false, fmt.Errorf("%w: field name %.80q", errMalformed, line)
		case !whole || len(data)-behind < 8:
			return n, false, nil
		default:
			if s.value = binary.LittleEndian.Uint64(data[behind:]) + 1; s.value > maxField+1 {
				return n, false, fmt.Errorf("%w: field %.80q of %d bytes", errMalformed, line, s.value-1)
			}
			n = behind + 8
		}
	}
	return n, false, nil
}
