package logfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A view is what a glob looks like on disk.
type view struct {
	paths []string // what matches, sorted
	dirs  []string // directories in which a new, renamed or removed name may change that
	err   error    // why nothing more matches, if the reason is not plain absence
}

// expand looks at an absolute pattern. Files that follow others as their rotated or compressed copies are left out.
func expand(pattern string) view {
	var v view
	if _, err := filepath.Match(pattern, ""); err != nil || !filepath.IsAbs(pattern) {
		v.err = errors.New("not an absolute glob")
		return v
	}
	v.walk("/", strings.Split(strings.TrimPrefix(filepath.Clean(pattern), "/"), "/"))
	slices.Sort(v.paths)
	all := v.paths
	v.paths = slices.DeleteFunc(slices.Clone(all), func(path string) bool {
		return compressed(path) || slices.ContainsFunc(all, func(of string) bool { return rotatedName(path, of) })
	})
	return v
}

// walk follows the pattern's elements below dir.
func (v *view) walk(dir string, elements []string) {
	names, plain := []string{elements[0]}, !strings.ContainsAny(elements[0], `*?[\`)
	if !plain {
		names = v.match(dir, elements[0])
	}
	last := len(elements) == 1
	if last || !plain {
		v.dirs = append(v.dirs, dir)
	}
	for _, name := range names {
		path := filepath.Join(dir, name)
		info, err := os.Lstat(path)
		if err != nil || info.Mode()&fs.ModeSymlink != 0 {
			v.link(dir, path, err)
		}
		switch {
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			v.err = err
		case err != nil:
		case last:
			v.paths = append(v.paths, path)
		case isDir(path):
			v.walk(path, elements[1:])
		}
	}
}

// link notes where a path that is missing, or is a symbolic link, may change.
func (v *view) link(dir, path string, missing error) {
	v.dirs = append(v.dirs, dir)
	for range maxLinks {
		target, err := os.Readlink(path)
		if missing != nil || err != nil {
			return
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		path = target
		v.dirs = append(v.dirs, filepath.Dir(path))
	}
}

// maxLinks is how many symbolic links in a row are followed to the directories they stand in.
const maxLinks = 8

// match returns the names in dir that match pattern.
func (v *view) match(dir, pattern string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		v.err = err
	}
	var names []string
	for _, e := range entries {
		if ok, _ := filepath.Match(pattern, e.Name()); ok {
			names = append(names, e.Name())
		}
	}
	return names
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// rotatedName reports whether path is named as a rotated copy of the log file of: "maillog.1", "maillog-20260101".
func rotatedName(path, of string) bool {
	suffix, ok := strings.CutPrefix(path, of)
	return ok && len(suffix) > 1 && strings.ContainsRune(".-", rune(suffix[0])) && strings.Trim(suffix, "0123456789.-_") == ""
}

// compressed reports whether path is named as a compressed file.
func compressed(path string) bool {
	switch filepath.Ext(path) {
	case ".gz", ".bz2", ".xz", ".zst", ".lz4", ".Z", ".zip":
		return true
	}
	return false
}
