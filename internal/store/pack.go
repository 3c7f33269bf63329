package store

import "encoding/binary"

// Evidence is much the same line five times, and it is most of the file. pack takes out what has stood before: after LZ77
// (Ziv and Lempel, 1977), in its simplest form, because unpacking a hundred thousand bans must not delay the start.
//
// The packed form is the length of the text and then pieces, each a number of literal bytes, these bytes, and a copy from
// the text so far: its length and how far back it begins. The last piece ends with its literals. Numbers are varints.

const (
	packMin   = 5       // shortest copy: it takes three to four bytes
	packBits  = 9       // of the hash of packMin bytes
	packLimit = 1 << 16 // longest text
)

// pack appends the packed form of text, whose length is less than packLimit.
func pack(w, text []byte) []byte {
	w = binary.AppendUvarint(w, uint64(len(text)))
	var places [1 << packBits]uint16 // where a hash was seen last, plus one
	literal := 0                     // where the piece begins
	for i := 0; i+8 <= len(text); {
		h := binary.LittleEndian.Uint64(text[i:]) << (64 - 8*packMin) * 0x9E3779B97F4A7C15 >> (64 - packBits)
		from := int(places[h]) - 1
		places[h] = uint16(i + 1)
		n := 0
		if from >= 0 {
			for i+n < len(text) && text[from+n] == text[i+n] {
				n++
			}
		}
		if n < packMin {
			i++
			continue
		}
		w = binary.AppendUvarint(w, uint64(i-literal))
		w = append(w, text[literal:i]...)
		w = binary.AppendUvarint(w, uint64(n))
		w = binary.AppendUvarint(w, uint64(i-from))
		i += n
		literal = i
	}
	w = binary.AppendUvarint(w, uint64(len(text)-literal))
	return append(w, text[literal:]...)
}

// unpack returns the text that pack packed, in the memory of buf if it fits.
func unpack(buf, packed []byte) ([]byte, error) {
	size, packed, err := number(packed, packLimit)
	if err != nil {
		return nil, err
	}
	text := buf[:0]
	for {
		var n, back int
		if n, packed, err = number(packed, len(packed)); err != nil || n > len(packed) {
			return nil, errRecord
		}
		text, packed = append(text, packed[:n]...), packed[n:]
		if len(packed) == 0 {
			break
		}
		if n, packed, err = number(packed, size-len(text)); err != nil {
			return nil, err
		}
		if back, packed, err = number(packed, len(text)); err != nil || back == 0 {
			return nil, errRecord
		}
		for back < n { // what is copied begins to repeat itself
			text = append(text, text[len(text)-back:]...)
			n -= back
			back *= 2
		}
		from := len(text) - back
		text = append(text, text[from:from+n]...)
	}
	if len(text) != size {
		return nil, errRecord
	}
	return text, nil
}

// number reads a varint that is at most limit.
func number(b []byte, limit int) (n int, rest []byte, err error) {
	v, size := binary.Uvarint(b)
	if size <= 0 || limit < 0 || v > uint64(limit) {
		return 0, nil, errRecord
	}
	return int(v), b[size:], nil
}
