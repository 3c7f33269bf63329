// Package geodb reads databases of countries and autonomous systems, files in the MaxMind DB format (mmdb).
//
// Such a file is a binary tree, in which the bits of an address lead to a record. What a record contains differs between publishers: MaxMind
// and DB-IP have country.iso_code, and autonomous_system_number in a second file; IPinfo has country_code and an asn such as "AS64500"; others
// mix these. The package knows all of these names.
//
// The files are read by pread, a few pages at a time, and are not mapped into memory: a file that is cut while it is read leads to an error
// and not to a signal, and a file of 100 MB takes no more memory than one of 1 MB. Nothing in a file is trusted: each count, offset and depth
// is bounded. Nothing is kept between uses either: who opens a database gets the newest version of its files.
package geodb

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"mef/internal/conf/diag"
)

// A Place is what databases have about an address. The zero value is nothing.
type Place struct {
	Country string `json:"country,omitempty"` // two capital letters of ISO 3166-1
	AS      uint32 `json:"as,omitempty"`      // number of the autonomous system
	ASName  string `json:"as_name,omitempty"` // whatever the publisher wrote, at most 64 bytes
}

// A DB is a list of open files. It belongs to one goroutine.
type DB struct{ files []*file }

// Open opens files. The error joins those of all files that cannot be used; db has the others and is never nil. Where the networks of a
// group decide who is banned, conf.CheckOwner has to be asked before about each path.
func Open(paths ...string) (db *DB, err error) {
	db = &DB{}
	var errs []error
	for _, path := range paths {
		f, err := openFile(path)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", diag.Name(path), bare(err)))
			continue
		}
		db.files = append(db.files, f)
	}
	return db, errors.Join(errs...)
}

// bare returns an error without the path that Open names.
func bare(err error) error {
	if at := new(fs.PathError); errors.As(err, &at) {
		return at.Err
	}
	return err
}

// Close closes the files.
func (db *DB) Close() {
	for _, f := range db.files {
		f.close()
	}
}

// A Source describes a file of a DB.
type Source struct {
	Path      string
	Type      string    // as the publisher calls it, such as GeoLite2-Country
	Built     time.Time // when the publisher made it
	Countries bool      // it is the one that is asked for countries
	Networks  bool      // it is the one that is asked for autonomous systems
}

// Sources describes the files, in order.
func (db *DB) Sources() (all []Source) {
	for _, f := range db.files {
		all = append(all, Source{Path: f.path, Type: f.meta.kind, Built: time.Unix(f.meta.built, 0), Countries: f == db.with(countries), Networks: f == db.with(networks)})
	}
	return all
}

// What a file knows.
const (
	countries = 1 << iota
	networks
)

// with returns the first file that knows something, nil if none does.
func (db *DB) with(what int) *file {
	if i := slices.IndexFunc(db.files, func(f *file) bool { return f.knows&what != 0 }); i >= 0 {
		return db.files[i]
	}
	return nil
}

// Lookup returns what the files have about an address: the first file with countries has the last word about these, and the first one with
// autonomous systems about those. The error is about files that are damaged; what the others have is returned nevertheless.
func (db *DB) Lookup(addr netip.Addr) (p Place, err error) {
	addr = addr.Unmap().WithZone("")
	if c := db.with(countries); c != nil && addr.IsValid() {
		found, e := c.lookup(addr)
		p.Country, err = found.Country, e
		if c == db.with(networks) {
			p.AS, p.ASName = found.AS, found.ASName
			return p, err
		}
	}
	if n := db.with(networks); n != nil && addr.IsValid() {
		found, e := n.lookup(addr)
		p.AS, p.ASName, err = found.AS, found.ASName, errors.Join(err, e)
	}
	return p, err
}

// openFile opens a file and finds out what it knows.
func openFile(path string) (*file, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file") // opening a pipe would block
	}
	fd, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	f := &file{path: path, fd: fd, in: &pages{r: fd}}
	if info, err = fd.Stat(); err == nil { // of the file that was opened
		err = f.parse(info.Size())
	}
	if err != nil {
		fd.Close()
		return nil, err
	}
	return f, nil
}

// parse reads the metadata of a file of size bytes, and finds out what its records have.
func (f *file) parse(size int64) (err error) {
	if f.meta, err = readMeta(f.in, size); err != nil {
		return err
	}
	f.data = f.meta.treeSize() + 16
	f.end = f.meta.at
	if f.v4, f.v4bits, err = f.rootOf4(); err != nil {
		return err
	}
	return f.sample()
}

// sampled is how many records are looked at to find out what a file knows.
const sampled = 2048

// sample finds out what a file knows. What is damaged further on is not noticed here.
func (f *file) sample() error {
	n := 0
	enough := errors.New("enough")
	err := f.walk(func(_ netip.Prefix, p Place) error {
		if p.Country != "" {
			f.knows |= countries
		}
		if p.AS != 0 {
			f.knows |= networks
		}
		if n++; n == sampled {
			return enough
		}
		return nil
	})
	switch {
	case err != nil && err != enough:
		return err
	case f.knows == 0:
		return fmt.Errorf("its records (%s) have neither countries nor autonomous systems by any name that is known", quote(f.meta.kind))
	}
	return nil
}

// quote returns what a publisher wrote, as printable ASCII in quotes.
func quote(s string) string { return fmt.Sprintf("%+q", s) }

// printable returns at most 64 bytes of s without what cannot be printed.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
	for len(s) > maxName {
		_, last := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-last]
	}
	return s
}

const maxName = 64 // bytes
