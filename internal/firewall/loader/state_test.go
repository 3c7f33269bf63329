package loader

import (
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A folder is what the system says of one.
type folder struct {
	mode  fs.FileMode
	owner uint32
}

func (f folder) Name() string       { return "mef-firewall" }
func (f folder) Size() int64        { return 0 }
func (f folder) Mode() fs.FileMode  { return f.mode }
func (f folder) ModTime() time.Time { return time.Time{} }
func (f folder) IsDir() bool        { return f.mode.IsDir() }
func (f folder) Sys() any           { return &syscall.Stat_t{Uid: f.owner} }

// TestWhoseFolder reports what to do about a folder that is not ours alone.
func TestWhoseFolder(t *testing.T) {
	const root, somebody = 0, 1000
	for name, tt := range map[string]struct {
		folder
		user int
		want string
	}{
		"root's":                        {folder{fs.ModeDir | 0o700, root}, root, ""},
		"root's, and others may look":   {folder{fs.ModeDir | 0o755, root}, root, ""},
		"root's, and the group writes":  {folder{fs.ModeDir | 0o770, root}, root, "run chown root and chmod 711"},
		"somebody's, asked by root":     {folder{fs.ModeDir | 0o700, somebody}, root, "run chown root and chmod 711"},
		"root's, asked by somebody":     {folder{fs.ModeDir | 0o700, root}, somebody, "run as root"},
		"a link":                        {folder{fs.ModeSymlink | 0o777, root}, root, "run chown root and chmod 711"},
		"somebody's, asked by himself":  {folder{fs.ModeDir | 0o700, somebody}, somebody, ""},
		"somebody's, asked by a friend": {folder{fs.ModeDir | 0o777, somebody}, somebody + 1, "run chown root and chmod 711"},
	} {
		err := ours(tt.folder, tt.user)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want %q", name, err, tt.want)
		}
	}
}

// TestStagedRulesAreNotConfirmed until they are adopted, whatever comes between, and what was confirmed becomes the previous.
func TestStagedRulesAreNotConfirmed(t *testing.T) {
	s := kept(t)
	must(t, s.stage([]byte("old"), Record{Digest: "old"}))
	must(t, s.adopt())
	must(t, s.stage([]byte("half"), Record{Digest: "half"})) // its process is killed here
	must(t, s.confirm())                                     // by the next one
	if got := s.rulesOf(t, confirmed); got != "old" {
		t.Errorf("confirmed: %q, want the old rules", got)
	}
	must(t, s.stage([]byte("new"), Record{Digest: "new"}))
	must(t, os.RemoveAll(s.path(accepted)))
	must(t, os.Rename(s.path(staged), s.path(accepted))) // its process is killed here
	must(t, s.confirm())
	if now, was := s.rulesOf(t, confirmed), s.rulesOf(t, previous); now != "new" || was != "old" {
		t.Errorf("confirmed %q, previous %q; want new and old", now, was)
	}
	if s.has(staged) || s.has(accepted) {
		t.Error("something is left on its way")
	}
}
