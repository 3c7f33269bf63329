package server

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mef/internal/cloud/reputation"
)

// backups waits until a server has written a backup by itself, and returns the newest.
func backups(t *testing.T, dir string) []byte {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if all, _ := filepath.Glob(filepath.Join(dir, backupPrefix+"*"+backupSuffix)); len(all) > 0 {
			data, err := os.ReadFile(slices.Max(all))
			if err != nil {
				t.Fatal(err)
			}
			return data
		}
	}
	t.Fatal("no backup is written")
	return nil
}

// TestBackupsAreWrittenAndSigned checks that what nobody would repeat is in a backup that the server writes by itself, and that one with a flipped bit is
// refused.
func TestBackupsAreWrittenAndSigned(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	h := join(t, s, "")
	h.mustReport(attacker)
	s.stop()
	if err := os.RemoveAll(filepath.Join(dir, exportDir)); err != nil {
		t.Fatal(err)
	}
	s = start(t, dir) // what it knows is newer than its last backup
	backup := backups(t, filepath.Join(dir, exportDir))
	s.stop()
	restored := filepath.Join(t.TempDir(), "restored")
	if err := Restore(restored, backup, false); err != nil {
		t.Fatal(err)
	}
	s = start(t, restored)
	h.inv.Server = s.Addr().String()
	if f := h.feed("own", ""); !has(f, attacker) {
		t.Errorf("after a restore from it: %+v", f)
	}
	random := rand.New(rand.NewPCG(3, 4))
	for i := range 50 {
		at := len(backup) - 1 - i
		if i > 20 {
			at = random.IntN(len(backup))
		}
		bad := slices.Clone(backup)
		bad[at] ^= 1 << random.IntN(8)
		if err := Restore(filepath.Join(t.TempDir(), "bad"), bad, false); err == nil || !strings.Contains(err.Error(), "older one") {
			t.Errorf("a backup with another byte %d of %d: %v", at, len(backup), err)
		}
	}
	if err := Restore(filepath.Join(t.TempDir(), "cut"), backup[:40], false); err == nil {
		t.Error("a part of a backup is restored")
	}
}

// TestDecisionsSurviveInBackups checks that hosts, revocations and appeals are in a backup.
func TestDecisionsSurviveInBackups(t *testing.T) {
	s := start(t, t.TempDir())
	one, two := join(t, s, ""), join(t, s, reputation.Own)
	id := s.agents()[1].ID
	two.mustReport(attacker)
	if out, err := s.do(t.Context(), entry{Revoke: &id}); err != nil || out.err != nil {
		t.Fatal(err, out.err)
	}
	one.mustReport(attacker)
	if out, err := s.do(t.Context(), entry{Clear: &attacker}); err != nil || out.err != nil {
		t.Fatal(err, out.err)
	}
	backup, err := s.Backup()
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprint(s.agents(), s.state.book.Verdict(attacker))
	st, _, err := loadBackup(backup)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint((&Server{opt: s.opt, state: st}).agents(), st.book.Verdict(attacker)); got != want {
		t.Errorf("the backup has\n%s, want\n%s", got, want)
	}
}

func TestBackupsAreBounded(t *testing.T) {
	var names []string
	for at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC); at.Before(time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)); at = at.Add(time.Hour) {
		names = append(names, backupPrefix+at.Format(backupTime)+backupSuffix)
		old := superfluous(append(names, "notes.txt", "mefcloud-mine.backup"))
		names = slices.DeleteFunc(names, func(n string) bool { return slices.Contains(old, n) })
	}
	if len(names) != exportNewest+exportDays-1 || names[0] != "mefcloud-20260222T230000.backup" || names[len(names)-1] != "mefcloud-20260228T230000.backup" {
		t.Errorf("%d are kept: %q", len(names), names)
	}
	e := exporter{at: time.Unix(0, 0), seq: 7, decisions: 3}
	for _, tt := range []struct {
		passed         time.Duration
		seq, decisions uint64
		want           bool
	}{{2 * time.Hour, 7, 3, false}, {time.Minute, 8, 4, false}, {11 * time.Minute, 8, 4, true}, {11 * time.Minute, 8, 3, false}, {time.Hour, 8, 3, true}} {
		if got := e.due(e.at.Add(tt.passed), tt.seq, tt.decisions); got != tt.want {
			t.Errorf("after %v, %d entries and %d decisions: due %v", tt.passed, tt.seq, tt.decisions, got)
		}
	}
}
