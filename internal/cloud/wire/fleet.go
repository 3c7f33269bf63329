package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Limits of what the hosts of one operator send each other.
const (
	MaxFleet      = 100                 // events, and addresses of suspects and of users, of one request
	MaxFleetLeft  = 24 * time.Hour      // for which a host takes over a ban; the server sends longer ones again
	MaxFleetAllow = 30 * 24 * time.Hour // for which an address is allowed
	maxFleetLeft  = 31 * 24 * time.Hour // of anything
	maxName       = 64
	MaxSuspected  = 1000 // failures of one address
)

// A FleetKind is what a FleetEvent is about.
type FleetKind string

// The kinds of FleetEvent.
const (
	FleetBan      FleetKind = "ban"
	FleetUnban    FleetKind = "unban"    // an operator has lifted all bans of a prefix
	FleetAllow    FleetKind = "allow"    // an operator has an address or network allowed
	FleetDisallow FleetKind = "disallow" // and no longer
	FleetRevoke   FleetKind = "revoke"   // by the server: what Origin did is undone
	FleetAsk      FleetKind = "ask"      // by the server: do users log in from Prefix?
	FleetWithdraw FleetKind = "withdraw" // by the server: users do, and the ban by all hosts together ends
)

// A FleetEvent is what happens on one host of an operator and counts on all of them.
type FleetEvent struct {
	ID       string       `json:"id"` // unique: one that comes twice counts once
	Kind     FleetKind    `json:"kind"`
	Prefix   netip.Prefix `json:"prefix"`
	Ports    string       `json:"ports,omitempty"`    // of a ban, as package ban spells them; empty: all
	Forged   bool         `json:"forged,omitempty"`   // the source of a ban's evidence can be forged
	Left     int64        `json:"left,omitempty"`     // seconds until it ends. A duration, because the clocks of hosts differ
	Age      int64        `json:"age,omitempty"`      // milliseconds since it happened, in requests
	Rule     string       `json:"rule,omitempty"`     // of a ban
	Category string       `json:"category,omitempty"` // of a ban: one of Categories
	Host     string       `json:"host,omitempty"`     // name of the host where it happened; set by the server
	Origin   string       `json:"origin,omitempty"`   // ID of that host; set by the server. Empty: the hosts together
	Hosts    int          `json:"hosts,omitempty"`    // of a ban by the hosts together: how many have seen failures
	Count    int          `json:"count,omitempty"`    // and how many
}

// A Suspect is an address that failed to log in, not often enough for a ban.
type Suspect struct {
	Addr     netip.Addr `json:"addr"`
	Category string     `json:"category"`
	Count    int        `json:"count"` // of failures since the last request
}

// A FleetBatch is what an own host sends at once.
type FleetBatch struct {
	Host     string       `json:"host"` // its name
	Events   []FleetEvent `json:"events,omitempty"`
	Suspects []Suspect    `json:"suspects,omitempty"`
	Users    []Addr       `json:"users,omitempty"` // suspects of the fleet from which users log in here
}

// A FleetState is how an own host stands.
type FleetState struct {
	Hosts int `json:"hosts"` // own hosts that are connected to this server
	Used  int `json:"used"`  // bans of the host in this hour
	Quota int `json:"quota"` // and how many it may make
}

// A FleetReceipt is the answer to a FleetBatch.
type FleetReceipt struct {
	FleetState
	Dropped []Dropped `json:"dropped,omitempty"` // events that have no effect
}

// Encode returns the body of a request, compressed.
func (b FleetBatch) Encode() ([]byte, error) {
	return encode(b)
}

// DecodeFleet reads the compressed body of a request by an own host.
func DecodeFleet(body []byte) (b FleetBatch, err error) {
	if err := decode(body, &b); err != nil {
		return b, err
	}
	if n := len(b.Events) + len(b.Suspects) + len(b.Users); n == 0 || n > MaxFleet {
		return b, fmt.Errorf("%d events; a request has 1 to %d", n, MaxFleet)
	}
	if b.Host != FleetName(b.Host) {
		return b, errors.New("the name of the host is missing or has other characters than letters, digits, dots, hyphens and underscores")
	}
	for i := range b.Events {
		if err := b.Events[i].check(); err != nil {
			return b, fmt.Errorf("event %d: %w", i, err)
		}
	}
	for i, s := range b.Suspects {
		if !Reportable(s.Addr) || !slices.Contains(Categories, s.Category) || s.Count < 1 || s.Count > MaxSuspected {
			return b, fmt.Errorf("suspect %d is malformed", i)
		}
		b.Suspects[i].Addr = s.Addr.Unmap()
	}
	for i, u := range b.Users {
		if !Reportable(u.Addr) {
			return b, fmt.Errorf("user %d: %s is not a public address", i, u.Addr)
		}
		b.Users[i].Addr = u.Addr.Unmap()
	}
	return b, nil
}

// check returns why an event is none that a host may send.
func (e *FleetEvent) check() error {
	p := e.Prefix
	switch {
	case len(e.ID) < 8 || e.ID != FleetName(e.ID):
		return errors.New("its id is malformed")
	case e.Host != "" || e.Origin != "" || e.Hosts != 0 || e.Count != 0:
		return errors.New("only the server names its origin")
	case !Shared(p):
		return fmt.Errorf("%s is no public address or network of at most /24 (IPv6: /48)", p)
	case e.Age < 0 || e.Age > int64(maxFleetLeft/time.Millisecond):
		return errors.New("it is older than 31 days")
	case e.Left < 0 || e.Left > int64(maxFleetLeft/time.Second):
		return errors.New("it lasts longer than 31 days")
	case strings.Trim(e.Ports, "0123456789,-") != "" || len(e.Ports) > 200 || len(e.Rule) > maxName || e.Rule != FleetRule(e.Rule):
		return errors.New("its ports or its rule are malformed")
	}
	switch e.Kind {
	case FleetBan:
		if e.Left == 0 || !slices.Contains(Categories, e.Category) {
			return errors.New("a ban has an end and a category")
		}
	case FleetAllow:
		if e.Left == 0 {
			return errors.New("an allow entry has an end")
		}
	case FleetUnban, FleetDisallow:
	default:
		return fmt.Errorf("unknown kind %q", e.Kind)
	}
	return nil
}

// Shared reports whether hosts in different networks mean the same by a prefix, and it is narrow enough for one host to decide about on others.
func Shared(p netip.Prefix) bool {
	if !p.IsValid() || p.Masked() != p || p.Addr().Is4In6() || !Reportable(p.Addr()) {
		return false
	}
	return p.Bits() >= 48 || p.Addr().Is4() && p.Bits() >= 24
}

// FleetName returns a name without the characters that no host has, and at most 64 of them; "host" if none are left.
func FleetName(s string) string {
	return clean(s, "host", func(r rune) bool { return strings.ContainsRune(".-_", r) })
}

// FleetRule returns the name of a rule likewise, and "rule" if none are left.
func FleetRule(s string) string {
	if s == "" {
		return ""
	}
	return clean(s, "rule", func(r rune) bool { return strings.ContainsRune(".-_/ ", r) })
}

func clean(s, none string, more func(rune) bool) string {
	s = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || more(r) {
			return r
		}
		return -1
	}, s)
	if s = s[:min(len(s), maxName)]; s == "" {
		return none
	}
	return s
}

// Names of the events of a stream (text/event-stream). One without a name is a FleetEvent.
const FleetStateName = "state"

// WriteFleet writes an event of a stream: seq is its number, 0 if it has none.
func WriteFleet(w io.Writer, seq uint64, e FleetEvent) error {
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if seq != 0 {
		_, err = fmt.Fprintf(w, "id: %d\ndata: %s\n\n", seq, text)
	} else {
		_, err = fmt.Fprintf(w, "data: %s\n\n", text)
	}
	return err
}

// WriteFleetState writes the state of a host to its stream.
func WriteFleetState(w io.Writer, s FleetState) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "event: %s\ndata: %s\n\n", FleetStateName, text)
	return err
}
