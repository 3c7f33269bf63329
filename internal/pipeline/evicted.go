package pipeline

import (
	"context"
	"fmt"
	"sync"
	"time"

	"mef/internal/ban"
	"mef/internal/control"
	"mef/internal/owner"
)

// evictions are bans that do not hold any more although their time is not over: they gave way to others, or the kernel refused
// them. The enforcer reports them and must not wait; the engine takes them before anything that happened later. There are
// never more than bans in force.
type evictions struct {
	mu   sync.Mutex
	keys []ban.Key
	full bool          // there was no room for them
	wake chan struct{} // holds one message while there may be keys
}

func newEvictions() *evictions { return &evictions{wake: make(chan struct{}, 1)} }

func (n *evictions) add(keys []ban.Key, full bool) {
	n.mu.Lock()
	n.keys, n.full = append(n.keys, keys...), n.full || full
	n.mu.Unlock()
	owner.Wake(n.wake)
}

func (n *evictions) take() (keys []ban.Key, full bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	keys, full = n.keys, n.full
	n.keys, n.full = nil, false
	return keys, full
}

// processEvictions removes bans that no longer hold; otherwise new offences of their sources would count as already banned. Where there
// was no room it makes some, for later bans. The error is that of ctx, or of an enforcer that has ended.
func (s *State) processEvictions(ctx context.Context) error {
	keys, full := s.p.evictions.take()
	if len(keys) == 0 {
		return nil
	}
	now := time.Now()
	crowds := s.Engine.Evicted(now, full, keys...)
	s.p.Reasons.forget(keys)
	s.unsaved.lifted = append(s.unsaved.lifted, keys...)
	s.Save() // before the same source is banned again: of a ban both made and lifted, the file keeps nothing
	reason := fmt.Sprintf("%s is not in force: the kernel refused it, or it ended early to make room", keys[0])
	if more := len(keys) - 1; more > 0 {
		reason = fmt.Sprintf("%s and %d others are not in force: the kernel refused them, or they ended early to make room", keys[0], more)
	}
	s.p.Records.Add(control.Record{Time: now, Event: "error", Reason: "ban " + reason})
	if len(crowds) == 0 {
		return nil
	}
	s.unsaved.bans = append(s.unsaved.bans, crowds...)
	s.changed(saveSoon)
	return s.p.Enforcer.Ban(ctx, crowds...)
}
