package logtext

import "bytes"

// A Carrier takes lines out of {"log":"...\n","stream":"stdout","time":"..."}, as Docker's json-file driver writes them. The zero value
// is ready. It belongs to one goroutine and reads one log.
//
// Docker cuts what a container writes into records of 16 KB, and only the record that ends a line ends with a line end
// (daemon/logger/copier.go). A client that makes a service log a long line could otherwise choose what the next record begins with, so
// records are joined until the line is complete. After a gap in the log, what is left of a line is dropped. Where reading begins, see Rest.
type Carrier struct {
	reader  *Reader
	streams [2]carried // stdout and stderr
	end     uint64     // of the last record
}

// A carried is a line of which some records have come.
type carried struct {
	text []byte
	open bool // a line has begun and has not ended
	lost bool // it is not complete, or too long
}

// maxCarried is the length in bytes of the longest line that is joined of several records.
const maxCarried = 64 << 10

// Cut returns the line that is carried; a line without carrier is returned as it is. end is the place behind the record and its line end in
// the file, in bytes, or the number of the line; 0 if it is not known. Cut reports false if the line is not complete yet, or begins like the carrier and is not that. The escape
// sequences of colours are removed from the text, which is valid until the next call.
func (c *Carrier) Cut(line []byte, end uint64) (text []byte, ok bool) {
	if !isRecord(line) {
		return line, true
	}
	c.follow(line, end)
	stream, text, whole, ok := c.read(line)
	if !ok {
		return nil, false
	}
	s := &c.streams[stream]
	if s.lost = s.lost || len(s.text)+len(text) > maxCarried; s.lost {
		s.text, s.open, s.lost = nil, !whole, !whole
		return nil, false
	}
	if !whole {
		s.text, s.open = append(s.text, text...), true
		return nil, false
	}
	if s.open {
		text = append(s.text, text...)
		*s = carried{}
	}
	return withoutColours(bytes.TrimSuffix(text, []byte("\r"))), true
}

// read returns the stream of a record, 0 or 1, and its text without the line end; whole reports whether it ends a line. It reports false if
// line is no record.
func (c *Carrier) read(line []byte) (stream int, text []byte, whole, ok bool) {
	if c.reader == nil {
		c.reader = new(Reader)
		for _, name := range [...]string{"log", "stream", "time"} {
			c.reader.Want([]string{name})
		}
	}
	if !c.reader.Read(bytes.TrimRight(line, "\r\n ")) {
		return 0, nil, false, false
	}
	for _, value := range c.reader.Values {
		if value.Kind != String {
			return 0, nil, false, false
		}
	}
	if string(c.reader.Values[1].Text) == "stderr" {
		stream = 1
	}
	text, whole = bytes.CutSuffix(c.reader.Values[0].Text, []byte("\n"))
	return stream, text, whole, true
}

// follow takes note of a record's place. If it begins behind the end of the last one, a record between them was too long to be read, and those
// to come may be the rest of a line. Places that are counted in lines never look like that.
func (c *Carrier) follow(line []byte, end uint64) {
	if length := uint64(len(line)) + 1; c.end > 0 && end > length && end-length > c.end {
		for i := range c.streams {
			c.streams[i] = carried{lost: true}
		}
	}
	c.end = end
}

// isRecord reports whether a line begins as Docker's records do.
func isRecord(line []byte) bool { return bytes.HasPrefix(line, []byte(`{"log":"`)) }

// A Rest is what is still to come of lines that began before reading did, in a log of Docker's: their ends, which a client may have chosen,
// are no lines. The zero value holds nothing. It belongs to one goroutine and one log.
type Rest struct {
	carrier Carrier
	open    [2]bool // by stream
}

// RestOf returns the rest of the lines that are not complete in before, the records in front of the place where reading begins. Before may
// begin in the middle of a record.
func RestOf(before []byte) (r Rest) {
	for line := range bytes.Lines(before) {
		if !isRecord(line) {
			continue
		}
		if stream, _, whole, ok := r.carrier.read(line); ok {
			r.open[stream] = !whole
		}
	}
	return r
}

// RestOfAny returns the rest of lines of which nothing is known: the first one of each stream.
func RestOfAny() Rest { return Rest{open: [2]bool{true, true}} }

// Has reports whether a record belongs to the rest, which ends with the end of a line. Records are passed in the order of the log.
func (r *Rest) Has(line []byte) bool {
	if r.open == [2]bool{} {
		return false
	}
	if !isRecord(line) {
		r.open = [2]bool{}
		return false
	}
	stream, _, whole, ok := r.carrier.read(line)
	if !ok || !r.open[stream] {
		return false
	}
	r.open[stream] = !whole
	return true
}

// withoutColours removes the escape sequences by which programs choose colours on a terminal (SGR of ECMA-48), in place.
func withoutColours(text []byte) []byte {
	at := bytes.IndexByte(text, 0x1b)
	if at < 0 {
		return text
	}
	kept := text[:at]
	for i := at; i < len(text); {
		if n := colour(text[i:]); n > 0 {
			i += n
			continue
		}
		kept = append(kept, text[i])
		i++
	}
	return kept
}

// colour returns the length of the escape sequence that s begins with, 0 if there is none.
func colour(s []byte) int {
	if len(s) < 3 || s[0] != 0x1b || s[1] != '[' {
		return 0
	}
	for i := 2; i < len(s); i++ {
		switch c := s[i]; {
		case c == 'm':
			return i + 1
		case c != ';' && !isDigit(c):
			return 0
		}
	}
	return 0
}
