package logfile_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mef/internal/source/logfile"
)

// A symbolic link is followed if it belongs to root or to the owner of the file: we may read what its owner may not.
func TestLinksOfOthers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("root is needed to give files away")
	}
	const mallory = 12345
	for name, tt := range map[string]struct {
		link, target int  // owners
		dir          bool // it is a directory that the link leads to
		follows      bool
	}{
		"root's link, root's file":             {0, 0, false, true},
		"root's link, a user's file":           {0, mallory, false, true},
		"a user's link, his file":              {mallory, mallory, false, true},
		"a user's link, root's file":           {mallory, 0, false, false},
		"a user's link to a directory of root": {mallory, 0, true, false},
		"a user's link to a directory of his":  {mallory, mallory, true, true},
		"root's link to a directory of a user": {0, mallory, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file, path := filepath.Join(dir, "secret", "shadow"), filepath.Join(dir, "link.log")
			if err := os.Mkdir(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			write(t, file, "a\n")
			to := file
			if tt.dir {
				path, to = filepath.Join(dir, "link", "shadow"), filepath.Dir(file)
			}
			link := path
			if tt.dir {
				link = filepath.Dir(path)
			}
			if err := errors.Join(os.Symlink(to, link), os.Lchown(link, tt.link, tt.link), os.Chown(file, tt.target, tt.target)); err != nil {
				t.Fatal(err)
			}
			r := start(t, logfile.Config{Globs: []string{path}}, nil)
			status := r.follow.Status()[0]
			if tt.follows {
				r.following(path)
				write(t, file, "b\n")
				r.want("b")
			} else if status.State != logfile.Waiting || !strings.Contains(status.Reason, "another user") {
				t.Errorf("status %+v, want waiting", status)
			}
		})
	}
}

// Whose files are read is for the configuration to say.
func TestAccept(t *testing.T) {
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good.log"), filepath.Join(dir, "open.log")
	write(t, good, "")
	write(t, bad, "")
	if err := os.Chmod(bad, 0o666); err != nil {
		t.Fatal(err)
	}
	accept := func(path string, uid uint32, mode fs.FileMode) error {
		if uid != uint32(os.Geteuid()) {
			return fmt.Errorf("owner %d", uid)
		}
		if mode&0o002 != 0 {
			return errors.New("everybody may write it")
		}
		return nil
	}
	r := start(t, logfile.Config{Globs: []string{filepath.Join(dir, "*.log")}, Accept: accept}, nil)
	r.following(good)
	write(t, bad, "forged\n")
	write(t, good, "a\n")
	r.want("a")
	for _, s := range r.follow.Status() {
		if s.Path == bad && (s.State != logfile.Waiting || s.Reason != bad+": everybody may write it") {
			t.Errorf("status %+v", s)
		}
	}
}

// A hole of any size is passed over at once, and what stands behind it is read.
func TestHoles(t *testing.T) {
	const size = 1 << 40
	for name, tt := range map[string]struct{ before, grows bool }{
		"made before the start": {before: true},
		"made while it is read": {grows: true},
		"made between two runs": {},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.log")
			write(t, path, "")
			extend := func() {
				if err := os.Truncate(path, size); err != nil {
					t.Skipf("make a sparse file: %v", err)
				}
			}
			if tt.before {
				extend()
			}
			stamp := func([]byte, time.Time) (time.Time, bool) { return time.Time{}, false }
			cfg := logfile.Config{Globs: []string{path}, Recent: logfile.Recent{Lines: 200, Window: time.Hour}, Stamp: stamp}
			r := start(t, cfg, nil)
			r.following(path)
			lines := []string{}
			if !tt.before {
				write(t, path, "a\n")
				r.want("a")
				if lines = append(lines, "a"); !tt.grows {
					r.close()
				}
				extend()
			}
			write(t, path, "\nb\n")
			if !tt.before && !tt.grows {
				r = start(t, cfg, r)
				lines = nil
			}
			r.want(append(lines, "b")...)
			write(t, path, "c\n")
			r.want(append(lines, "b", "c")...)
		})
	}
}

// What is kept for a file ends with the file: one that goes is reported, and so is the position in one that went meanwhile.
func TestGone(t *testing.T) {
	dir := t.TempDir()
	path, missing, elsewhere := filepath.Join(dir, "x.log"), filepath.Join(dir, "went.log"), filepath.Join(dir, "not-mounted", "y.log")
	write(t, path, "")
	cfg := logfile.Config{Globs: []string{filepath.Join(dir, "*.log")}, Linger: 50 * time.Millisecond,
		Resume: map[string]string{missing: "1:0:1:0:0:0:0:0:0", elsewhere: "1:0:1:0:0:0:0:0:0", "journal": "s=1"}}
	r := start(t, cfg, nil)
	r.until("the end of what went before", func() bool { return r.gone[missing] })
	r.following(path)
	write(t, path, "a\n")
	r.want("a")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	r.until("the end of the file", func() bool { return r.gone[path] })
	if r.gone[elsewhere] || r.gone["journal"] {
		t.Errorf("gone: %v; what may come again is not", r.gone)
	}
}

// A file that is being rotated is not gone, even if nobody has made the new one yet: what was not read of it comes when there is one.
func TestNotGoneButRotated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.log")
	write(t, path, "")
	cfg := logfile.Config{Globs: []string{path}, Accept: func(name string, _ uint32, _ fs.FileMode) error {
		if name != path {
			return errors.New("asked about a name that no rule has")
		}
		return nil
	}}
	r := start(t, cfg, nil)
	r.following(path)
	write(t, path, "a\n")
	r.want("a")
	r.close()
	write(t, path, "b\n")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	r = start(t, cfg, r)
	write(t, path, "c\n")
	r.want("b", "c")
	if r.gone[path] {
		t.Error("the source is reported as gone")
	}
}
