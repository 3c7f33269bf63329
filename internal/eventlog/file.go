package eventlog

import (
	"bytes"
	"fmt"
	"os"
	"syscall"

	"mef/internal/control"
	"mef/internal/printable"
)

// A File is a Sink of JSON lines. It is opened again when it was renamed or removed, so that logrotate needs no signal.
type File struct {
	path string
	f    *os.File
	buf  bytes.Buffer
	torn bool // the last write ended inside a line
}

// NewFile returns the sink that appends to the regular file at path, and creates it with mode 0640.
func NewFile(path string) *File { return &File{path: path} }

// Open opens the file. Only a regular file is opened: a pipe would wait for its reader.
func (l *File) Open() error {
	l.close()
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0o640)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", l.path)
	}
	if err != nil {
		f.Close()
		return err
	}
	l.f = f
	return nil
}

// Write appends a line for each record.
func (l *File) Write(recs []control.Record) error {
	if !l.current() {
		if err := l.Open(); err != nil {
			return err
		}
	}
	l.buf.Reset()
	if l.torn {
		l.buf.WriteByte('\n')
	}
	for i := range recs {
		line, err := printable.Marshal(&recs[i])
		if err != nil {
			return err
		}
		l.buf.Write(line)
		l.buf.WriteByte('\n')
	}
	n, err := l.f.Write(l.buf.Bytes())
	l.torn = err != nil && (n > 0 || l.torn)
	if l.buf.Cap() > keptBuffer {
		l.buf = bytes.Buffer{}
	}
	return err
}

// keptBuffer is how large a buffer is kept between two writes, in bytes.
const keptBuffer = 64 << 10

// Close closes the file.
func (l *File) Close() error { return l.close() }

func (l *File) close() error {
	if l.f == nil {
		return nil
	}
	err := l.f.Close()
	l.f = nil
	return err
}

// current reports whether the open file is still the one at the path.
func (l *File) current() bool {
	if l.f == nil {
		return false
	}
	open, err := l.f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(l.path)
	return err == nil && os.SameFile(open, there)
}
