package logfile

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"mef/internal/logtext"
	"mef/internal/ordered"
)

// readRotated reads what was written after the position t.left while the daemon did not run: to the file that reading was in, which
// is found under another name, and to those that came after it and were rotated away as well. The file current is none
// of them: it stands behind the path now. It returns where reading ended, and what is still to come of lines that began before.
func (f *Follower) readRotated(ctx context.Context, t *tail, current fileID) (position, logtext.Rest) {
	left := *t.left
	files := f.findRotated(t.path, left, current)
	defer closeFiles(files)
	if len(files) == 0 && left.offset > 0 {
		f.log.Warn("log file was rotated and its old content is not found", "path", t.path)
		return left, logtext.RestOfAny()
	}
	return f.readEach(ctx, t, files, left)
}

// readEach reads files that followed each other behind the path to their ends, the first one from left on. It returns where reading
// ended, and what is still to come of lines that began before.
func (f *Follower) readEach(ctx context.Context, t *tail, files []*file, left position) (position, logtext.Rest) {
	var rest logtext.Rest
	for i, file := range files {
		if i > 0 {
			left = left.next(file.id)
		}
		f.readRest(ctx, t, file, left, rest)
		left, rest = file.pos, file.rest
	}
	return left, rest
}

// readRest reads a file from p to its end. rest is that of the file before it, if p is its beginning.
func (f *Follower) readRest(ctx context.Context, t *tail, file *file, p position, rest logtext.Rest) {
	if err := file.seek(p); err != nil {
		return
	}
	if p.offset == 0 {
		file.rest = rest
	}
	for left := toItsEnd(file); left > 0 && ctx.Err() == nil; {
		read, err := f.readFile(ctx, t, file, left)
		if left -= read; err != nil || read == 0 {
			return
		}
	}
}

// findRotated opens the file in which reading reached p, and those that were rotated away after it, oldest first. It finds
// nothing if the former is not there.
func (f *Follower) findRotated(path string, p position, current fileID) []*file {
	var found []*file
	var since time.Time
	for _, s := range siblings(path, p.id.ino) {
		file, err := f.openFile(s.path, path)
		if err != nil {
			continue
		}
		is := p.holds(file.fd) || p.offset == 0 && p.id == file.id
		switch {
		case file.id == current:
		case len(found) == 0 && is:
			since = s.changed
			found = append(found, file)
			continue
		case len(found) > 0 && !is && s.rotated && s.changed.After(since):
			found = append(found, file)
			continue
		}
		file.close()
	}
	return found
}

// A sibling is a file that may be a rotated one of the log file beside it.
type sibling struct {
	path    string
	changed time.Time
	rotated bool // is named as one
}

// siblings returns the files beside path whose names begin as it does or whose inode number is ino, least recently changed
// first. The file itself is among them.
func siblings(path string, ino uint64) []sibling {
	homes := []string{path}
	if target, err := filepath.EvalSymlinks(path); err == nil && target != path {
		homes = append(homes, target)
	}
	var found []sibling
	for _, of := range homes {
		dir := filepath.Dir(of)
		entries, _ := os.ReadDir(dir) // as far as it goes
		for _, e := range entries {
			name := filepath.Join(dir, e.Name())
			info, err := e.Info()
			if err != nil || !info.Mode().IsRegular() || compressed(name) {
				continue
			}
			if st, ok := info.Sys().(*syscall.Stat_t); ok && (st.Ino == ino || strings.HasPrefix(name, of)) {
				found = append(found, sibling{name, info.ModTime(), rotatedName(name, of)})
			}
		}
	}
	ordered.Sort(found, func(a, b sibling) int { return a.changed.Compare(b.changed) })
	return found
}

func closeFiles(files []*file) {
	for _, file := range files {
		file.close()
	}
}
