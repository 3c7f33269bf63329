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
	"mef/internal/prefixset"
)

// A listFile is a file of a whitelist or blacklist directory as it was last read.
type listFile struct {
	Path     string
	Size     int64
	Modified time.Time
	Entries  []conf.Entry
	Errors   diag.Errors // lines that are no entries; or why the file cannot be read, and Entries are what it last had

	// Of a blacklist the set is kept, and no entry: there may be a million. Places and notes are read from the file on request.
	addrs   *prefixset.Packed // without networks that are too wide
	count   int               // entries
	useless int               // entries without effect: names, and networks that are too wide
	notable []string          // the first of these, with the reasons
	vain    *vain

	read time.Time
}

// A format is how a directory's files are kept: entry by entry, or as a set.
type format int

const (
	byEntry format = iota
	asSet
)

// readDir reads the files *.conf of a directory, in order. before is what it returned last: a file that has not changed since is
// not read again, and of one that cannot be read the entries stay. A directory that does not exist has no files. With an error
// before is returned as it is.
func readDir(dir string, before []listFile, keep format) ([]listFile, error) {
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
func (f listFile) again(now time.Time, keep format) listFile {
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
	if keep == byEntry {
		f.Entries, f.Errors = conf.ParseList(f.Path, text)
		f.count = len(f.Entries)
		return f
	}
	var addrs prefixset.Packer
	f.count, f.useless, f.notable, f.vain = 0, 0, nil, nil
	f.Errors = conf.EachEntry(f.Path, text, func(e conf.Entry, prefixes []netip.Prefix) bool {
		f.count++
		if why := useless(prefixes); why != "" {
			f.useless++
			f.notable = note(f.notable, &e, why)
			return true
		}
		for _, p := range prefixes {
			addrs.Add(p)
		}
		return true
	})
	f.addrs = addrs.Pack()
	return f
}

// each reads the file and calls do for each entry until it returns false. A file that cannot be read has none.
func (f *listFile) each(do func(conf.Entry, []netip.Prefix) bool) {
	if text, err := conf.ReadFile(f.Path, conf.MaxList); err == nil {
		conf.EachEntry(f.Path, text, do)
	}
}

// find returns the first entry with effect that has an address. It reads the file.
func (f *listFile) find(addr netip.Addr) (found conf.Entry, ok bool) {
	f.each(func(e conf.Entry, prefixes []netip.Prefix) bool {
		ok = useless(prefixes) == "" && slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
		found = e
		return !ok
	})
	return found, ok
}
