package conf

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A ListFile is a file of a whitelist or blacklist directory as it was last read.
type ListFile struct {
	Path     string
	Size     int64
	Modified time.Time
	Entries  []Entry
	Errors   Errors // lines that are no entries; or why the file cannot be read, and Entries are what it last had

	read time.Time
}

// ReadList reads the files *.conf of a directory, in order. before is what it returned last: a file that has not changed since is
// not read again, and of one that cannot be read the entries stay. A directory that does not exist has no files. With an error
// before is returned as it is.
func ReadList(dir string, before []ListFile) ([]ListFile, error) {
	names, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return before, errors.New(pathError(err))
	}
	if e := CheckDirOwner(dir); e != nil {
		return before, e
	}
	var files []ListFile
	for _, e := range names {
		if !isConfFile(e.Name()) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		last := ListFile{Path: path}
		if i := slices.IndexFunc(before, func(f ListFile) bool { return f.Path == path }); i >= 0 {
			last = before[i]
		}
		files = append(files, last.again(time.Now()))
	}
	return files, nil
}

func isConfFile(name string) bool {
	return strings.HasSuffix(name, ".conf") && !strings.HasPrefix(name, ".")
}

// settled is how old a change of a file must be for its time and size to prove that nothing came after it: clocks of file
// systems are coarse.
const settled = 2 * time.Second

// again returns the file as it is now.
func (f ListFile) again(now time.Time) ListFile {
	if e := CheckOwner(f.Path); e != nil {
		f.Errors, f.read = Errors{e}, time.Time{}
		return f
	}
	info, err := os.Stat(f.Path)
	if err == nil && info.Size() == f.Size && info.ModTime().Equal(f.Modified) && f.read.Sub(f.Modified) > settled {
		return f
	}
	var text []byte
	if err == nil {
		text, err = readFile(f.Path, maxList)
	}
	if err != nil {
		f.Errors, f.read = Errors{fileError(f.Path, err)}, time.Time{}
		return f
	}
	f.Size, f.Modified, f.read = info.Size(), info.ModTime(), now
	f.Entries, f.Errors = ParseList(f.Path, text)
	return f
}
