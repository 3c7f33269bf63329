package control

import (
	"os"
	"path/filepath"
	"testing"
)

// Whoever may not use the socket is told which group may, also if he cannot even see it.
func TestOrJoin(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give files away")
	}
	dir := t.TempDir()
	socket := filepath.Join(dir, "sock")
	if err := os.WriteFile(socket, nil, 0o660); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		path string
		gid  int
		want string
	}{
		"a group":                  {socket, 1, " and members of the group daemon"},
		"nobody knows its name":    {socket, 54321, " and members of the group 54321"},
		"of root":                  {socket, 0, ""},
		"the directory is as much": {filepath.Join(dir, "unseen"), 1, " and members of the group daemon"},
		"nothing can be seen":      {filepath.Join(dir, "no", "where"), 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, path := range []string{dir, socket} {
				if err := os.Chown(path, -1, tt.gid); err != nil {
					t.Fatal(err)
				}
			}
			if got := orJoin(tt.path); got != tt.want {
				t.Errorf("says %q, want %q", got, tt.want)
			}
		})
	}
}
