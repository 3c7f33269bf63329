package daemon

import (
	"fmt"
	"sync"
	"time"

	"mef/internal/ban"
	"mef/internal/control"
)

// endings are bans that do not hold any more although their time is not over: they gave way to others, or the kernel refused
// them. The enforcer tells of them and must not wait; the engine hears of them before anything that happened later. There are
// never more than bans in force.
type endings struct {
	mu   sync.Mutex
	keys []ban.Key
	wake chan struct{} // holds one message while there may be keys
}

func newEndings() *endings { return &endings{wake: make(chan struct{}, 1)} }

func (n *endings) add(keys []ban.Key) {
	n.mu.Lock()
	n.keys = append(n.keys, keys...)
	n.mu.Unlock()
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (n *endings) take() (keys []ban.Key) {
	n.mu.Lock()
	defer n.mu.Unlock()
	keys, n.keys = n.keys, nil
	return keys
}

// heedEndings forgets bans that do not hold any more. Else they would cover whatever their sources do next, and nobody would be
// banned for it.
func (e *engine) heedEndings() {
	keys := e.endings.take()
	if len(keys) == 0 {
		return
	}
	now := time.Now()
	for _, k := range keys {
		e.tracker.Ended(k, now)
	}
	e.book.lift(keys)
	e.unsaved.lifted = append(e.unsaved.lifted, keys...)
	e.save() // before the same source is banned again: of a ban both made and lifted, the file keeps nothing
	reason := fmt.Sprintf("%s does not hold: the kernel refused it, or it gave way to others", keys[0])
	if more := len(keys) - 1; more > 0 {
		reason = fmt.Sprintf("%s and %d others do not hold: the kernel refused them, or they gave way to others", keys[0], more)
	}
	e.records.add(control.Record{Time: now, Event: "error", Reason: "ban " + reason})
}
