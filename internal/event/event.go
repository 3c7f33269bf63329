// Package event has the types of the first half of the data flow: what sources send (Batch, Line) and what a filter makes of it
// (Event).
//
// A log line becomes an event when a rule recognizes it: a client at an address failed to log in, logged in, or probed. An
// event holds only copies, so it may be kept.
package event

import (
	"net/netip"
	"strconv"
	"time"
)

// A Kind is what an event means for its address.
type Kind uint8

// The kinds of event.
const (
	Failure Kind = iota + 1 // credentials were tried and refused
	Success                 // a login that succeeded
	Probe                   // the service was touched without trying credentials
	Listed                  // a DNS block list has the address
)

// String returns the kind as it stands in JSON: "failure", "success", "probe" or "listed".
func (k Kind) String() string {
	switch k {
	case Failure:
		return "failure"
	case Success:
		return "success"
	case Probe:
		return "probe"
	case Listed:
		return "listed"
	}
	return "kind " + strconv.Itoa(int(k))
}

// A Position identifies a line: the stream it stands in and its place there.
type Position struct {
	Stream string
	Offset uint64
}

// An Event is what a filter read out of one line.
type Event struct {
	Time    time.Time // the line's stamp
	Rule    string    // name of the rule that recognised the line
	Service string    // the rule's service: "sshd"

	// Addr is the peer: never IPv4-mapped, without zone. It is invalid where the log names the peer by Host only; such an
	// event is shown and does not count.
	Addr netip.Addr
	Host string

	User string // user name as the peer sent it, at most 64 bytes; empty if the line has none

	// UnknownUser reports that the service itself reported that it has no user of this name, ExistingUser that it would have reported
	// so in this line and did not. Neither is set if such lines do not report it.
	UnknownUser, ExistingUser bool

	EmptyUser bool // the peer sent an empty name: User is empty not only because such lines do not report the name

	Kind Kind

	// Count is how many attempts the line reports, at least 1.
	Count int

	// Form reports which of its rule's statements the line is. One attempt may be reported by lines of several forms, but never
	// twice by lines of one form.
	Form uint8

	// Echo marks a failure that other lines of the same session may report as well. If Each is set, every such line is an
	// attempt, and what lines of other forms report of it counts no more. Otherwise the line counts as one attempt if no other
	// line of its session reports any.
	Echo, Each bool

	// Session ties the lines of one connection together: a process ID or the daemon's own session name. Empty if unknown.
	Session string

	// Verified means that the daemon wrote the line after a TCP dialogue with Addr, so that Addr cannot have been forged.
	Verified bool

	Position Position

	// Line is the record as evidence, or empty while From, whose text is valid only for a while, still has it: see Evidence.
	Line string
	From *Line

	Episode *Episode // nil: the line alone makes the event

	Listings *[]Listing // what block lists report of Addr, never changed; of a Listed event, the first is what it is about
}

// Evidence returns the record as evidence: at most MaxEvidence bytes, raw. It is quoted whenever it is shown. Few records are ever kept, so
// they are copied only here.
func (ev *Event) Evidence() string {
	if ev.From != nil {
		ev.Line, ev.From = string(ev.From.evidence()), nil
	}
	return ev.Line
}

// AppendEvidence appends what Evidence returns to b.
func (ev *Event) AppendEvidence(b []byte) []byte {
	if ev.From != nil {
		return append(b, ev.From.evidence()...)
	}
	return append(b, ev.Line...)
}

func (l *Line) evidence() []byte { return l.Text[:min(len(l.Text), MaxEvidence)] }

// OnLists returns what block lists report of the event's address, nil if nothing.
func (ev *Event) OnLists() []Listing {
	if ev.Listings == nil {
		return nil
	}
	return *ev.Listings
}

// A Listing is what one DNS block list reports of an address.
type Listing struct {
	Rule   string    // name of the rule of the list
	Zone   string    // DNS zone of the list
	Codes  string    // its answers: "127.0.0.2" or "127.0.0.2, 127.0.0.4"
	Reason string    // what the list states as its reason, raw, at most MaxReason bytes; empty if it states none
	Points int       // what the listing adds to the score of the address as long as it counts
	Ban    bool      // it bans by itself
	At     time.Time // when the list answered
	Until  time.Time // when it no longer counts
}

// MaxReason is how much of the reason for a listing is kept, in bytes.
const MaxReason = 200

// String returns the listing for people: `zen.example (127.0.0.2: "see https://...")`.
func (l Listing) String() string {
	if l.Reason == "" {
		return l.Zone + " (" + l.Codes + ")"
	}
	return l.Zone + " (" + l.Codes + ": " + strconv.Quote(l.Reason) + ")"
}

// An Episode is what many lines of a source amount to, of which the event's is the last.
type Episode struct {
	Text  string   // what was counted, in words
	Lines []string // some of the records, as evidence, oldest first

	// Through is the proxy that the source's requests come through, so that a ban of the source's packets has no effect on them. Invalid
	// if they come from the source itself.
	Through netip.Addr
}

// Unreachable reports whether a ban of the event's source has no effect on what it does, because others carry its packets.
func (ev *Event) Unreachable() bool { return ev.Episode != nil && ev.Episode.Through.IsValid() }

// MaxEvidence is how much of a line an event keeps, in bytes.
const MaxEvidence = 256
