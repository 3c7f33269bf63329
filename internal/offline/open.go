package offline

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// maxWindow bounds the memory that a compressed log may ask for.
const maxWindow = 128 << 20

// Open opens a log for Play. It may be compressed by gzip, zstd or xz, whatever its name. progress, which may be nil, is called with
// the bytes of the file that have been read.
func Open(path string, progress func(n int)) (Input, io.Closer, error) {
	f, err := os.Open(path)
	if err != nil {
		return Input{}, nil, err
	}
	in := Input{Name: path}
	if info, err := f.Stat(); err == nil {
		in.Near = info.ModTime()
	}
	if in.Reader, err = Decompress(&meter{f, progress}); err != nil {
		f.Close()
		return Input{}, nil, fmt.Errorf("%s: %w", path, err)
	}
	return in, f, nil
}

// A meter reports what is read through it.
type meter struct {
	io.Reader
	progress func(n int)
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.Reader.Read(p)
	if m.progress != nil {
		m.progress(n)
	}
	return n, err
}

// Decompress returns a reader of what r holds, decompressed if it begins as gzip, zstd or xz do.
func Decompress(r io.Reader) (io.Reader, error) {
	b := bufio.NewReaderSize(r, 64<<10) // less than a reader of it reads at once: plain text is not copied
	head, err := b.Peek(6)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("read: %w", err)
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return gzip.NewReader(b)
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, fmt.Errorf("zstd: %w", err)
		}
		return z, nil
	case bytes.Equal(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return xz.NewReader(b)
	}
	return b, nil
}
