package logfile_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mef/internal/event"
	"mef/internal/source/logfile"
)

// patience is how long a test waits for what must happen.
const patience = time.Minute

// modes are the ways to notice changes; every test of rotation runs in each.
var modes = map[string]time.Duration{"inotify": 0, "poll": 20 * time.Millisecond}

// A reader runs a Follower and notes what it hands over.
type reader struct {
	t      *testing.T
	follow *logfile.Follower
	out    chan *event.Batch
	stop   func()

	lines  []string
	seen   atomic.Int64 // how many
	times  []time.Time
	lost   int
	gone   map[string]bool
	resume map[string]string // the last position by source
	places map[string]string // the line by stream and offset
}

// start follows cfg. The positions of the reader before, if any, are used.
func start(t *testing.T, cfg logfile.Config, before *reader) *reader {
	t.Helper()
	r := &reader{t: t, out: make(chan *event.Batch, 4), gone: map[string]bool{}, resume: map[string]string{}, places: map[string]string{}}
	if before != nil {
		before.close()
		r.resume, r.places = before.resume, before.places
		cfg.Resume = before.resume
	}
	r.follow = logfile.New(cfg, r.out)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.follow.Run(ctx) }()
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	}
	t.Cleanup(r.stop)
	r.until("the first look", func() bool { return len(r.follow.Status()) > 0 })
	return r
}

// close stops the follower as kill does: batches that nobody took yet are lost.
func (r *reader) close() { r.stop() }

func (r *reader) take(b *event.Batch) {
	if b.Resume != "" {
		r.resume[b.Source] = b.Resume
	}
	r.lost += b.Lost
	if b.Gone {
		r.gone[b.Source] = true
	}
	for _, line := range b.Lines {
		place := fmt.Sprintf("%s %d", b.Stream, line.Offset)
		text := string(line.Text)
		if other, ok := r.places[place]; ok && other != text {
			r.t.Errorf("two lines at %s: %q and %q", place, other, text)
		}
		r.places[place] = text
		r.lines = append(r.lines, text)
		r.seen.Add(1)
		r.times = append(r.times, line.Time)
	}
	b.Release()
}

// until takes batches until done.
func (r *reader) until(what string, done func() bool) {
	r.t.Helper()
	limit := time.After(patience)
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for !done() {
		select {
		case b := <-r.out:
			r.take(b)
		case <-look.C:
		case <-limit:
			r.t.Fatalf("waiting for %s; have %d lines ending in %.200q, status %+v", what, len(r.lines), last(r.lines, 5), r.follow.Status())
		}
	}
}

func last(lines []string, n int) []string { return lines[max(0, len(lines)-n):] }

// want waits for exactly these lines, in order, and that nothing follows them.
func (r *reader) want(lines ...string) {
	r.t.Helper()
	r.until(fmt.Sprintf("%d lines", len(lines)), func() bool { return len(r.lines) >= len(lines) })
	if !slices.Equal(r.lines, lines) {
		r.t.Fatalf("lines %.300q, want %.300q", r.lines, lines)
	}
}

// following waits until path is followed.
func (r *reader) following(path string) {
	r.t.Helper()
	r.until("following "+path, func() bool { return r.resume[path] != "" })
}

// status returns the row of a path.
func (r *reader) status(path string) logfile.Status {
	for _, row := range r.follow.Status() {
		if row.Path == path {
			return row
		}
	}
	return logfile.Status{}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	appendTo(t, path, os.O_APPEND|os.O_CREATE, text)
}

func appendTo(t *testing.T, path string, flags int, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|flags, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// copyFile does what the first half of copytruncate does.
func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(to, data, 0o600))
}

// Each rotation happens once while lines "2" and "3" have been written and perhaps not been read; "4" and "5" come after it.
func rotations(t *testing.T) map[string]func(path string) {
	return map[string]func(path string){
		"none": func(path string) { write(t, path, "4\n5\n") },
		"rename and create": func(path string) {
			must(t, os.Rename(path, path+".1"))
			write(t, path, "4\n5\n")
		},
		"writer stays with the renamed file": func(path string) {
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
			must(t, err)
			defer f.Close()
			must(t, os.Rename(path, path+".1"))
			f.WriteString("4\n")
			write(t, path, "5\n")
		},
		"dated name": func(path string) {
			must(t, os.Rename(path, path+"-20260102"))
			write(t, path, "4\n5\n")
		},
		"copytruncate": func(path string) {
			copyFile(t, path, path+".1")
			must(t, os.Truncate(path, 0))
			write(t, path, "4\n5\n")
		},
		"copytruncate under a writer that keeps its offset": func(path string) {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			must(t, err)
			defer f.Close()
			_, err = f.Seek(0, 2)
			must(t, err)
			copyFile(t, path, path+".1")
			must(t, os.Truncate(path, 0))
			f.WriteString("4\n5\n")
		},
		"copytruncate and grown longer than before": func(path string) {
			copyFile(t, path, path+".1")
			must(t, os.Truncate(path, 0))
			write(t, path, "4\n5\n"+strings.Repeat("\n", 10000))
		},
		"replaced by a longer copy of itself": func(path string) {
			copyFile(t, path, path+".new")
			write(t, path+".new", "4\n5\n")
			must(t, os.Rename(path+".new", path))
		},
		"renamed and back": func(path string) {
			must(t, os.Rename(path, path+".away"))
			must(t, os.Rename(path+".away", path))
			write(t, path, "4\n5\n")
		},
		"pieces of lines": func(path string) {
			write(t, path, "4")
			write(t, path, "\n5")
			write(t, path, "\n")
		},
	}
}

// deleteAndCreate leaves the old content to those alone who have the file open.
func deleteAndCreate(t *testing.T) func(path string) {
	return func(path string) {
		must(t, os.Remove(path))
		write(t, path, "4\n5\n")
	}
}

// The file's first line differs from run to run, as that of a real log does, and stands for the lines read before.
func TestRotation(t *testing.T) {
	all := rotations(t)
	all["delete and create"] = deleteAndCreate(t)
	for mode, poll := range modes {
		for name, rotate := range all {
			t.Run(mode+"/"+name, func(t *testing.T) {
				t.Parallel()
				path := filepath.Join(t.TempDir(), "auth.log")
				write(t, path, "0\n")
				r := start(t, logfile.Config{Globs: []string{path}, Poll: poll}, nil)
				r.following(path)
				write(t, path, "1\n")
				r.want("1")
				write(t, path, "2\n3\n")
				rotate(path)
				r.want("1", "2", "3", "4", "5")
				r.settle(path, poll)
				write(t, path, "6\n")
				r.want("1", "2", "3", "4", "5", "6")
			})
		}
	}
}

// settle waits until everything written has been read.
func (r *reader) settle(path string, poll time.Duration) {
	r.t.Helper()
	r.until("no lag", func() bool { s := r.status(path); return s.State == logfile.Active && s.Lag == 0 })
}

// The same rotations happen while nobody follows.
func TestRotationWhileStopped(t *testing.T) {
	for name, rotate := range rotations(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "auth.log")
			write(t, path, "0\n")
			cfg := logfile.Config{Globs: []string{path}}
			r := start(t, cfg, nil)
			r.following(path)
			write(t, path, "1\n")
			r.want("1")
			r.close()
			write(t, path, "2\n3\n")
			rotate(path)
			r = start(t, cfg, r)
			r.want("2", "3", "4", "5")
			r = start(t, cfg, r)
			write(t, path, "6\n")
			r.want("6")
		})
	}
}

// What was written to a file that is deleted while nobody has it open is gone; what follows it is not.
func TestDeletedWhileStopped(t *testing.T) {
	path := filepath.Join(t.TempDir(), "auth.log")
	write(t, path, "0\n")
	cfg := logfile.Config{Globs: []string{path}}
	r := start(t, cfg, nil)
	r.following(path)
	write(t, path, "1\n")
	r.want("1")
	r.close()
	write(t, path, "2\n3\n")
	deleteAndCreate(t)(path)
	r = start(t, cfg, r)
	r.want("4", "5")
	r = start(t, cfg, r)
	write(t, path, "6\n")
	r.want("6")
}

// A line that is written in three pieces is one line, however long the pieces are apart: each has been read before the next is
// written, also if the file is rotated meanwhile.
func TestALineInThreePieces(t *testing.T) {
	for mode, poll := range modes {
		for name, rotate := range map[string]func(path string){
			"in place": func(string) {},
			"renamed":  func(path string) { must(t, os.Rename(path, path+".1")); write(t, path, "") },
		} {
			t.Run(mode+"/"+name, func(t *testing.T) {
				dir := t.TempDir()
				path, other := filepath.Join(dir, "a.log"), filepath.Join(dir, "b.log")
				write(t, path, "0\n")
				write(t, other, "0\n")
				r := start(t, logfile.Config{Globs: []string{filepath.Join(dir, "*.log")}, Poll: poll}, nil)
				r.following(path)
				r.following(other)
				writer, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
				must(t, err)
				defer writer.Close()
				var want []string
				for i, piece := range []string{"Failed pass", "word for root fr", "om 192.0.2.7"} {
					if i == 2 {
						rotate(path)
					}
					_, err := writer.WriteString(piece)
					must(t, err)
					// Files are read in order of their names: with this line the piece has been seen.
					write(t, other, fmt.Sprintf("%d\n", i))
					want = append(want, fmt.Sprint(i))
					r.want(want...)
				}
				_, err = writer.WriteString("\n")
				must(t, err)
				r.want(append(want, "Failed password for root from 192.0.2.7")...)
			})
		}
	}
}

func TestRotatedTwiceWhileStopped(t *testing.T) {
	path := filepath.Join(t.TempDir(), "auth.log")
	write(t, path, "0\n")
	cfg := logfile.Config{Globs: []string{path}}
	r := start(t, cfg, nil)
	r.following(path)
	r.close()
	at := time.Now()
	for i, text := range []string{"1\n", "2\n", "3\n"} {
		if i > 0 {
			os.Rename(path+".1", path+".2")
			must(t, os.Rename(path, path+".1"))
		}
		write(t, path, text)
		must(t, os.Chtimes(path, at, at.Add(time.Duration(i)*time.Hour)))
	}
	r = start(t, cfg, r)
	r.want("1", "2", "3")
}

// Two rotations between two looks leave a file behind that never stood behind the path when anybody looked.
func TestRotatedTwiceBetweenLooks(t *testing.T) {
	for name, rotate := range map[string]func(path string){
		"rename and create": func(path string) { must(t, os.Rename(path, path+".1")) },
		"copytruncate":      func(path string) { copyFile(t, path, path+".1"); must(t, os.Truncate(path, 0)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "auth.log")
			write(t, path+".1", "old\n")
			at := time.Now()
			must(t, os.Chtimes(path+".1", at, at.Add(-3*time.Hour)))
			write(t, path, "0\n")
			cfg := logfile.Config{Globs: []string{path}, Poll: 200 * time.Millisecond}
			r := start(t, cfg, nil)
			r.following(path)
			write(t, path, "1\n")
			r.want("1")
			write(t, path, "2\n")
			for i, text := range []string{"3\n4\n", "5\n"} {
				os.Rename(path+".1", path+".2")
				rotate(path)
				must(t, os.Chtimes(path+".1", at, at.Add(time.Duration(i-2)*time.Hour)))
				write(t, path, text)
			}
			r.want("1", "2", "3", "4", "5")
			r.settle(path, cfg.Poll)
			saved := r.resume[path]
			write(t, path, "6\n")
			r.want("1", "2", "3", "4", "5", "6")
			r.resume[path] = saved
			r = start(t, cfg, r)
			r.want("6")
		})
	}
}

// kill -9 loses what was handed over and not dealt with; it comes again under the same name.
func TestLinesComeAgainUnderTheSameName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "auth.log")
	cfg := logfile.Config{Globs: []string{path}}
	r := start(t, cfg, nil)
	write(t, path, "1\n2\n")
	r.want("1", "2")
	saved := r.resume[path]
	write(t, path, "3\n")
	r.want("1", "2", "3")
	must(t, os.Rename(path, path+".1"))
	write(t, path, "4\n")
	r.want("1", "2", "3", "4")
	places := len(r.places)
	r.resume[path] = saved
	r = start(t, cfg, r)
	r.want("3", "4")
	if len(r.places) != places {
		t.Errorf("lines read again have other names: %q", r.places)
	}
}

func TestDeleteAndCreate(t *testing.T) {
	for mode, poll := range modes {
		t.Run(mode, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "auth.log")
			r := start(t, logfile.Config{Globs: []string{path}, Poll: poll}, nil)
			var all []string
			for i := range 20 {
				text := fmt.Sprintf("line %d", i)
				write(t, path, text+"\n")
				all = append(all, text)
				r.want(all...)
				must(t, os.Remove(path))
			}
		})
	}
}

func TestSymlinkSwap(t *testing.T) {
	for mode, poll := range modes {
		t.Run(mode, func(t *testing.T) {
			dir := t.TempDir()
			must(t, os.Mkdir(filepath.Join(dir, "data"), 0o700))
			path := filepath.Join(dir, "current.log")
			swap := func(to string) {
				must(t, os.Symlink(to, path+".new"))
				must(t, os.Rename(path+".new", path))
			}
			write(t, filepath.Join(dir, "data", "a"), "0\n")
			swap("data/a")
			r := start(t, logfile.Config{Globs: []string{filepath.Join(dir, "*.log")}, Poll: poll}, nil)
			r.following(path)
			write(t, path, "1\n")
			r.want("1")
			write(t, filepath.Join(dir, "data", "a"), "2\n")
			write(t, filepath.Join(dir, "data", "b"), "3\n")
			swap("data/b")
			r.want("1", "2", "3")
			// The file behind the link is rotated itself.
			must(t, os.Rename(filepath.Join(dir, "data", "b"), filepath.Join(dir, "data", "b.1")))
			write(t, filepath.Join(dir, "data", "b"), "4\n")
			r.want("1", "2", "3", "4")
		})
	}
}

// The link leads elsewhere when the follower comes back, and what was written meanwhile stands behind both ends.
func TestSymlinkSwappedWhileStopped(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "current.log")
	swap := func(to string) {
		must(t, os.Symlink(to, path+".new"))
		must(t, os.Rename(path+".new", path))
	}
	old, next := filepath.Join(dir, "2026-01-01"), filepath.Join(dir, "2026-01-02")
	write(t, old, "0\n")
	swap(old)
	cfg := logfile.Config{Globs: []string{path}}
	r := start(t, cfg, nil)
	r.following(path)
	write(t, path, "1\n")
	r.want("1")
	r.close()
	write(t, old, "2\n3\n")
	write(t, next, "4\n5\n")
	swap(next)
	r = start(t, cfg, r)
	r.want("2", "3", "4", "5")
	r = start(t, cfg, r)
	write(t, path, "6\n")
	r.want("6")
}

func TestLateFilesAndDirectories(t *testing.T) {
	for mode, poll := range modes {
		t.Run(mode, func(t *testing.T) {
			dir := t.TempDir()
			globs := []string{filepath.Join(dir, "auth.log"), filepath.Join(dir, "www", "*", "logs", "*.log")}
			r := start(t, logfile.Config{Globs: globs, Poll: poll}, nil)
			r.until("both waiting", func() bool { return len(r.follow.Status()) == 2 })
			for _, row := range r.follow.Status() {
				if row.State != logfile.Waiting || row.Reason != "no such file" || row.Path != "" {
					t.Errorf("status of an absent file: %+v", row)
				}
			}
			write(t, globs[0], "1\n")
			r.want("1")
			must(t, os.MkdirAll(filepath.Join(dir, "www", "a", "logs"), 0o700))
			write(t, filepath.Join(dir, "www", "a", "logs", "x.log"), "2\n")
			r.want("1", "2")
			must(t, os.MkdirAll(filepath.Join(dir, "www", "b"), 0o700))
			must(t, os.MkdirAll(filepath.Join(dir, "www", "b", "logs"), 0o700))
			write(t, filepath.Join(dir, "www", "b", "logs", "y.log"), "3\n")
			r.want("1", "2", "3")
			write(t, filepath.Join(dir, "www", "a", "logs", "z.log"), "4\n")
			r.want("1", "2", "3", "4")
			// The whole directory is swapped for another.
			must(t, os.Rename(filepath.Join(dir, "www"), filepath.Join(dir, "old")))
			must(t, os.MkdirAll(filepath.Join(dir, "www", "c", "logs"), 0o700))
			write(t, filepath.Join(dir, "www", "c", "logs", "x.log"), "5\n")
			r.want("1", "2", "3", "4", "5")
		})
	}
}

// Names that a glob matches because it is wide are still not other logs.
func TestRotatedFilesAreNoLogsOfTheirOwn(t *testing.T) {
	for mode, poll := range modes {
		t.Run(mode, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "maillog")
			write(t, path, "0\n")
			write(t, path+".2.gz", "garbage\n")
			write(t, path+"-20260101", "old\n")
			cfg := logfile.Config{Globs: []string{path + "*"}, Poll: poll}
			r := start(t, cfg, nil)
			r.following(path)
			write(t, path, "1\n")
			r.want("1")
			must(t, os.Rename(path, path+"-20260102"))
			write(t, path, "2\n")
			r.want("1", "2")
			copyFile(t, path, path+".1")
			must(t, os.Truncate(path, 0))
			write(t, path, "3\n")
			r.want("1", "2", "3")
			must(t, os.Link(path, path+"x")) // another name of the same file
			write(t, path, "4\n")
			r.want("1", "2", "3", "4")
			r = start(t, cfg, r)
			write(t, path, "5\n")
			r.want("5")
		})
	}
}

func TestUnreadableFileWaitsAndStopsNobody(t *testing.T) {
	dir := t.TempDir()
	good, fifo, link := filepath.Join(dir, "good.log"), filepath.Join(dir, "directory.log"), filepath.Join(dir, "link.log")
	must(t, os.Mkdir(fifo, 0o700))
	must(t, os.Symlink("absent", link))
	r := start(t, logfile.Config{Globs: []string{filepath.Join(dir, "*.log"), "relative/*", "/[", filepath.Join(dir, "absent", "x")}}, nil)
	write(t, good, "1\n")
	r.want("1")
	if s := r.status(fifo); s.State != logfile.Waiting || !strings.Contains(s.Reason, "not a regular file") {
		t.Errorf("status of a directory: %+v", s)
	}
	r.until("status of the good file", func() bool {
		s := r.status(good)
		return s.State == logfile.Active && s.Lines == 1 && s.Bytes == 2 && !s.LastLine.IsZero()
	})
	if rows := r.follow.Status(); len(rows) != 5 || rows[0].Reason != "not an absolute glob" {
		t.Errorf("status of all: %+v", rows)
	}
	write(t, filepath.Join(dir, "absent"), "2\n")
	r.want("1", "2")
}

// What a stranger makes a program write is survived.
func TestGarbage(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	fits := strings.Repeat("y", logfile.MaxLine)
	for name, tt := range map[string]struct {
		text string
		want []string
		lost int
	}{
		"long line":        {"a\n" + long + "\nb\n", []string{"a", "b"}, 1},
		"two long lines":   {long + "\n" + long + "\nb\n", []string{"b"}, 2},
		"longest line":     {"a\n" + fits + "\nb\n", []string{"a", fits, "b"}, 0},
		"a byte too many":  {"a\n" + fits + "y\nb\n", []string{"a", "b"}, 1},
		"NULs at start":    {strings.Repeat("\x00", 1<<20) + "a\nb\n", []string{"a", "b"}, 0},
		"NUL in a line":    {"a\x00b\nc\n", []string{"a\x00b", "c"}, 0},
		"invalid UTF-8":    {"\xff\xfe\nb\n", []string{"\xff\xfe", "b"}, 0},
		"carriage returns": {"a\r\nb\r\n", []string{"a", "b"}, 0},
		"empty lines":      {"\n\na\n\nb\n", []string{"a", "b"}, 0},
		"no line end":      {"a\nb\nhalf a li", []string{"a", "b"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "auth.log")
			r := start(t, logfile.Config{Globs: []string{path}}, nil)
			write(t, path, tt.text)
			r.want(tt.want...)
			r.until("the count of lost lines", func() bool { return r.status(path).Lost == uint64(tt.lost) })
			if r.lost != tt.lost {
				t.Errorf("lost %d lines, want %d", r.lost, tt.lost)
			}
		})
	}
}

// A restart in the middle of a line that is too long does not take the rest of it for a line.
func TestRestartInsideALongLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "auth.log")
	cfg := logfile.Config{Globs: []string{path}}
	r := start(t, cfg, nil)
	write(t, path, "a\n"+strings.Repeat("x", 300<<10))
	r.want("a")
	r = start(t, cfg, r)
	write(t, path, "forged\nb\n")
	r.want("b")
}

// Docker makes several records of a long line. A restart between them does not take the rest of it, which a client may have chosen, for a line.
func TestRestartInsideALineOfAContainer(t *testing.T) {
	record := func(text, stream string) string {
		return `{"log":"` + text + `","stream":"` + stream + `","time":"2026-03-01T10:00:00.123456789Z"}` + "\n"
	}
	text, escaped := strings.Repeat("x", 16<<10), strings.Repeat(`\u0001`, 16<<10) // the latter is too long to be read
	end, line := record(`forged\n`, "stdout"), record(`b\n`, "stdout")
	begun, other := record(text, "stdout"), record(`a\n`, "stderr")
	for name, tt := range map[string]struct {
		before, after string
		want          []string
	}{
		"between two lines":            {line, line + other, []string{line, other}},
		"in a line":                    {other + begun, end + line, []string{line}},
		"in a line of three records":   {other + begun, begun + end + line, []string{line}},
		"the other stream goes on":     {begun + other, other + end + line, []string{other, line}},
		"behind a record too long":     {line + record(escaped, "stdout") + other, end + line, []string{line}},
		"in front of one too long":     {line, record(escaped, "stdout") + end + line, []string{line}},
		"a line of another kind":       {begun, "x\n" + line, []string{"x\n", line}},
		"in a line of 17 records":      {strings.Repeat(begun, 16), begun + end + line, []string{line}},
		"behind the end of a long one": {begun + end, line, []string{line}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "c-json.log")
			cfg := logfile.Config{Globs: []string{path}}
			write(t, path, "")
			r := start(t, cfg, nil)
			r.following(path)
			write(t, path, tt.before)
			r.until("what is there", func() bool { return len(r.lines)+r.lost == strings.Count(tt.before, "\n") })
			r = start(t, cfg, r)
			write(t, path, tt.after)
			var want []string
			for _, line := range tt.want {
				want = append(want, strings.TrimSuffix(line, "\n"))
			}
			r.want(want...)
		})
	}
}

// Neither does a rotation between the records, whether the old file is kept or not.
func TestRotationInsideALineOfAContainer(t *testing.T) {
	const begun, end, line = `{"log":"a","stream":"stdout","time":"2026-03-01T10:00:00.1Z"}`, `{"log":"forged\n","stream":"stdout","time":"2026-03-01T10:00:00.1Z"}`,
		`{"log":"b\n","stream":"stdout","time":"2026-03-01T10:00:00.1Z"}`
	for name, rotate := range map[string]func(path string){
		"kept":    func(path string) { must(t, os.Rename(path, path+".1")) },
		"removed": func(path string) { must(t, os.Remove(path)) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "c-json.log")
			cfg := logfile.Config{Globs: []string{path}}
			write(t, path, "")
			r := start(t, cfg, nil)
			r.following(path)
			write(t, path, line+"\n"+begun+"\n")
			r.want(line, begun)
			r.close()
			rotate(path)
			write(t, path, end+"\n"+line+"\n")
			r = start(t, cfg, r)
			r.want(line)
		})
	}
}

func TestFirstStart(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	stamp := func(line []byte, _ time.Time) (time.Time, bool) {
		at, err := time.Parse(time.RFC3339, string(line))
		return at, err == nil
	}
	var text string
	var want []string
	for i := 100; i > 0; i-- {
		line := now.Add(-time.Duration(i) * time.Minute).Format(time.RFC3339)
		text += line + "\n"
		want = append(want, line)
	}
	for name, tt := range map[string]struct {
		recent logfile.Recent
		stamp  func([]byte, time.Time) (time.Time, bool)
		want   []string
	}{
		"limited by lines":  {logfile.Recent{Lines: 10, Window: time.Hour}, stamp, want[90:]},
		"limited by window": {logfile.Recent{Lines: 200, Window: time.Hour - time.Second}, stamp, want[41:]}, // for most of a minute
		"everything":        {logfile.Recent{Lines: 200, Window: 24 * time.Hour}, stamp, want},
		"no limits":         {logfile.Recent{}, stamp, want},
		"no limit of lines": {logfile.Recent{Window: time.Hour - time.Second}, stamp, want[41:]},
		"no limit of age":   {logfile.Recent{Lines: 10}, stamp, want[90:]},
		"no times":          {logfile.Recent{Lines: 200, Window: time.Hour}, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "auth.log")
			write(t, path, text)
			cfg := logfile.Config{Globs: []string{path}, Recent: tt.recent, Stamp: tt.stamp}
			r := start(t, cfg, nil)
			r.following(path)
			live := now.Add(-time.Hour * 1000).Format(time.RFC3339)
			r.settle(path, 0)
			write(t, path, live+"\n")
			r.want(append(slices.Clone(tt.want), live)...)
			for i, at := range r.times[:len(tt.want)] {
				if got := at.UTC().Format(time.RFC3339); got != now.UTC().Add(-time.Duration(len(tt.want)-i)*time.Minute).Format(time.RFC3339) {
					t.Errorf("line %q has the time %s", r.lines[i], got)
				}
			}
			if at := r.times[len(tt.want)]; time.Since(at) > time.Minute {
				t.Errorf("a live line has the time %s, want that of its arrival", at)
			}
			// What is written while nobody follows has the log's time.
			r.close()
			write(t, path, want[0]+"\n")
			r = start(t, cfg, r)
			r.want(want[0])
			if at := r.times[0]; tt.stamp != nil && time.Since(at) < time.Minute {
				t.Errorf("a line of the past has the time %s, want its own", at)
			}
		})
	}
}

// Whoever edits or trims a log by hand puts another file in its place, or writes it anew: its lines come again, and they are as old as
// they say.
func TestEditedLogIsNoNews(t *testing.T) {
	old := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	line := func(n int) string { return old.Add(time.Duration(n) * time.Second).Format(time.RFC3339) }
	cfg := logfile.Config{Stamp: func(line []byte, _ time.Time) (time.Time, bool) {
		at, err := time.Parse(time.RFC3339, string(line))
		return at, err == nil
	}}
	text := func(from, to int) (text string) {
		for i := from; i < to; i++ {
			text += line(i) + "\n"
		}
		return text
	}
	for name, edit := range map[string]func(path string){
		"sed -i '/3/d'": func(path string) {
			write(t, path+".new", text(0, 3)+text(4, 10))
			must(t, os.Rename(path+".new", path))
		},
		"the last lines alone": func(path string) {
			write(t, path+".new", text(4, 10))
			must(t, os.Rename(path+".new", path))
		},
		// Not cut off first: of a file that was seen empty, nobody can tell what is written next.
		"written over": func(path string) {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			must(t, err)
			defer f.Close()
			_, err = f.WriteString(text(4, 10))
			must(t, err)
			must(t, f.Truncate(int64(len(text(4, 10)))))
		},
	} {
		for mode, poll := range modes {
			t.Run(mode+"/"+name, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "auth.log")
				write(t, path, text(0, 10))
				cfg := cfg
				cfg.Globs, cfg.Poll = []string{path}, poll
				r := start(t, cfg, nil)
				r.following(path)
				r.settle(path, poll)
				edit(path)
				r.until("the lines", func() bool { return slices.Contains(r.lines, line(9)) })
				r.settle(path, poll)
				write(t, path, "live\n")
				r.until("a live line", func() bool { return slices.Contains(r.lines, "live") })
				for i, at := range r.times {
					if isOld := time.Since(at) > 30*time.Minute; isOld == (r.lines[i] == "live") {
						t.Errorf("line %q has the time %s", r.lines[i], at)
					}
				}
			})
		}
	}
}

func TestWrongPositionIsIgnored(t *testing.T) {
	path := filepath.Join(t.TempDir(), "auth.log")
	write(t, path, "0\n")
	cfg := logfile.Config{Globs: []string{path}, Resume: map[string]string{path: "nonsense"}}
	r := start(t, cfg, nil)
	r.following(path)
	write(t, path, "1\n")
	r.want("1")
}

// A full channel stops reading, not the follower: nothing is lost, and it can still be stopped.
func TestFullChannel(t *testing.T) {
	path := filepath.Join(t.TempDir(), "auth.log")
	r := start(t, logfile.Config{Globs: []string{path}}, nil)
	var text strings.Builder
	for i := range 200_000 {
		fmt.Fprintf(&text, "line %d\n", i)
	}
	write(t, path, text.String())
	r.until("a lag", func() bool { return r.status(path).Lag > 0 })
	r.until("all lines", func() bool { return len(r.lines) == 200_000 })
	if r.lines[199_999] != "line 199999" || !slices.IsSortedFunc(r.lines[:10], strings.Compare) {
		t.Errorf("lines out of order, ending in %q", last(r.lines, 3))
	}
	write(t, path, text.String())
	r.close()
}

// What is behind a name is looked at again at once while another file has a long backlog, for a file may be rotated twice meanwhile.
func TestRotationDuringABacklog(t *testing.T) {
	dir := t.TempDir()
	long, short := filepath.Join(dir, "mail.log"), filepath.Join(dir, "auth.log")
	write(t, long, "")
	write(t, short, "")
	r := start(t, logfile.Config{Globs: []string{long, short}}, nil)
	r.following(long)
	r.following(short)
	const lines = 20_000
	write(t, long, strings.Repeat(strings.Repeat("x", 1999)+"\n", lines)) // ten turns
	r.until("a lag", func() bool { return r.status(long).Lag > 0 })
	for i := range 3 {
		must(t, os.Rename(short, short+".1"))
		name := fmt.Sprintf("file %d", i)
		write(t, short, name+"\n")
		r.until(name, func() bool { return slices.Contains(r.lines, name) })
		if len(r.lines) > lines*9/10 {
			t.Fatalf("the line of %s came behind %d of another file", name, len(r.lines))
		}
	}
	r.until("all lines", func() bool { return len(r.lines) == lines+3 })
}

// A writer and logrotate at work for a while: every line arrives once, in order.
func TestRotationsUnderLoad(t *testing.T) {
	const rotations, lines = 10, 2000
	for mode, poll := range map[string]time.Duration{"inotify": 0, "poll": 2 * time.Millisecond} {
		for _, copying := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s copytruncate=%v", mode, copying), func(t *testing.T) {
				t.Parallel()
				path := filepath.Join(t.TempDir(), "auth.log")
				r := start(t, logfile.Config{Globs: []string{path}, Poll: poll}, nil)
				written := make(chan struct{})
				go func() {
					defer close(written)
					for i := range rotations {
						var text strings.Builder
						for j := range lines {
							fmt.Fprintf(&text, "line %d\n", i*lines+j)
							if j%100 == 99 || i == 0 && j == 0 {
								write(t, path, text.String())
								text.Reset()
								time.Sleep(3 * time.Millisecond) // the pace of the writer
							}
						}
						// What is renamed for the second time is not looked for, so only files that were read are.
						for end := time.Now().Add(patience); r.seen.Load() < int64(i*lines) && time.Now().Before(end); {
							time.Sleep(time.Millisecond)
						}
						os.Rename(path+".1", path+".2")
						if copying {
							copyFile(t, path, path+".1")
							os.Truncate(path, 0)
						} else {
							os.Rename(path, path+".1")
						}
					}
				}()
				r.until("all lines", func() bool { return len(r.lines) >= rotations*lines })
				<-written
				for i, line := range r.lines {
					if want := fmt.Sprintf("line %d", i); line != want {
						t.Fatalf("line %d is %q, want %q", i, line, want)
					}
				}
			})
		}
	}
}
