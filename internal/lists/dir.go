package lists

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"mef/internal/conf"
	"mef/internal/conf/diag"
	"mef/internal/exempt"
	"mef/internal/prefixset"
)

// A listFile is a file of a whitelist or blacklist directory as it was last read.
type listFile struct {
	Path     string
	Size     int64
	Modified time.Time
	Entries  []conf.Entry
	Errors   diag.Errors // lines that are no entries; or why the file cannot be read, and Entries are what it last had

	// Of a blacklist, entries after the first maxKept are kept as a set only: there may be a million.
	rest    *prefixset.Packed // without networks that are too wide
	more    int               // how many entries these are
	useless int               // and how many of them ban nobody: names, and what is too wide

	read time.Time
}

// maxKept is how many entries of a blacklist file are kept one by one, with their places and notes.
const maxKept = 10_000

// readDir reads the files *.conf of a directory, in order. before is what it returned last: a file that has not changed since is
// not read again, and of one that cannot be read the entries stay. A directory that does not exist has no files. With an error
// before is returned as it is. keep bounds the entries of a file that are kept one by one.
func readDir(dir string, before []listFile, keep int) ([]listFile, error) {
	names, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return before, errors.New(conf.PathError(err))
	}
	if e := conf.CheckDirOwner(dir); e != nil {
		return before, e
	}
	var files []listFile
	for _, e := range names {
		if !conf.IsConfFile(e.Name()) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		last := listFile{Path: path}
		if i := slices.IndexFunc(before, func(f listFile) bool { return f.Path == path }); i >= 0 {
			last = before[i]
		}
		files = append(files, last.again(time.Now(), keep))
	}
	return files, nil
}

// settled is how old a change of a file must be for its time and size to prove that nothing came after it: clocks of file
// systems are coarse.
const settled = 2 * time.Second

// again returns the file as it is now.
func (f listFile) again(now time.Time, keep int) listFile {
	if e := conf.CheckOwner(f.Path); e != nil {
		f.Errors, f.read = diag.Errors{e}, time.Time{}
		return f
	}
	info, err := os.Stat(f.Path)
	if err == nil && info.Size() == f.Size && info.ModTime().Equal(f.Modified) && f.read.Sub(f.Modified) > settled {
		return f
	}
	var text []byte
	if err == nil {
		text, err = conf.ReadFile(f.Path, conf.MaxList)
	}
	if err != nil {
		f.Errors, f.read = diag.Errors{conf.FileError(f.Path, err)}, time.Time{}
		return f
	}
	f.Size, f.Modified, f.read = info.Size(), info.ModTime(), now
	var rest prefixset.Packer
	f.more, f.useless = 0, 0
	f.Entries, f.Errors = conf.ParseLongList(f.Path, text, keep, func(e conf.Entry) {
		prefixes, ok := e.Prefixes()
		if f.more++; !ok || slices.ContainsFunc(prefixes, exempt.TooWide) {
			f.useless++
			return
		}
		for _, p := range prefixes {
			rest.Add(p)
		}
	})
	f.rest = rest.Pack()
	return f
}

// lineOf returns the place of the first entry after the kept ones that has an address; false if none has. It reads the file.
func (f *listFile) lineOf(addr netip.Addr) (at conf.Pos, found bool) {
	text, err := conf.ReadFile(f.Path, conf.MaxList)
	if err != nil {
		return at, false
	}
	conf.ParseLongList(f.Path, text, 0, func(e conf.Entry) {
		if prefixes, _ := e.Prefixes(); !found && slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			at, found = e.Pos, true
		}
	})
	return at, found
}
