package conf

import (
	"os"
	"path/filepath"
	"testing"
)

// A link in a safe directory is only as safe as the place it leads to.
func TestLinksIntoDirectoriesOfOthersAreRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give files away")
	}
	dir := t.TempDir()
	home := filepath.Join(dir, "home")
	link, target := filepath.Join(dir, "a.conf"), filepath.Join(home, "a.conf")
	if err := os.Mkdir(home, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(target, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if e := CheckOwner(link); e != nil {
		t.Errorf("a link to a file of root: %v", e)
	}
	if err := os.Chown(home, 12345, 0); err != nil {
		t.Fatal(err)
	}
	want := link + `: not read, because user 12345 can change "` + home + `"; run chown root:root "` + home + `"`
	if e := CheckOwner(link); e == nil || e.Error() != want {
		t.Errorf("a link into the home of a user: %v, want %s", e, want)
	}
}
