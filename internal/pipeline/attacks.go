package pipeline

import (
	"fmt"
	"time"

	"mef/internal/control"
	"mef/internal/engine"
)

// attacks are the distributed attacks that have a record.
type attacks struct {
	looked  time.Time
	ongoing map[string]engine.Attack
}

// attacksEvery is how often it is looked for attacks that have begun or ended: looking takes milliseconds where very many sources are
// known.
const attacksEvery = 10 * time.Second

// noteAttacks adds a record for each distributed attack that has begun, and for each that is over, since the last look. at is the time of
// the latest event: without an event nothing begins or ends.
func (s *State) noteAttacks(at time.Time) {
	if passed := at.Sub(s.attacks.looked); passed >= 0 && passed < attacksEvery {
		return
	}
	s.attacks.looked = at
	now := map[string]engine.Attack{}
	for _, a := range s.Engine.Attacks(at) {
		key := fmt.Sprintf("%q %s %s", a.User, a.Net, a.Rule)
		now[key] = a
		if _, known := s.attacks.ongoing[key]; !known {
			s.p.Records.Add(control.Record{Time: at, Event: "attack", Rule: a.Rule, User: a.User, Reason: a.String()})
		}
	}
	for key, a := range s.attacks.ongoing {
		if _, ongoing := now[key]; !ongoing {
			s.p.Records.Add(control.Record{Time: at, Event: "attack-over", Rule: a.Rule, User: a.User, Reason: "limits are as usual again; it was: " + a.String()})
		}
	}
	s.attacks.ongoing = now
}
