package server

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"mef/internal/atomicfile"
)

// A server writes backups by itself: hourly, and soon after a decision that nobody would repeat (an enrolment, a revocation, an appeal, an entry of the
// list of what is never listed). The newest ones are kept, and the last one of each of some days.
const (
	exportDir    = "backups" // in the data directory, unless Options.Export names another place
	exportEvery  = time.Hour
	exportSoon   = 10 * time.Minute
	exportNewest = 6
	exportDays   = 7

	backupTag    = "mef backup 1\n"
	backupPrefix = "mefcloud-"
	backupSuffix = ".backup"
	backupTime   = "20060102T150405"
)

// Backup returns a signed copy of everything that a server needs to begin again, its keys included. It must be kept secret.
func (s *Server) Backup() ([]byte, error) {
	keys, err := os.ReadFile(filepath.Join(s.opt.Dir, keysFile))
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	plain, err := s.state.plain(map[string][]byte{keysFile: keys})
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	data, err := pack(plain)
	if err != nil {
		return nil, err
	}
	return append(data, ed25519.Sign(s.feedKey, append([]byte(backupTag), data...))...), nil
}

// loadBackup verifies a backup. The signature is by the key in it: what was altered cannot be signed for the hosts of this server without that key.
func loadBackup(backup []byte) (*state, []byte, error) {
	n := len(backup) - ed25519.SignatureSize
	if n < 0 {
		return nil, nil, errors.New("it ends early")
	}
	st, h, err := loadState(backup[:n])
	if err != nil {
		return nil, nil, err
	}
	keys, ok := h.Keys[keysFile]
	if !ok {
		return nil, nil, errors.New("it has no keys: it is a copy of the state, not a backup")
	}
	var owner Server
	if err := owner.parseKeys(keys); err != nil {
		return nil, nil, err
	}
	if !ed25519.Verify(owner.feedKey.Public().(ed25519.PublicKey), append([]byte(backupTag), backup[:n]...), backup[n:]) {
		return nil, nil, errors.New("its signature is wrong")
	}
	return st, keys, nil
}

// Restore makes a data directory from a backup. The directory must be empty or missing. With sameLog, the server continues with the log of
// a cluster that other servers use.
func Restore(dir string, backup []byte, sameLog bool) error {
	st, keys, err := loadBackup(backup)
	if err != nil {
		return fmt.Errorf("the backup cannot be used: %w; try an older one", err)
	}
	if files, err := os.ReadDir(dir); err == nil && len(files) > 0 {
		return fmt.Errorf("%s is not empty; name another directory", dir)
	} else if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if sameLog { // it must exist
		if err := atomicfile.Write(filepath.Join(dir, ackedFile), ackedNumber(st.seq), 0o600); err != nil {
			return err
		}
	} else {
		st.seq += restoredGap
	}
	data, err := st.save(nil)
	if err != nil {
		return err
	}
	return errors.Join(atomicfile.Write(filepath.Join(dir, keysFile), keys, 0o600), atomicfile.Write(filepath.Join(dir, stateFile), data, 0o600))
}

// restoredGap is added to the number of the last entry of a backup: hosts may have lists of later entries, and accept no older list.
const restoredGap = 1_000_000_000

// An exporter says when the next backup is due.
type exporter struct {
	at        time.Time // of the last one
	seq       uint64
	decisions uint64
}

func (e *exporter) due(now time.Time, seq, decisions uint64) bool {
	passed := now.Sub(e.at)
	return seq != e.seq && passed >= exportEvery || decisions != e.decisions && passed >= exportSoon
}

// export writes a backup if one is due, and removes those that are no longer needed.
func (s *Server) export(e *exporter) error {
	now := s.opt.Now()
	s.mu.Lock()
	seq, decisions := s.state.seq, s.state.decisions
	s.mu.Unlock()
	if !e.due(now, seq, decisions) {
		return nil
	}
	e.at, e.seq, e.decisions = now, seq, decisions
	dir := s.opt.Export
	if dir == "" {
		dir = filepath.Join(s.opt.Dir, exportDir)
	}
	data, err := s.Backup()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(dir, backupPrefix+now.UTC().Format(backupTime)+backupSuffix), data, 0o600); err != nil {
		return err
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var names []string
	for _, f := range files {
		names = append(names, f.Name())
	}
	for _, name := range superfluous(names) {
		err = errors.Join(err, os.Remove(filepath.Join(dir, name)))
	}
	return err
}

// superfluous returns the backups that are no longer needed. Other files are none.
func superfluous(names []string) (old []string) {
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		at, ok := strings.CutPrefix(name, backupPrefix)
		at, ok2 := strings.CutSuffix(at, backupSuffix)
		_, err := time.Parse(backupTime, at)
		return !ok || !ok2 || err != nil
	})
	slices.Sort(names)
	slices.Reverse(names)
	days := make(map[string]bool)
	for i, name := range names {
		day := name[len(backupPrefix):][:len("20060102")]
		if i >= exportNewest && (days[day] || len(days) >= exportDays) {
			old = append(old, name)
		}
		if !days[day] && len(days) < exportDays {
			days[day] = true
		}
	}
	return old
}
