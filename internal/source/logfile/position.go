package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// How much of a file its checksums cover, in bytes.
const (
	headSize = 256 // of the first line
	tailSize = 64  // before the offset
)

// A fileID is a file's device and inode number.
type fileID struct{ dev, ino uint64 }

// A sum is the checksum of n bytes.
type sum struct {
	n    int
	hash uint64
}

func sumOf(data []byte) sum {
	h := fnv.New64a()
	h.Write(data)
	return sum{len(data), h.Sum64()}
}

// A position is a place in the history of a path: which file, and how far it was read. Its text is a Batch.Resume.
type position struct {
	// id and gen name the file, together with head. id is the file that stood behind the path when it was opened; it is a
	// name only, and stays when the content is found again under another number. gen counts the files behind the path, and
	// the times that one was cut to nothing and began again, so that the same place in a recycled inode has another name.
	id  fileID
	gen uint64

	offset int64 // just behind the last line that was dealt with
	head   sum   // of the first line, or its first headSize bytes; n is 0 as long as offset is
	tail   sum   // of the last tailSize bytes before offset
}

// version begins the text of a position.
const version = "1"

// String returns the position's text.
func (p position) String() string {
	b := make([]byte, 0, 96)
	b = append(b, version...)
	for _, v := range []uint64{p.id.dev, p.id.ino, p.gen, uint64(p.offset), uint64(p.head.n), p.head.hash, uint64(p.tail.n), p.tail.hash} {
		b = append(b, ':')
		b = strconv.AppendUint(b, v, 16)
	}
	return string(b)
}

// stream returns the Batch.Stream of the file's lines.
func (p position) stream() string {
	return fmt.Sprintf("file:%x:%x:%x:%x", p.id.dev, p.id.ino, p.gen, p.head.hash)
}

// parsePosition reads what String wrote.
func parsePosition(text string) (position, error) {
	parts := strings.Split(text, ":")
	if len(parts) != 9 || parts[0] != version {
		return position{}, fmt.Errorf("position %q: not of this version", text)
	}
	var v [8]uint64
	for i, part := range parts[1:] {
		var err error
		if v[i], err = strconv.ParseUint(part, 16, 64); err != nil {
			return position{}, fmt.Errorf("position %q: %w", text, err)
		}
	}
	p := position{fileID{v[0], v[1]}, v[2], int64(v[3]), sum{int(v[4]), v[5]}, sum{int(v[6]), v[7]}}
	if p.offset < 0 || p.head.n < 0 || p.head.n > headSize || p.tail.n < 0 || p.tail.n > tailSize || int64(p.tail.n) > p.offset {
		return position{}, fmt.Errorf("position %q: out of range", text)
	}
	return p, nil
}

// next returns the position at the beginning of the file id that follows behind the same path.
func (p position) next(id fileID) position { return position{id: id, gen: p.gen + 1} }

// holds reports whether the open file fd has the content that led to the position. At offset 0 nothing is known, and it is false.
func (p position) holds(fd int) bool {
	return p.offset > 0 && p.head.matches(fd, 0) && p.tail.matches(fd, p.offset-int64(p.tail.n))
}

// matches reports whether the sum is that of the bytes of the open file fd from offset on.
func (s sum) matches(fd int, offset int64) bool {
	var buf [headSize]byte
	n, err := pread(fd, buf[:s.n], offset)
	return err == nil && n == s.n && sumOf(buf[:n]) == s
}

// readHead returns the checksum of the beginning of the open file fd, of which the first size bytes are whole lines.
func readHead(fd int, size int64) (sum, error) {
	var buf [headSize]byte
	n, err := pread(fd, buf[:min(size, headSize)], 0)
	if err != nil {
		return sum{}, err
	}
	if i := bytes.IndexByte(buf[:n], '\n'); i >= 0 {
		n = i + 1
	}
	return sumOf(buf[:n]), nil
}

// pread reads at offset, once: fewer bytes than asked for mean the end of the file.
func pread(fd int, buf []byte, offset int64) (int, error) {
	for {
		n, err := unix.Pread(fd, buf, offset)
		if !errors.Is(err, unix.EINTR) {
			return max(n, 0), err
		}
	}
}
