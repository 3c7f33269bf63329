package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"mef/internal/event"
)

// outputFields are the fields that journalctl is asked for. It adds those that begin with two underscores.
const outputFields = "MESSAGE,MESSAGE_ID,N_DROPPED,SYSLOG_IDENTIFIER,CONTAINER_NAME,_TRANSPORT,_SYSTEMD_UNIT,_SYSTEMD_CGROUP,_UID,_PID"

// messageDropped is the MESSAGE_ID with which journald reports that a service logged too much (SD_MESSAGE_JOURNAL_DROPPED).
const messageDropped = "a596d6fe7bfa4994828e72309e95d61e"

// maxEntry is the size of the largest entry that is handed over, in bytes of export format.
const maxEntry = 1 << 20

// errMalformed reports that what was read is not the export format.
var errMalformed = errors.New("journalctl does not write the export format")

// An entry is what was read of one journal entry. Its slices point into the data that was parsed.
type entry struct {
	event.Entry
	message   []byte // nil: the entry has none
	cursor    []byte
	place     place // in cursor
	transport []byte
	group     []byte // the sender's control group
	messageID []byte
	dropped   []byte
	realtime  int64 // when journald received it, in microseconds since 1970
}

// A place is the position of an entry, as its cursor has it.
type place struct {
	stream []byte // sequence number ID
	seq    uint64 // sequence number
	same   []byte // what stays when the entry is copied to another file: boot, times, checksum
}

// parsePlace reads a cursor: "s=ID;i=NUMBER;b=BOOT;m=MONOTONIC;t=REALTIME;x=CHECKSUM", the numbers in hexadecimal.
func parsePlace(cursor []byte) (place, bool) {
	stream, rest, ok := bytes.Cut(cursor, []byte(";i="))
	number, same, ok2 := bytes.Cut(rest, []byte(";"))
	stream, ok3 := bytes.CutPrefix(stream, []byte("s="))
	seq, ok4 := parseUint(number, 16)
	plain := !bytes.ContainsFunc(cursor, func(r rune) bool { return r <= ' ' || r > '~' })
	return place{stream, seq, same}, ok && ok2 && ok3 && ok4 && plain && bytes.HasPrefix(same, []byte("b="))
}

// sameEntry reports whether two cursors are those of one entry. journald moves entries from /run to /var when it may write there,
// where they get other sequence numbers.
func sameEntry(cursor []byte, other string) bool {
	a, ok := parsePlace(cursor)
	b, ok2 := parsePlace([]byte(other))
	return ok && ok2 && bytes.Equal(a.same, b.same)
}

// parseUint reads a number without allocating.
func parseUint(text []byte, base uint64) (n uint64, ok bool) {
	for _, c := range text {
		digit := uint64(strings.IndexByte("0123456789abcdef", c))
		if digit >= base || n > (math.MaxUint64-digit)/base {
			return 0, false
		}
		n = n*base + digit
	}
	return n, len(text) > 0
}

// received returns when journald received the entry.
func (e *entry) received() time.Time { return time.UnixMicro(e.realtime) }

// suppressed returns how many entries journald reports that it dropped, because a service logged too much; 0 if the entry reports nothing
// of the kind. Only journald's own entries have the transport "driver".
func (e *entry) suppressed() int {
	if string(e.transport) != "driver" || string(e.messageID) != messageDropped {
		return 0
	}
	text := e.dropped
	if text == nil { // before version 242 the number stands in the text alone
		text, _, _ = bytes.Cut(bytes.TrimPrefix(e.message, []byte("Suppressed ")), []byte(" "))
	}
	n, ok := parseUint(text, 10)
	if !ok || n == 0 || n > math.MaxInt32 {
		return 1
	}
	return int(n)
}

// parseEntry reads one entry from the beginning of data and returns its length. The length is 0 if data ends before the entry
// does.
//
// An entry is a field a line, and ends with an empty line. A field is NAME=value, or, if the value is not plain text, the name
// alone, then the value's length as 64 bits little endian, the value and a line end. So no value can pretend to be a field.
func parseEntry(data []byte, e *entry) (size int, err error) {
	*e = entry{Entry: event.Entry{UID: event.NoUID}}
	for {
		name, value, n, err := parseField(data[size:])
		if err != nil || n == 0 {
			return 0, err
		}
		size += n
		if n == 1 {
			break
		}
		e.set(name, value)
	}
	var ok bool
	if e.place, ok = parsePlace(e.cursor); !ok && size > 1 {
		return 0, fmt.Errorf("%w: cursor %.200q", errMalformed, e.cursor)
	}
	// A control group that belongs to no unit is another's than this host's: that of a container which was given the socket of the log.
	if e.Unit == nil && len(bytes.Trim(e.group, "/")) > 0 {
		e.Unit = e.group
	}
	return size, nil
}

// parseField reads one line end or field from the beginning of data and returns its length, which is 0 if data ends before
// it does.
func parseField(data []byte) (name, value []byte, size int, err error) {
	end := bytes.IndexByte(data, '\n')
	if end < 0 {
		return nil, nil, 0, nil
	}
	if end == 0 {
		return nil, nil, 1, nil
	}
	name, value, text := bytes.Cut(data[:end], []byte{'='})
	if !isName(name) {
		return nil, nil, 0, fmt.Errorf("%w: field name %.80q", errMalformed, name)
	}
	if text {
		return name, value, end + 1, nil
	}
	data = data[end+1:]
	if len(data) < 8 {
		return nil, nil, 0, nil
	}
	length := binary.LittleEndian.Uint64(data)
	if length > maxField {
		return nil, nil, 0, fmt.Errorf("%w: field %s of %d bytes", errMalformed, name, length)
	}
	data = data[8:]
	if uint64(len(data)) < length+1 {
		return nil, nil, 0, nil
	}
	if data[length] != '\n' {
		return nil, nil, 0, fmt.Errorf("%w: no line end behind field %s", errMalformed, name)
	}
	return name, data[:length], end + 1 + 8 + int(length) + 1, nil
}

// maxField is the size of the largest field there can be: journald takes no larger ones.
const maxField = 768 << 20

// isName reports whether name can be a field's name.
func isName(name []byte) bool {
	for _, c := range name {
		if (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return len(name) > 0 && len(name) <= maxName
}

// maxName is the length of the longest field name.
const maxName = 64

// set notes a field. A sender may log a field of his own twice: the first counts.
func (e *entry) set(name, value []byte) {
	switch string(name) {
	case "MESSAGE":
		setOnce(&e.message, value)
	case "SYSLOG_IDENTIFIER":
		setOnce(&e.Identifier, value)
	case "CONTAINER_NAME":
		setOnce(&e.Container, value)
	case "MESSAGE_ID":
		setOnce(&e.messageID, value)
	case "N_DROPPED":
		setOnce(&e.dropped, value)
	case "_SYSTEMD_UNIT":
		setOnce(&e.Unit, value)
	case "_SYSTEMD_CGROUP":
		setOnce(&e.group, value)
	case "_TRANSPORT":
		setOnce(&e.transport, value)
	case "__CURSOR":
		setOnce(&e.cursor, value)
	case "_UID":
		if n, ok := parseUint(value, 10); ok && n < uint64(event.NoUID) {
			e.UID = uint32(n)
		}
	case "_PID":
		if n, ok := parseUint(value, 10); ok && n <= math.MaxUint32 {
			e.PID = uint32(n)
		}
	case "__REALTIME_TIMESTAMP":
		if n, ok := parseUint(value, 10); ok && n <= math.MaxInt64 {
			e.realtime = int64(n)
		}
	}
}

// setOnce sets a field that is not set. A value is never nil, not even an empty one.
func setOnce(field *[]byte, value []byte) {
	if *field == nil {
		*field = value
	}
}
