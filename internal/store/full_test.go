//go:build integration

package store_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/store"
)

// inMounts runs the test again in a mount namespace of its own, where dir is a file system of so many bytes; there it
// returns true.
func inMounts(t *testing.T, size int) (dir string, inside bool) {
	t.Helper()
	if dir := os.Getenv("MEF_TEST_MOUNT"); dir != "" {
		if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprint("size=", size)); err != nil {
			t.Fatal(err)
		}
		return dir, true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "MEF_TEST_MOUNT="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &exit):
		t.Errorf("in the namespace: %v\n%s", err, out)
	case os.Getenv("CI") == "true":
		t.Fatalf("no mount namespace: %v", err)
	default:
		t.Skipf("no mount namespace: %v", err)
	}
	return "", false
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

// fillUp leaves no byte free; what it returns frees them again.
func fillUp(t *testing.T, dir string) (free func()) {
	t.Helper()
	name := filepath.Join(dir, "ballast")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	return func() { os.Remove(name) }
}

func TestDiskFull(t *testing.T) {
	dir, inside := inMounts(t, 3*mb)
	if !inside {
		return
	}
	path := filepath.Join(dir, "mef.db")
	v := store.NewSaver(open(t, path, store.Options{}), quiet())
	stop := run(v)
	v.Save(store.Update{Bans: []ban.Ban{lastingBan(1), lastingBan(2)}, Positions: map[string]string{"journal": "1"}})
	if err := v.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	free := fillUp(t, dir)
	// More than the file's own free pages take.
	v.Save(store.Update{Positions: map[string]string{"journal": "2"}, Records: tallies(0, 1500, false), Lifted: []ban.Key{lastingBan(2).Key}})
	if err := v.Flush(t.Context()); err == nil || !strings.Contains(err.Error(), "no space left") || !strings.Contains(err.Error(), path) {
		t.Errorf("Flush: %v; want no space left, and the file's name", err)
	}
	begin := time.Now()
	v.Save(store.Update{Bans: []ban.Ban{lastingBan(3)}})
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("Save took %v", took)
	}
	if st := v.Status(); !strings.Contains(st.Problem, "no space left") || st.Pending != 1503 {
		t.Errorf("problem %q, %d pending; want no space left, 1503", st.Problem, st.Pending)
	}
	free()
	eventually(t, "not saved after there is space again", func() bool { return v.Status().Pending == 0 })
	if st := v.Status(); st.Problem != "" || st.LastCommit.Before(begin) {
		t.Errorf("status %+v after there is space again", st)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	s := open(t, path, store.Options{})
	st := load(t, s, noon)
	if len(st.Bans) != 2 || st.Bans[1].Key != lastingBan(3).Key || st.Positions["journal"] != "2" || len(records(s)) != 1500 {
		t.Errorf("%v, %d records; want bans 1 and 3, position 2, 1500 records", st, len(records(s)))
	}
}

// TestDiskFullFromTheStart has no space for the file at all, and later has.
func TestDiskFullFromTheStart(t *testing.T) {
	dir, inside := inMounts(t, 2*mb)
	if !inside {
		return
	}
	free := fillUp(t, dir)
	s := open(t, filepath.Join(dir, "lib", "mef.db"), store.Options{})
	if s.Warning() == nil {
		t.Fatal("no warning")
	}
	v := store.NewSaver(s, quiet())
	stop := run(v)
	v.Save(store.Update{Bans: []ban.Ban{lastingBan(1)}})
	if err := v.Flush(t.Context()); err == nil {
		t.Error("Flush: no error")
	}
	free()
	eventually(t, "not saved after there is space", func() bool { return v.Status().Pending == 0 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if st := load(t, open(t, filepath.Join(dir, "lib", "mef.db"), store.Options{}), noon); len(st.Bans) != 1 {
		t.Errorf("%d bans, want 1", len(st.Bans))
	}
}

// TestReadOnly makes the file system read-only under the store.
func TestReadOnly(t *testing.T) {
	dir, inside := inMounts(t, 3*mb)
	if !inside {
		return
	}
	path := filepath.Join(dir, "mef.db")
	s := open(t, path, store.Options{})
	commit(t, s, &store.Update{Bans: []ban.Ban{lastingBan(1)}}, noon)
	s.Close()
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY|syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	s = open(t, path, store.Options{})
	if s.Warning() == nil || !strings.Contains(s.Warning().Error(), "read-only") {
		t.Errorf("warning %v, want read-only", s.Warning())
	}
	if err := s.Commit(&store.Update{Bans: []ban.Ban{lastingBan(2)}}, noon); err == nil {
		t.Error("Commit: no error")
	}
}
