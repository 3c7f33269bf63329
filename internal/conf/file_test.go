package conf

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// What is read to its end has one, and nobody waits for it.
func TestReadFileWaitsForNobody(t *testing.T) {
	dir := t.TempDir()
	pipe, link, good := filepath.Join(dir, "pipe"), filepath.Join(dir, "link"), filepath.Join(dir, "good")
	if err := errors.Join(syscall.Mkfifo(pipe, 0o600), os.Symlink(pipe, link), os.WriteFile(good, []byte("text"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{
		pipe: errNotRegular, link: errNotRegular, dir: errNotRegular, "/dev/zero": errNotRegular, "/dev/null": errNotRegular,
		"/proc/kmsg": errWaits, good: nil,
	} {
		type result struct {
			text []byte
			err  error
		}
		done := make(chan result, 1)
		go func() {
			text, err := ReadFile(path, 64<<20)
			done <- result{text, err}
		}()
		select {
		case got := <-done:
			if path == "/proc/kmsg" && errors.Is(got.err, fs.ErrPermission) {
				continue // the kernel's log is not for everyone
			}
			if !errors.Is(got.err, want) || want == nil && string(got.text) != "text" {
				t.Errorf("%s: %.20q, %v; want %v", path, got.text, got.err, want)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("%s is waited for", path)
		}
	}
}

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
