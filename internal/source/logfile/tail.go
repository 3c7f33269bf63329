package logfile

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"mef/internal/event"
	"mef/internal/logtext"
)

// A tail follows one path.
type tail struct {
	path string
	cur  *file   // what stands behind the path; nil: nothing that can be read
	old  []*file // what stood there before, oldest first, until their writers have left them

	left   *position // where reading was when there last was a file; nil: not known
	before bool      // the path was there before us, so what is in it is mostly old
	gone   bool      // there is no such path now
	dirty  bool      // written to since it was last read

	status Status // guarded by Follower.mu
	readTo int64  // guarded by Follower.mu: how far cur was read, whole lines only
	seenTo int64  // guarded by Follower.mu: where cur ended when it was last read
	reads  fileID // guarded by Follower.mu: of cur

	reading time.Time // guarded by Follower.mu: when reading of cur began that has not come to its end yet; zero: none
}

// look finds out whether another file stands behind the path than before, and goes over to it.
func (f *Follower) look(ctx context.Context, t *tail) {
	id, err := statID(t.path)
	if t.gone = errors.Is(err, fs.ErrNotExist); t.gone {
		t.before = false
	}
	switch owner := f.open[id]; {
	case err != nil:
	case owner == nil:
		err = f.change(ctx, t)
	case owner != t:
		err = errors.New("the same file as " + owner.path)
	case t.cur == nil || t.cur.id != id:
		f.comeBack(ctx, t, id)
	}
	f.update(t, func(s *Status) {
		s.State, s.Reason, s.Polling, s.Denied = Active, "", f.watch == nil, errors.Is(err, fs.ErrPermission)
		if err != nil {
			s.State, s.Reason = Waiting, reason(err)
		}
	})
}

// statID returns the ID of the file behind path.
func statID(path string) (fileID, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return fileID{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return fileID{st.Dev, st.Ino}, nil
}

// change opens the file behind the path. The one that stood there before is read to its end first, and stays open: its
// writer may not have noticed yet.
func (f *Follower) change(ctx context.Context, t *tail) error {
	opened, err := f.openFile(t.path, t.path)
	if err != nil {
		return err
	}
	if f.open[opened.id] != nil {
		opened.close()
		f.again = true
		return errors.New("being replaced")
	}
	if t.cur != nil {
		f.readCurrent(ctx, t, toItsEnd(t.cur))
		t.left = &t.cur.pos
	}
	if err := f.place(ctx, t, opened); err != nil {
		opened.close()
		return err
	}
	f.retire(t)
	t.cur, t.left = opened, nil
	delete(f.resume, t.path)
	f.hold(t, opened)
	f.announce(ctx, t)
	return nil
}

// readBetween reads the files that came behind the path after the current one and were rotated away before anybody looked, and keeps
// them open with it. The file next stands behind the path now. It returns where reading ended, and what is still to come of lines that
// began before.
func (f *Follower) readBetween(ctx context.Context, t *tail, next fileID) (position, logtext.Rest) {
	left, rest := t.cur.pos, t.cur.rest
	f.retire(t)
	for i, file := range f.findRotated(t.path, left, next) {
		if i == 0 || f.open[file.id] != nil || f.past[file.id].holds(file.fd) { // read already, as itself or as what it is a copy of
			file.close()
			continue
		}
		file.oldest = f.oldest()
		f.readRest(ctx, t, file, left.next(file.id), rest)
		file.moved = time.Now()
		t.old = append(t.old, file)
		f.hold(t, file)
		left, rest = file.pos, file.rest
	}
	return left, rest
}

// retire makes the current file an old one.
func (f *Follower) retire(t *tail) {
	if t.cur == nil {
		return
	}
	t.cur.moved = time.Now()
	t.old = append(t.old, t.cur)
	t.cur = nil
}

// comeBack makes an old file the current one again, because it was renamed back.
func (f *Follower) comeBack(ctx context.Context, t *tail, id fileID) {
	i := slices.IndexFunc(t.old, func(o *file) bool { return o.id == id })
	if i < 0 {
		return
	}
	back := t.old[i]
	t.old = slices.Delete(t.old, i, i+1)
	f.retire(t)
	t.cur = back
	f.announce(ctx, t)
}

// place decides where in the opened file reading begins.
func (f *Follower) place(ctx context.Context, t *tail, opened *file) error {
	past, read := f.past[opened.id]
	switch {
	case t.left != nil && t.left.offset == 0 && t.left.id == opened.id:
		opened.pos.gen = t.left.gen
		return nil
	case t.left != nil && t.left.holds(opened.fd):
		return opened.seek(*t.left)
	case t.left != nil && t.cur != nil:
		left, rest := f.readBetween(ctx, t, opened.id)
		opened.pos, opened.rest = left.next(opened.id), rest
		return nil
	case t.left != nil:
		left, rest := f.readRotated(ctx, t, opened.id)
		opened.pos, opened.rest = left.next(opened.id), rest
		return nil
	case read && past.holds(opened.fd):
		return opened.seek(past)
	case t.before:
		return f.placeRecent(opened)
	}
	opened.oldest = f.oldest()
	return nil
}

// placeRecent makes reading begin a few lines before the end of a file that nothing is known of.
func (f *Follower) placeRecent(opened *file) error {
	opened.oldest = f.oldest()
	lines := cmp.Or(f.cfg.Recent.Lines, -1)
	if f.cfg.Stamp == nil {
		lines = 0
	}
	start, err := recentStart(opened.fd, opened.catchUp, lines)
	if err != nil {
		return err
	}
	if err := opened.startAt(start); err != nil {
		return err
	}
	// What is at the end may be the rest of a line that is too long.
	opened.skipping = start > 0 && !opened.atLine()
	return nil
}

// oldest returns from when on lines count that were there before us; zero if all do.
func (f *Follower) oldest() time.Time {
	if f.cfg.Recent.Window <= 0 {
		return time.Time{}
	}
	return time.Now().Add(-f.cfg.Recent.Window)
}

// hold notes whose file an open one is, and watches it.
func (f *Follower) hold(t *tail, file *file) {
	f.open[file.id] = t
	t.dirty = true // what was written before it is watched is read in any case
	if f.watch == nil {
		return
	}
	wd, err := f.watch.watchFile(file.fd, t)
	if err != nil {
		f.stopWatching(err)
	}
	file.wd = wd
}

// release closes a file. If a glob names it again, reading goes on where it was.
func (f *Follower) release(file *file) {
	if f.watch != nil {
		f.watch.unwatchFile(file.wd)
	}
	if len(f.past) > maxFiles {
		clear(f.past)
	}
	f.past[file.id] = file.pos
	delete(f.open, file.id)
	file.close()
}

// readTail reads what was written to a tail's files.
func (f *Follower) readTail(ctx context.Context, t *tail) {
	for _, o := range t.old {
		if read, _ := f.readFile(ctx, t, o, turn); read > 0 {
			o.moved = time.Now()
		}
	}
	if t.cur != nil {
		f.readCurrent(ctx, t, turn)
	}
	f.closeLeft(ctx, t)
}

// readCurrent reads at most limit bytes of the current file, or a little more.
func (f *Follower) readCurrent(ctx context.Context, t *tail, limit int64) {
	f.update(t, func(*Status) {
		if t.reads = t.cur.id; t.reading.IsZero() {
			t.reading = time.Now()
		}
	})
	read, err := f.readFile(ctx, t, t.cur, limit)
	if errors.Is(err, errRewritten) {
		if err = f.restart(ctx, t); err == nil {
			read, err = f.readFile(ctx, t, t.cur, toItsEnd(t.cur))
		}
	}
	f.update(t, func(*Status) {
		if t.seenTo = t.cur.seen; read < limit {
			t.reading = time.Time{}
		}
	})
	if read > 0 || !t.gone {
		t.cur.moved = time.Now()
	}
	if err != nil {
		f.update(t, func(s *Status) { s.State, s.Reason = Waiting, reason(err) })
	}
}

// restart makes reading of the current file begin again, because it was cut to nothing and perhaps written anew. What was
// not read before that is in the copy that the rotation made.
func (f *Follower) restart(ctx context.Context, t *tail) error {
	left := t.cur.pos
	copies := f.findRotated(t.path, left, t.cur.id)
	defer closeFiles(copies)
	if len(copies) > 0 {
		copies[0].catchUp = 0
	}
	left, rest := f.readEach(ctx, t, copies, left)
	_, size, err := identify(t.cur.fd)
	if err != nil {
		return err
	}
	t.cur.catchUp, t.cur.lost = size, 0 // it may be the same log, edited: its lines are as old as their dates
	if err := t.cur.seek(left.next(t.cur.id)); err != nil {
		return err
	}
	t.cur.rest = rest
	f.announce(ctx, t)
	return nil
}

// closeLeft closes the files that their writers have left: rotated ones, and the current one if its path is gone. What there
// is of an unfinished line is given up then: a line without its end is not the line that its writer meant.
func (f *Follower) closeLeft(ctx context.Context, t *tail) {
	if ctx.Err() != nil {
		return
	}
	crowd := len(t.old) - maxOld
	t.old = slices.DeleteFunc(t.old, func(o *file) bool {
		crowd--
		if crowd < 0 && time.Since(o.moved) < cmp.Or(f.cfg.Linger, linger) {
			return false
		}
		if toItsEnd(o) > 0 {
			f.lose(ctx, t)
		}
		f.release(o)
		return true
	})
	if t.cur != nil && t.gone && time.Since(t.cur.moved) >= cmp.Or(f.cfg.Linger, linger) {
		left := t.cur.pos
		f.release(t.cur)
		t.cur, t.left = nil, &left
	}
}

// lose reports a line that was lost.
func (f *Follower) lose(ctx context.Context, t *tail) {
	b := f.pool.Get()
	b.Source, b.Lost = t.path, 1
	if f.deliver(ctx, b) {
		f.update(t, func(s *Status) { s.Lost++ })
	}
}

// forget reports that a source has ended.
func (f *Follower) forget(ctx context.Context, path string) {
	b := f.pool.Get()
	b.Source, b.Gone = path, true
	f.deliver(ctx, b)
}

// toItsEnd returns how many bytes of a file are not read.
func toItsEnd(file *file) int64 {
	_, size, err := identify(file.fd)
	if err != nil {
		return 0
	}
	return size - file.next
}

// readFile reads a file to its end, but stops after limit bytes or a little more.
func (f *Follower) readFile(ctx context.Context, t *tail, file *file, limit int64) (read int64, err error) {
	for ctx.Err() == nil {
		b := f.pool.Get()
		n, end, err := file.read(b)
		if err != nil {
			b.Release()
			return read, err
		}
		if err := f.send(ctx, t, file, b, n); err != nil {
			return read, err
		}
		if read += int64(n); end {
			break
		}
		if read >= limit {
			f.backlog = true
			break
		}
	}
	return read, nil
}

// send hands a batch over, if there is anything in it. read is how many bytes were read for it.
func (f *Follower) send(ctx context.Context, t *tail, file *file, b *event.Batch, read int) error {
	lost := file.lost
	if file.skipping {
		lost = 0 // reported at the end of the line, because the position is still before the line
	}
	if len(b.Lines) == 0 && lost == 0 {
		b.Release()
		return nil
	}
	name, err := file.name()
	if err != nil {
		b.Release()
		return err
	}
	now := time.Now()
	f.stamp(file, b, now)
	b.Source, b.Stream, b.Lost = t.path, name, lost
	if file == t.cur || !slices.Contains(t.old, file) { // an old file must not move the position back
		b.Resume = file.pos.String()
	}
	lines := len(b.Lines)
	if !f.deliver(ctx, b) {
		return nil
	}
	file.lost -= lost
	f.update(t, func(s *Status) {
		s.Lines += uint64(lines)
		s.Bytes += uint64(read)
		s.Lost += uint64(lost)
		if lines > 0 {
			s.LastLine = now
		}
		if file == t.cur {
			t.readTo = file.pos.offset
		}
	})
	return nil
}

// deliver sends a batch, and returns whether it did. Once ctx is done it sends nothing, so that no batch overtakes one that
// was not sent.
func (f *Follower) deliver(ctx context.Context, b *event.Batch) bool {
	if ctx.Err() == nil {
		select {
		case f.out <- b:
			return true
		case <-ctx.Done():
		}
	}
	b.Release()
	return false
}

// stamp gives each line its time, and takes out those that are too old.
func (f *Follower) stamp(file *file, b *event.Batch, now time.Time) {
	kept := b.Lines[:0]
	for _, line := range b.Lines {
		line.Time = now
		if f.cfg.Stamp != nil && line.Offset <= uint64(file.catchUp) {
			if at, ok := f.cfg.Stamp(line.Text, now); ok && at.Before(now) {
				line.Time = at
			}
			if line.Time.Before(file.oldest) {
				continue
			}
		}
		kept = append(kept, line)
	}
	b.Lines = kept
}

// announce sends where reading of the current file begins, so that a restart before its first line goes on there too. Of a
// file that takes the place of another it sends nothing before there is a line: a position in an empty file fits any other,
// and the last one in the file before leads here as well, past whatever is rotated away in between.
func (f *Follower) announce(ctx context.Context, t *tail) {
	f.update(t, func(*Status) { t.readTo = t.cur.pos.offset })
	if t.cur.pos.offset == 0 && t.cur.pos.gen > 0 {
		return
	}
	b := f.pool.Get()
	b.Source, b.Resume = t.path, t.cur.pos.String()
	f.deliver(ctx, b)
}

// update changes a tail's status.
func (f *Follower) update(t *tail, change func(*Status)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&t.status)
}
