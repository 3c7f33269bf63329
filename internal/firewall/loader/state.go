package loader

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"mef/internal/atomicfile"
	"mef/internal/firewall/inforce"
)

// A state is the folder in which rules are kept. Only root may write in it.
type state struct{ dir string }

// The rules that are kept, each a folder.
const (
	confirmed = "confirmed"
	previous  = "previous"
	trial     = "trial"
	accepted  = "accepted" // a trial that was confirmed, on its way to confirmed
	expired   = "expired"  // a trial that was not, on its way out
	refused   = "refused"  // the last one that was not, or was rolled back; never loaded at boot
	swapped   = "swapped"  // what was confirmed, on its way to previous
	staged    = "staged"   // rules that are about to be loaded and confirmed

	before = "/before" // within a trial: what was in force, if nothing was ever confirmed
)

// The files in them.
const (
	rulesFile  = "policy.rules"
	recordFile = "record.json"
	resultFile = "result.json" // of a trial: what became of loading it
	guardLock  = "guard.lock"  // of a trial: held by the guard
	ownerLock  = "owner.lock"  // of a trial: held by the process that begins it, until the guard holds its own
)

// A Record identifies rules.
type Record struct {
	Digest  string    `json:"digest"` // of the files they were made of; empty for the rescue policy
	Source  string    `json:"source"` // the file that they come from
	Made    time.Time `json:"made"`
	Backend string    `json:"backend"`
}

// openState creates the directory if needed, and refuses one that others can write, because they could decide what is loaded.
func openState(dir string) (*state, error) {
	err := os.MkdirAll(dir, 0o711) // the note of what is loaded is for everybody
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%w: run as root", err)
	}
	if err != nil {
		return nil, err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return nil, err
	}
	if err := ours(info, os.Geteuid()); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	if info.Mode().Perm()&0o011 != 0o011 {
		if err := os.Chmod(dir, info.Mode().Perm()|0o011); err != nil {
			return nil, err
		}
	}
	return &state{dir}, nil
}

// ours returns an error unless a folder belongs to us and nobody else may write in it.
func ours(dir fs.FileInfo, user int) error {
	owner, ok := dir.Sys().(*syscall.Stat_t)
	if ok && user != 0 && owner.Uid == 0 {
		return errors.New("only root can read it: run as root")
	}
	if !dir.IsDir() || !ok || int(owner.Uid) != user || dir.Mode().Perm()&0o022 != 0 {
		return errors.New("users other than root can write to this directory and so decide which rules are loaded: run chown root and chmod 711, or remove it")
	}
	return nil
}

// trust returns an error unless only root, or the user that we run as, can write a file and replace it in its directory: what stands in
// it decides who reaches this host.
func trust(path string) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	for _, name := range []string{path, filepath.Dir(path)} {
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		owner, ok := info.Sys().(*syscall.Stat_t)
		switch {
		case !ok || owner.Uid != 0 && int(owner.Uid) != os.Geteuid():
			return fmt.Errorf("%s does not belong to root, so its owner decides which rules are loaded: run chown root %s", name, name)
		case info.Mode().Perm()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0:
			return fmt.Errorf("users other than root can write to %s and so decide which rules are loaded: run chmod go-w %s", name, name)
		}
	}
	return nil
}

func (s *state) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

// has reports whether rules are kept under a name.
func (s *state) has(name string) bool {
	_, err := os.Stat(s.path(name, rulesFile))
	return err == nil
}

// put keeps rules in a folder that exists.
func (s *state) put(name string, text []byte, r Record) error {
	if err := writeFile(s.path(name, rulesFile), text); err != nil {
		return err
	}
	return writeJSON(s.path(name, recordFile), r)
}

// get returns rules.
func (s *state) get(name string) (text []byte, r Record, err error) {
	if text, err = os.ReadFile(s.path(name, rulesFile)); err != nil {
		return nil, r, err
	}
	return text, r, readJSON(s.path(name, recordFile), &r)
}

// confirm makes the accepted rules the confirmed ones. It also completes what a killed process left half done.
func (s *state) confirm() error {
	if err := s.exchanged(); err != nil {
		return err
	}
	if !s.has(accepted) {
		return nil
	}
	if s.has(confirmed) {
		if err := os.RemoveAll(s.path(previous)); err != nil {
			return err
		}
		if err := os.Rename(s.path(confirmed), s.path(previous)); err != nil {
			return err
		}
	}
	if err := os.Rename(s.path(accepted), s.path(confirmed)); err != nil {
		return err
	}
	return atomicfile.SyncDir(s.dir)
}

// exchange makes the previous rules the confirmed ones, and these the previous ones, which are refused from now on. It needs next to
// no room on the disk.
func (s *state) exchange() error {
	_, r, err := s.get(previous)
	if err != nil {
		return err
	}
	err = errors.Join(s.pardon(r.Digest), s.refuseConfirmed())
	if err := os.Rename(s.path(confirmed), s.path(swapped)); err != nil {
		return err
	}
	return errors.Join(err, s.exchanged())
}

// exchanged completes an exchange that was begun.
func (s *state) exchanged() error {
	if !s.has(swapped) {
		return nil
	}
	if !s.has(confirmed) {
		if err := os.Rename(s.path(previous), s.path(confirmed)); err != nil {
			return err
		}
	}
	if err := os.Rename(s.path(swapped), s.path(previous)); err != nil {
		return err
	}
	return atomicfile.SyncDir(s.dir)
}

// accept keeps rules as confirmed ones that were in no trial. It reports whether they are others than before.
func (s *state) accept(text []byte, r Record) (changed bool, err error) {
	if old, was, err := s.get(confirmed); err == nil && was.Digest == r.Digest && string(old) == string(text) {
		return false, nil
	}
	if err := s.stage(text, r); err != nil {
		return false, err
	}
	return true, s.adopt()
}

// stage keeps rules that are to be confirmed once they are in force: what has no room on the disk is not loaded then.
func (s *state) stage(text []byte, r Record) error {
	if err := os.RemoveAll(s.path(staged)); err != nil {
		return err
	}
	if err := os.Mkdir(s.path(staged), 0o700); err != nil {
		return err
	}
	return s.put(staged, text, r)
}

// adopt makes staged rules the confirmed ones.
func (s *state) adopt() error {
	if err := os.RemoveAll(s.path(accepted)); err != nil {
		return err
	}
	if err := os.Rename(s.path(staged), s.path(accepted)); err != nil {
		return err
	}
	return s.confirm()
}

// decide ends a trial one way or the other. It reports false if somebody else has ended it.
func (s *state) decide(to string) (bool, error) {
	if err := os.RemoveAll(s.path(to)); err != nil {
		return false, err
	}
	err := os.Rename(s.path(trial), s.path(to))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, atomicfile.SyncDir(s.dir)
}

// lock takes a lock in the folder of the trial. It returns nil without an error if somebody else holds it.
func (s *state) lock(name string) (*os.File, error) {
	f, err := os.OpenFile(s.path(trial, name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return f, nil
}

// guarded reports whether a process is responsible for the trial: its guard, or the one that is just beginning it.
func (s *state) guarded() (bool, error) {
	for _, name := range []string{ownerLock, guardLock} {
		f, err := s.lock(name)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil // it has just ended
		}
		if err != nil {
			return false, err
		}
		if f == nil {
			return true, nil
		}
		f.Close()
	}
	return false, nil
}

// A trialRecord reports what a trial is.
type trialRecord struct {
	Record
	Until time.Time `json:"until"`
}

// A loaded reports what was put into the kernel last.
type loaded struct {
	Record
	Loaded time.Time `json:"loaded"`
	From   string    `json:"from"`   // file, confirmed, trial, rescue, previous
	Held   string    `json:"held"`   // digest of what the kernel held just afterwards
	Frame  string    `json:"frame"`  // the same without the elements of sets; only of nftables
	Boot   string    `json:"boot"`   // ID of the boot
	Notice string    `json:"notice"` // why it is not what the file says; empty if it is
}

const (
	loadedFile  = inforce.NoteFile
	loadedRules = "loaded.rules"
	namesFile   = "names.json"
	linksFile   = "links.json"
	noteFile    = "note.json" // how the last trial ended
)

// A note reports how a trial ended.
type note struct {
	When    time.Time `json:"when"`
	Outcome string    `json:"outcome"`
}

// maxRefused is how many unconfirmed policies are remembered: somebody who is locked out tries several.
const maxRefused = 8

// refusals returns the names under which they are, the last one first.
func refusals() []string {
	names := []string{refused}
	for i := 1; i < maxRefused; i++ {
		names = append(names, fmt.Sprintf("%s-%d", refused, i))
	}
	return names
}

// refuse remembers an expired trial by renaming it, for which even a full disk has room.
func (s *state) refuse() error {
	var r Record
	_ = readJSON(s.path(expired, recordFile), &r) // without a record there is nothing that could be loaded at boot
	if err := s.roomFor(r.Digest); err != nil {
		return err
	}
	if err := os.Rename(s.path(expired), s.path(refused)); err != nil {
		return err
	}
	return atomicfile.SyncDir(s.dir)
}

// refuseConfirmed remembers what is confirmed as something that was not.
func (s *state) refuseConfirmed() error {
	_, r, err := s.get(confirmed)
	if err != nil {
		return err
	}
	if err := s.roomFor(r.Digest); err != nil {
		return err
	}
	if err := os.Mkdir(s.path(refused), 0o700); err != nil {
		return err
	}
	if err := os.Link(s.path(confirmed, recordFile), s.path(refused, recordFile)); err != nil {
		return err
	}
	return atomicfile.SyncDir(s.path(refused))
}

// roomFor makes room for one more policy that was refused.
func (s *state) roomFor(digest string) error {
	if err := s.pardon(digest); err != nil {
		return err
	}
	names := refusals()
	free := slices.IndexFunc(names, func(name string) bool { _, err := os.Stat(s.path(name)); return errors.Is(err, fs.ErrNotExist) })
	if free < 0 {
		free = len(names) - 1
		if err := os.RemoveAll(s.path(names[free])); err != nil {
			return err
		}
	}
	for i := free; i > 0; i-- {
		if err := os.Rename(s.path(names[i-1]), s.path(names[i])); err != nil {
			return err
		}
	}
	return nil
}

// pardon forgets that a policy was refused.
func (s *state) pardon(digest string) error {
	for _, name := range refusals() {
		var r Record
		if readJSON(s.path(name, recordFile), &r) == nil && r.Digest == digest {
			if err := os.RemoveAll(s.path(name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// refusal returns when a policy was tried that nobody confirmed; ok is false if it was not.
func (s *state) refusal(digest string) (when time.Time, ok bool) {
	for _, name := range append(refusals(), expired) {
		var r Record
		if digest != "" && readJSON(s.path(name, recordFile), &r) == nil && r.Digest == digest {
			return r.Made, true
		}
	}
	return time.Time{}, false
}

// The last good answers of a host name.
type answer struct {
	Addrs []netip.Addr `json:"addrs"`
	At    time.Time    `json:"at"`
}

// writeFile writes a file so that it is the old one or the new one, whatever happens, a power cut included.
func writeFile(path string, text []byte) error { return atomicfile.Write(path, text, 0o600) }

// writeNote replaces a file in one step. It is for what describes this run of the kernel, and for what can be found again: it need not
// outlive a power cut, so nothing waits for the disk.
func writeNote(path string, v any, mode os.FileMode) error {
	text, ok := v.([]byte)
	if !ok {
		var err error
		if text, err = json.Marshal(v); err != nil {
			return err
		}
	}
	err := atomicfile.Replace(path, text, mode)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return overwrite(path, text) // a note that is there has room for its successor
	}
	return err
}

// overwrite writes over a file that exists. What does not fit leaves no half of it.
func overwrite(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(text, 0)
	if err = errors.Join(err, f.Truncate(int64(len(text))), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

func writeJSON(path string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeFile(path, text)
}

func readJSON(path string, v any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
