package history

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"syscall"
	"time"
)

// The history is one file of a fixed size, with a ring of slots for each kind of data. A slot has a checksum, the time that it is about, and its
// length; it is written at once. So a process that is killed, or a damaged file, costs single slots, which read as empty.
//
//	header  the names of services that have series
//	minutes a row of counters for each minute of a day
//	hours   the same for each hour of a month
//	days    the same for each day of a year
//	hourly  the top tables of each hour of a day
//	daily   the same for each day of a year
//	bans    the latest bans and unbans
//	drops   packets dropped by service and family, for each minute, hour and day that has a row
//
// An earlier version made files without the last part. They get it when they are opened, and nothing in them is lost.
type ring struct {
	at    int64 // in the file
	size  int64 // of a slot
	slots int64
	step  int64 // seconds that a slot is about; 0: slots are numbered
}

const (
	slotHead = 4 + 8 + 4 // checksum, time, length
	rowSize  = slotHead + oldCells*8
	dropSize = slotHead + (cells-oldCells)*8
	topSize  = slotHead + len(dimensions)*(2+saved*(1+maxLabel+2*10+2*6))
	banSize  = 512
)

var (
	header  = ring{at: 0, size: 4096, slots: 1}
	minutes = header.next(rowSize, 24*60, 60)
	hours   = minutes.next(rowSize, 31*24, 3600)
	days    = hours.next(rowSize, 366, 24*3600)
	hourly  = days.next(int64(topSize), 25, 3600)
	daily   = hourly.next(int64(topSize), 366, 24*3600)
	bans    = daily.next(banSize, maxBans, 0)

	minuteDrops = bans.next(dropSize, minutes.slots, minutes.step)
	hourDrops   = minuteDrops.next(dropSize, hours.slots, hours.step)
	dayDrops    = hourDrops.next(dropSize, days.slots, days.step)
)

// next returns a ring behind this one.
func (r ring) next(size, slots, step int64) ring { return ring{r.end(), size, slots, step} }

func (r ring) end() int64 { return r.at + r.size*r.slots }

// slot returns where a slot is.
func (r ring) slot(key int64) int64 {
	n := key
	if r.step > 0 {
		n = key / r.step
	}
	return r.at + n%r.slots*r.size
}

// start returns the beginning of the slot that has a time.
func (r ring) start(t time.Time) int64 { return t.Unix() - t.Unix()%r.step }

// write writes the slot of a key. Data that does not fit is an error of the caller.
func (r ring) write(f io.WriterAt, key int64, data []byte) error {
	if int64(len(data)) > r.size-slotHead {
		return errors.New("a slot of the history is too small")
	}
	b := make([]byte, 4, slotHead+len(data))
	b = binary.BigEndian.AppendUint64(b, uint64(key))
	b = append(binary.BigEndian.AppendUint32(b, uint32(len(data))), data...)
	binary.BigEndian.PutUint32(b, crc32.ChecksumIEEE(b[4:]))
	_, err := f.WriteAt(b, r.slot(key))
	return err
}

// read returns the data of the slot of a key, nil if it has none, that of another time, or is damaged. buf is used if it is large enough.
func (r ring) read(f io.ReaderAt, key int64, buf []byte) []byte {
	found, data := r.readAt(f, r.slot(key), buf)
	if found != key {
		return nil
	}
	return data
}

func (r ring) readAt(f io.ReaderAt, at int64, buf []byte) (key int64, data []byte) {
	b := slices.Grow(buf[:0], int(r.size))[:r.size]
	n, _ := f.ReadAt(b, at) // what is not there is damaged
	if b = b[:n]; n < slotHead {
		return 0, nil
	}
	length := int64(binary.BigEndian.Uint32(b[12:]))
	if length > int64(n)-slotHead || crc32.ChecksumIEEE(b[4:slotHead+length]) != binary.BigEndian.Uint32(b) {
		return 0, nil
	}
	return int64(binary.BigEndian.Uint64(b[4:])), b[slotHead : slotHead+length]
}

// openFile opens the file, or makes it. One that is no regular file, or too long, is not ours.
func openFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New(path + " is not a regular file; remove it")
	}
	if err == nil && info.Size() != dayDrops.end() {
		err = f.Truncate(dayDrops.end()) // a file with holes, which takes no space yet
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
