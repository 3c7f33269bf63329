package enforce

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// listWork is the state of the lists. It belongs to Run.
type listWork struct {
	want    map[string]List                              // nil until SetLists was called: lists of an earlier run remain as they are
	due     []string                                     // names of lists to be set, the present one first
	step    func(context.Context) (done bool, err error) // of due[0]; nil if it has not begun
	settled bool                                         // lists that are not wanted have been removed
	failed  map[string]error
	waiting []chan<- error
	repair  Repair // of lists that another program changed; nothing damaged: none
}

// SetLists makes these lists hold, and no others, and returns once they do: with an error if some do not, which is tried again. It
// replaces what an earlier call asked for, which then returns with the same result. It delays no bans: lists are written in steps, and bans in between.
func (e *Enforcer) SetLists(ctx context.Context, lists []List) error {
	want := make(map[string]List, len(lists))
	for _, l := range lists {
		if err := checkList(l); err != nil {
			return err
		}
		want[l.Name] = l
	}
	result := make(chan error, 1)
	if err := e.do(ctx, func(context.Context) error {
		e.lists.want = want
		e.lists.waiting = append(e.lists.waiting, result)
		e.setAllLists()
		return nil
	}); err != nil {
		return err
	}
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-e.done:
		return ErrStopped
	}
}

// checkList is the last line of defence against lists that must not be: their names become those of sets.
func checkList(l List) error {
	if l.Name == "" || len(l.Name) > MaxListName {
		return fmt.Errorf("list %q: its name must have 1 to %d bytes", l.Name, MaxListName)
	}
	for _, c := range []byte(l.Name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' {
			return fmt.Errorf("list %q: its name may have lower-case letters, digits, dots and hyphens only", l.Name)
		}
	}
	return nil
}

// Lists returns the lists that the kernel holds, and Listed the names of those that have an address. They do not delay bans.
func (e *Enforcer) Lists(ctx context.Context) ([]HeldList, error) { return e.backend.Lists(ctx) }

// Listed returns the names of the lists in the kernel that have an address.
func (e *Enforcer) Listed(ctx context.Context, addr netip.Addr) ([]string, error) {
	return e.backend.Listed(ctx, addr.Unmap().WithZone(""))
}

// Drops returns how many packets were dropped. It reads no set, and delays no bans.
func (e *Enforcer) Drops(ctx context.Context) (Drops, error) { return e.backend.Drops(ctx) }

// setAllLists has every wanted list set, which costs nothing for those that hold, and the others removed.
func (e *Enforcer) setAllLists() {
	l := &e.lists
	if l.want == nil {
		return
	}
	l.due, l.step, l.settled, l.failed = slices.Sorted(maps.Keys(l.want)), nil, false, nil
}

// setListsAgain has lists set again that are not as they should be.
func (e *Enforcer) setListsAgain(names []string) {
	for _, name := range slices.Concat(names, slices.Sorted(maps.Keys(e.lists.failed))) {
		if _, wanted := e.lists.want[name]; wanted && !slices.Contains(e.lists.due, name) {
			e.lists.due = append(e.lists.due, name)
		}
		e.lists.settled = false
		delete(e.lists.failed, name)
	}
}

// repairLists has lists set again that another program changed. It returns an error if that is to wait.
func (e *Enforcer) repairLists(names []string, by string, now time.Time) error {
	var damaged []string
	for _, name := range names {
		if _, wanted := e.lists.want[name]; wanted {
			damaged = append(damaged, "list "+name)
		}
	}
	if len(damaged) == 0 {
		return nil
	}
	if err := e.mayRepair(damaged, by, now); err != nil {
		for _, name := range names {
			e.lists.fail(name, err)
		}
		return err
	}
	e.lists.repair = Repair{Time: now, Damaged: damaged, By: by}
	e.setListsAgain(names)
	return nil
}

// listsDue reports whether there is a step to do.
func (l *listWork) listsDue() bool { return l.want != nil && !l.settled }

// listStep does the next step of what is due.
func (e *Enforcer) listStep(ctx context.Context) {
	l := &e.lists
	if len(l.due) == 0 {
		e.settleLists(ctx)
		return
	}
	name := l.due[0]
	if l.step == nil {
		l.step = e.backend.SetList(l.want[name])
	}
	done, err := l.step(ctx)
	if err != nil {
		l.fail(name, err)
		e.log.Error("a list was not written; trying again", "list", name, "err", err)
	}
	if done || err != nil {
		l.due, l.step = l.due[1:], nil
	}
}

// others stands for the lists that are not wanted where names of lists are expected.
const others = ""

// fail notes that a list was not set.
func (l *listWork) fail(name string, err error) {
	if l.failed == nil {
		l.failed = map[string]error{}
	}
	l.failed[name] = err
}

// settleLists removes the lists that are not wanted, once the others have been set, and reports the result.
func (e *Enforcer) settleLists(ctx context.Context) {
	l := &e.lists
	if err := e.backend.KeepLists(ctx, slices.Sorted(maps.Keys(l.want))); err != nil {
		l.fail(others, err)
	}
	l.settled = true
	var err error
	for _, name := range slices.Sorted(maps.Keys(l.failed)) {
		err = l.failed[name]
		break
	}
	if err != nil && ctx.Err() == nil {
		e.settled = time.Now()
		e.tryAgain(err)
	}
	if r := l.repair; len(r.Damaged) > 0 {
		r.Took, r.Err = time.Since(r.Time), err
		e.noteRepair(r)
		l.repair = Repair{}
	}
	for _, w := range l.waiting {
		w <- err
	}
	l.waiting = nil
}
