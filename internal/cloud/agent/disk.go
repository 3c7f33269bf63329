package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"mef/internal/atomicfile"
	"mef/internal/cloud/wire"
	"mef/internal/prefixset"
)

// A host keeps on its disk what it would lose when it is killed or restarted while the server is away: reports and events for the operator's other
// hosts that wait, in the file of the membership, and the last whole form of each list, as the server has signed it. Neither is written while something waits for it.
const (
	keepEvery  = 2 * time.Second // what came in the last such time can be lost
	listEvery  = time.Hour       // a list that has changed is fetched as a whole and kept
	listAtMost = 12 * time.Hour  // and so is one that has not
)

func (a *Agent) listPath(name string) string { return filepath.Join(a.dir, "community-"+name+".list") }

// keep writes the membership with what waits.
func (a *Agent) keep(m *membership) error {
	a.saving.Lock()
	defer a.saving.Unlock()
	a.mu.Lock()
	if a.member != m {
		a.mu.Unlock()
		return nil
	}
	now := *m
	now.Waiting, now.Events = slices.Clone(a.queue), slices.Concat(a.fleet.sending, a.fleet.queue)
	a.mu.Unlock()
	text, err := json.Marshal(now)
	if err != nil {
		return err
	}
	return atomicfile.Write(a.path(), text, 0o600)
}

// keepQueue writes what waits while it changes, until ctx is done.
func (a *Agent) keepQueue(ctx context.Context, m *membership) {
	kept, some := uint64(0), true
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.queued:
		}
		if !pause(ctx, keepEvery) { // most is sent by then
			return
		}
		a.mu.Lock()
		change, waits := a.change, len(a.queue)+len(a.fleet.queue)+len(a.fleet.sending) > 0
		a.mu.Unlock()
		if change == kept || !waits && !some {
			continue
		}
		kept, some = change, waits
		a.note("what waits, on the disk", a.keep(m))
	}
}

// loadLists reads the lists that were kept. One that is damaged, too old or not the server's is not used.
func (a *Agent) loadLists(now time.Time) {
	for _, name := range a.member.Lists {
		data, err := readFile(a.listPath(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var f wire.Feed
		var add prefixset.Packer
		var l list
		if err == nil {
			f, err = wire.DecodeFeed(data, a.member.server.Feed, add.Add)
		}
		if err == nil && f.Since != 0 {
			err = errors.New("it is not a whole list")
		}
		if err == nil {
			l, err = list{}.next(f, add.Pack(), name, now)
		}
		if err != nil {
			err = fmt.Errorf("%q is not used: %w", a.listPath(name), err)
			a.log.Warn("community server", "what", "list "+name, "err", err)
			continue
		}
		l.kept, l.keptSeq = l.at, l.changed
		a.lists[name] = l
	}
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, wire.MaxFeed+1))
}

// stale reports whether a list is to be fetched as a whole and kept.
func (l list) stale(now time.Time) bool {
	since := now.Sub(l.kept)
	return since > listAtMost || since > listEvery && l.changed != l.keptSeq
}

// keepList writes a whole list that was received.
func (a *Agent) keepList(m *membership, name string, data []byte) {
	a.saving.Lock()
	defer a.saving.Unlock()
	a.mu.Lock()
	l, ok := a.lists[name]
	ok = ok && a.member == m
	a.mu.Unlock()
	if !ok {
		return
	}
	err := atomicfile.Write(a.listPath(name), data, 0o600)
	a.note("list "+name+", on the disk", err)
	a.mu.Lock()
	defer a.mu.Unlock()
	if now, ok := a.lists[name]; ok && a.member == m { // after an error it is tried again as late
		now.kept, now.keptSeq = time.Now(), l.changed
		a.lists[name] = now
	}
}

// dropKept removes the lists that were kept.
func (a *Agent) dropKept() error {
	var err error
	for _, name := range []string{"public", ownList, namesFile} {
		if e := os.Remove(a.listPath(name)); !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}
