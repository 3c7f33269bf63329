package logfile_test

import (
	"fmt"
	"path/filepath"
	"runtime"
	"testing"

	"mef/internal/source/logfile"
)

// A followed file costs little, for there may be a thousand: 16 KB with what the engine keeps for it (see the like there).
func TestMemoryOfAFile(t *testing.T) {
	const files, most = 300, 8 << 10
	dir := t.TempDir()
	for i := range files {
		write(t, filepath.Join(dir, fmt.Sprintf("f%c%d.log", 'a'+i%26, i)), "Jan  2 03:04:05 h sshd[1]: hello\n")
	}
	before := heap()
	r := start(t, logfile.Config{Globs: []string{filepath.Join(dir, "*.log")}}, nil)
	r.until("all files are read", func() bool { return len(r.resume) == files })
	if each := (int64(heap()) - int64(before)) / files; each > most {
		t.Errorf("%d bytes a file, want at most %d", each, most)
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC() // what pools hold is given up by the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
