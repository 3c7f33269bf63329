package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"mef/internal/event"
	"mef/internal/logtext"
)

// A file is an open log file and how far it was read.
type file struct {
	fd  int
	id  fileID
	pos position // behind the last line handed over

	// next is where reading goes on. It is ahead of pos.offset only in the middle of a line that is too long, which is
	// being skipped. last holds the bytes before next, at most tailSize: they are read again with what follows, and differ
	// if the file was cut and written anew in between.
	next     int64
	seen     int64 // where the file ended when it was last read
	last     []byte
	skipping bool
	lost     int          // lines given up since the last batch
	begun    bool         // a line was handed over since the last seek
	rest     logtext.Rest // of lines of a container that began before reading did

	// catchUp is where the file ended when it was first seen: lines up to there were written before, and have the log's
	// time. Those from before oldest are dropped.
	catchUp int64
	oldest  time.Time

	stream string    // of pos, once there is a first line
	wd     int32     // its watch
	moved  time.Time // when there last was something to read; for a file that was rotated away
}

func (f *file) close() { unix.Close(f.fd) }

// seek makes reading go on at p, whose content the file holds.
func (f *file) seek(p position) error {
	f.pos, f.next, f.skipping, f.stream = p, p.offset, false, ""
	f.last = f.last[:min(p.offset, tailSize)]
	n, err := pread(f.fd, f.last, p.offset-int64(len(f.last)))
	if err == nil && n < len(f.last) {
		err = errRewritten
	}
	if err == nil {
		err = f.lookBack()
	}
	return err
}

// maxBack is how many bytes before a position are searched for the beginning of a line of a container. Docker's records hold 16 KB, which
// escapes make longer.
const maxBack = 4 * MaxLine

// lookBack finds out whether reading goes on in the middle of a line of a container, of which Docker may make several records.
func (f *file) lookBack() error {
	f.begun, f.rest = false, logtext.Rest{}
	if !bytes.HasSuffix(f.last, []byte("\"}\n")) {
		return nil
	}
	buf := make([]byte, min(f.next, maxBack))
	n, err := pread(f.fd, buf, f.next-int64(len(buf)))
	if err == nil {
		f.rest = logtext.RestOf(buf[:n])
	}
	return err
}

// startAt makes reading begin at offset, where a line begins, of a file without a history.
func (f *file) startAt(offset int64) error {
	head, err := readHead(f.fd, offset)
	if err != nil {
		return err
	}
	f.pos.offset, f.pos.head = offset, head
	if err := f.seek(f.pos); err != nil {
		return err
	}
	f.pos.tail = sumOf(f.last)
	return nil
}

// atLine reports whether a line begins where reading goes on.
func (f *file) atLine() bool { return len(f.last) == 0 || f.last[len(f.last)-1] == '\n' }

// errRewritten reports that the file no longer has what was read of it.
var errRewritten = errors.New("file was cut or rewritten")

// read reads once, at most MaxLine+1 bytes, and cuts whole lines out of them into b. It returns whether the end of the
// file was reached. The batch may stay without lines.
func (f *file) read(b *event.Batch) (bytesRead int, end bool, err error) {
	known := len(f.last)
	buf := b.Buffer(known + MaxLine + 1)
	n, err := pread(f.fd, buf, f.next-int64(known))
	if err != nil {
		return 0, true, fmt.Errorf("read: %w", err)
	}
	if n < known || !bytes.Equal(buf[:known], f.last) {
		return 0, true, errRewritten
	}
	f.seen = f.next + int64(n-known)
	if n == known {
		return 0, true, nil
	}
	lineEnd, consumed := f.cut(b, buf[known:n])
	if lineEnd > 0 {
		f.advance(buf[:known+lineEnd])
	}
	f.next += int64(consumed)
	if upTo := buf[:known+consumed]; consumed > 0 {
		f.last = append(f.last[:0], upTo[max(0, len(upTo)-tailSize):]...)
	}
	if len(b.Lines) == 0 && !f.skipping && lineEnd == consumed && n == len(buf) && buf[n-1] == 0 {
		f.skipHole()
	}
	return consumed, n < len(buf), nil
}

// skipHole makes reading go on behind the hole that it is in. A file has one where it was cut under a writer that goes on at its old
// offset, and a user who may write a log can make it any size at no cost.
func (f *file) skipHole() {
	data, err := unix.Seek(f.fd, f.next, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) { // nothing but the hole
		data, err = unix.Seek(f.fd, 0, unix.SEEK_END)
	}
	if err != nil || data <= f.next+tailSize {
		return
	}
	f.next, f.last = data, append(f.last[:0], make([]byte, tailSize)...)
	f.pos.offset, f.pos.tail = data, sumOf(f.last)
}

// advance moves the position to the end of read, which begins with the bytes in f.last.
func (f *file) advance(read []byte) {
	f.pos.offset = f.next + int64(len(read)-len(f.last))
	f.pos.tail = sumOf(read[max(0, len(read)-tailSize):])
}

// cut appends the whole lines of data, which stands at f.next, to b. It returns how far data holds nothing but lines that are
// dealt with, and how far reading it is done: the rest, the beginning of a line, is read again together with its end.
func (f *file) cut(b *event.Batch, data []byte) (lineEnd, consumed int) {
	done := 0
	if f.skipping {
		i := bytes.IndexByte(data, '\n')
		if i < 0 {
			return 0, len(data)
		}
		f.skipping, done = false, i+1
		if !f.begun {
			f.rest = logtext.RestOfAny()
		}
	}
	for {
		// Where a file was cut under a writer that goes on at its old offset, there is a hole, which reads as NULs.
		for done < len(data) && data[done] == 0 {
			done++
		}
		i := bytes.IndexByte(data[done:], '\n')
		if i < 0 {
			break
		}
		line := bytes.TrimSuffix(data[done:done+i], []byte{'\r'})
		done += i + 1
		if len(line) > 0 && !f.rest.Has(line) {
			f.begun = true
			b.Lines = append(b.Lines, event.Line{Text: line, Offset: uint64(f.next) + uint64(done)})
		}
	}
	if len(data)-done > MaxLine {
		f.skipping = true
		f.lost++
		return done, len(data)
	}
	return done, done
}

// name returns the stream of the file's lines, once there is a first line.
func (f *file) name() (string, error) {
	if f.stream != "" || f.pos.offset == 0 {
		return f.stream, nil
	}
	if f.pos.head.n == 0 {
		head, err := readHead(f.fd, f.pos.offset)
		if err != nil {
			return "", fmt.Errorf("read: %w", err)
		}
		f.pos.head = head
	}
	f.stream = f.pos.stream()
	return f.stream, nil
}

// recentStart returns where the last lines lines of the first size bytes of the open file fd begin; fewer than 0 are all. It reads at most
// maxRecent bytes from the end: of lines that begin before them it finds none, and if that leaves no line, it returns size.
func recentStart(fd int, size int64, lines int) (int64, error) {
	if lines < 0 {
		return 0, nil
	}
	buf := make([]byte, MaxLine)
	oldest := max(0, size-maxRecent)
	start, found := size, -1 // the end of the last line is one line end too many
	for end := size; end > oldest; {
		begin := max(oldest, end-int64(len(buf)))
		n, err := pread(fd, buf[:end-begin], begin)
		if err != nil {
			return 0, err
		}
		for n > 0 {
			i := bytes.LastIndexByte(buf[:n], '\n')
			if i < 0 {
				break
			}
			start, found, n = begin+int64(i)+1, found+1, i
			if found == lines {
				return start, nil
			}
		}
		end = begin
	}
	if oldest == 0 {
		return 0, nil
	}
	return start, nil
}

// maxRecent bounds how far back recentStart reads.
const maxRecent = 4 << 20
