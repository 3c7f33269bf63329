package lists

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"mef/internal/conf"
	"mef/internal/conf/diag"
)

// A listFile is a file of a whitelist or blacklist directory as it was last read.
type listFile struct {
	Path     string
	Size     int64
	Modified time.Time
	Entries  []conf.Entry
	Errors   diag.Errors // lines that are no entries; or why the file cannot be read, and Entries are what it last had

	read time.Time
}

// readDir reads the files *.conf of a directory, in order. before is what it returned last: a file that has not changed since is
// not read again, and of one that cannot be read the entries stay. A directory that does not exist has no files. With an error
// before is returned as it is.
func readDir(dir string, before []listFile) ([]listFile, error) {
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
		files = append(files, last.again(time.Now()))
	}
	return files, nil
}

// settled is how old a change of a file must be for its time and size to prove that nothing came after it: clocks of file
// systems are coarse.
const settled = 2 * time.Second

// again returns the file as it is now.
func (f listFile) again(now time.Time) listFile {
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
	f.Entries, f.Errors = conf.ParseList(f.Path, text)
	return f
}
