package lists

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func texts(files []listFile) (all []string) {
	for _, f := range files {
		for _, e := range f.Entries {
			all = append(all, e.Text)
		}
	}
	return all
}

func TestReadList(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	check := func(files []listFile, err error, want ...string) {
		t.Helper()
		if got := texts(files); err != nil || !slices.Equal(got, want) {
			t.Errorf("entries %q, %v; want %q", got, err, want)
		}
	}
	files, err := readDir(filepath.Join(dir, "none"), nil, byEntry)
	check(files, err)

	write("b.conf", "192.0.2.8\nnonsense line\n192.0.2.9\n")
	write("a.conf", "192.0.2.7 # the office\n")
	write("a.conf~", "192.0.2.66\n")
	write(".a.conf", "192.0.2.66\n")
	files, err = readDir(dir, nil, byEntry)
	check(files, err, "192.0.2.7", "192.0.2.8", "192.0.2.9")
	if len(files) != 2 || len(files[1].Errors) != 1 || !strings.HasPrefix(files[1].Errors[0].Error(), dir+"/b.conf:2:1: ") {
		t.Errorf("errors %v, want one of line 2", files[1].Errors)
	}

	write("b.conf", "192.0.2.5\n") // at once, so that the clock may not have moved
	files, err = readDir(dir, files, byEntry)
	check(files, err, "192.0.2.7", "192.0.2.5")

	if err := errors.Join(os.Remove(dir+"/b.conf"), os.Mkdir(dir+"/b.conf", 0o700)); err != nil {
		t.Fatal(err)
	}
	files, err = readDir(dir, files, byEntry)
	check(files, err, "192.0.2.7", "192.0.2.5") // what cannot be read keeps what it had
	if len(files[1].Errors) != 1 || files[1].Errors[0].Msg != "not a regular file" {
		t.Errorf("errors %v", files[1].Errors)
	}

	if err := os.Remove(dir + "/b.conf"); err != nil {
		t.Fatal(err)
	}
	files, err = readDir(dir, files, byEntry)
	check(files, err, "192.0.2.7")
}

// A file that has long been as it is, is not read again.
func TestReadListTakesOver(t *testing.T) {
	dir := t.TempDir()
	path, old := filepath.Join(dir, "a.conf"), time.Now().Add(-time.Hour)
	for _, text := range []string{"192.0.2.7\n", "192.0.2.8\n"} {
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chtimes(path, old, old)); err != nil {
			t.Fatal(err)
		}
	}
	files, err := readDir(dir, nil, byEntry)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(path, []byte("192.0.2.9\n"), 0o600), os.Chtimes(path, old, old)); err != nil {
		t.Fatal(err)
	}
	if files, err = readDir(dir, files, byEntry); err != nil || texts(files)[0] != "192.0.2.8" {
		t.Errorf("entries %q, %v; want those of the first reading", texts(files), err)
	}
}

// While a list file can be written by others, the entries that were read before count.
func TestListFileKeepsEntriesWhenOthersCanWriteIt(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.conf")
	if err := os.WriteFile(path, []byte("192.0.2.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := readDir(dir, nil, byEntry)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("0.0.0.0/0\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	after, err := readDir(dir, before, byEntry)
	if err != nil || len(after) != 1 || len(after[0].Entries) != 1 || after[0].Entries[0].Text != "192.0.2.1" || len(after[0].Errors) != 1 {
		t.Errorf("read %+v, %v; want the entry of before and a mistake", after, err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if after, err := readDir(dir, before, byEntry); err == nil || len(after) != 1 {
		t.Errorf("directory that everyone can write: %+v, %v", after, err)
	}
}
