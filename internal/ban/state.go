package ban

import (
	"net/netip"
	"time"
)

// An Active is a ban in force.
type Active struct {
	Key
	Start time.Time
	Until time.Time // zero: no end
	ID    uint64    // hash of the ban's ID
}

// A Past is a ban of the history, in force or over.
type Past struct {
	Prefix netip.Prefix `json:"prefix"`
	Rule   string       `json:"rule"`
	Start  time.Time    `json:"start"`
	Until  time.Time    `json:"until"` // zero: no end
	ID     uint64       `json:"-"`     // hash of the ban's ID

	// Joined marks a ban that began while another of the same prefix held, so that it is no repeat; Lifted one that an
	// operator took back.
	Joined bool `json:"joined,omitempty"`
	Lifted bool `json:"lifted,omitempty"`
}

// A Wider is a network around a source, with what speaks for and against banning all of it.
type Wider struct {
	Prefix netip.Prefix `json:"prefix"`
	Banned int          `json:"banned"` // distinct networks inside under verified bans, once the source is
	Limit  int          `json:"limit"`  // so many make a ban of Prefix
	Known  int          `json:"known"`  // known logins inside
}

// Reached reports whether enough of the network is banned to ban all of it.
func (w Wider) Reached() bool { return w.Banned >= w.Limit }
