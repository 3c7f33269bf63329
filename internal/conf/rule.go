package conf

import (
	"strings"
	"time"

	"mef/internal/ban"
)

// A Rule is a checked detection rule: a rules.d file, with shipped values filled in.
type Rule struct {
	Pos     Pos    // where the rule begins
	Name    string // unique; the file's name without .conf unless name= says otherwise
	Service string // what the rule protects, as the operator knows it; the name unless service= says otherwise
	Enabled bool

	// Where the rule's lines come from.
	Source   SourceKind
	Programs []string // names of the logging program: exact, or with * at the end; empty: any
	Units    []string // system units whose journal entries count, * allowed; empty: any system unit of that program's name
	UIDs     []string // users besides root whose journal entries count: names or numbers
	Files    []string // globs
	// Docker's containers whose output is read: by name, or by image without registry and tag; * allowed.
	Containers, Images []string

	// What lines mean. A pattern is matched against the message: the record without date, host and program name.
	Fail    []Pattern // credentials were refused: each line is one attempt (or the number in its group "count")
	Attempt []Pattern // one refused attempt each, which lines of other patterns may report as well
	Echo    []Pattern // the same attempt reported again: counts only if no other line of the session reports it
	Probe   []Pattern // the service was touched, no credentials were tried
	OK      []Pattern // a login that succeeded
	Orphan  []Pattern // a refused attempt without address: counts for the address that the same session's Peer line names
	Peer    []Pattern // gives the address of a session, and has no other meaning
	Ignore  []Pattern // lines that never count, whatever else matches

	// JSON is not nil if lines are JSON objects (format=json). Patterns are then matched against the value of JSON.Message.
	JSON *JSON

	// Web is not nil if the rule counts the requests of a source (engine=webscan). It then has no patterns, and bans when a threshold
	// of Web is reached.
	Web *Web

	// When it bans.
	MaxRetry int
	FindTime time.Duration
	BanTime  time.Duration
	Weight   int  // points of one failure across services; 0: score_failure
	UDP      bool // transport=udp: the source of its lines can be forged, so its events are unverified
	Ports    ban.Ports

	// ServicePorts are the ports of the service, for bans that must leave other ports alone although Ports does not name
	// any; "all" if not known.
	ServicePorts ban.Ports

	// PortsAuto and ServiceAuto report that Ports and ServicePorts also have those at which the service listens; see event.Rule.Listening.
	PortsAuto, ServiceAuto bool

	Action     Action
	Escalation Escalation

	Set []Origin // where keys are set, by us or the operator; see Settings
}

// shippedDir is where built-in rules stand, by their Pos.
const shippedDir = "shipped/"

// ShippedFile returns the file of a built-in rule as Pos names it.
func ShippedFile(name string) string { return shippedDir + name }

// BuiltIn reports whether the rule comes with the program and no file of the operator changes it.
func (r *Rule) BuiltIn() bool { return strings.HasPrefix(r.Pos.File, shippedDir) }

// PortsText returns the ports of the rule's bans as a rule file has them: "auto,25,465", "auto", "22" or "all".
func (r *Rule) PortsText() string {
	switch {
	case r.PortsAuto && r.Ports == "":
		return autoPorts
	case r.PortsAuto:
		return autoPorts + "," + string(r.Ports)
	case r.Ports == "":
		return "all"
	}
	return string(r.Ports)
}

const autoPorts = "auto"

// An Escalation reports when a source that keeps coming back is banned permanently.
type Escalation struct {
	Enabled   bool
	Window    time.Duration
	Threshold int // bans within Window; 0: never
}

// A Pattern is one regular expression (RE2 syntax) of a rule, with <HOST> and its like already expanded. Its groups:
//
//	ip       the address, required unless host is there (not in Orphan and Ignore)
//	host     the peer's name where the log gives no address; reported, never banned
//	user     the user name that was tried
//	unknownuser  words by which the daemon reports that the user does not exist: "invalid user "; empty means that it does not report it
//	count    how many attempts the line reports
//	session  what ties the lines of one connection together; the process ID if missing
type Pattern struct {
	Text    string
	Pos     Pos
	Shipped bool // written by us, so proven by samples; otherwise the linter has the last word
}

// A SourceKind reports where a rule's lines come from.
type SourceKind uint8

// The source kinds. Auto is the journal where the service's entries appear there, else the files.
const (
	SourceAuto SourceKind = iota
	SourceJournal
	SourceFile
	SourceSyslog // the sockets of syslog_listen
	SourceStdin
)

// String returns the kind as it is written in a rule.
func (k SourceKind) String() string {
	return [...]string{"auto", "journal", "file", "syslog", "stdin"}[k]
}

// An Action reports what happens to a source that crosses a rule's threshold.
type Action uint8

// The actions.
const (
	ActionBan    Action = iota
	ActionDetect        // reported and counted, never banned
)

// String returns the action as it is written in a rule.
func (a Action) String() string { return [...]string{"ban", "detect"}[a] }

// HostPattern is what <HOST> and <ADDR> stand for: an IPv4 or IPv6 address, IPv4-mapped ones too, with or without brackets
// and zone. It only finds where an address stands, so that its automaton stays small; netip.ParseAddr decides what is one.
const HostPattern = `\[?(?P<ip>[0-9A-Fa-f:.]+(?:%[0-9A-Za-z_.-]+)?)\]?`

// UserPattern is what <USER> stands for: a user name as the client sent it, which may be empty and contain anything.
const UserPattern = `(?P<user>.*)`

// Expand returns text with <HOST>, <ADDR> and <USER> replaced by what they stand for.
func Expand(text string) string { return expander.Replace(text) }

var expander = strings.NewReplacer("<HOST>", HostPattern, "<ADDR>", HostPattern, "<USER>", UserPattern)

// WholeLine reports whether the pattern begins with a date, so that it is about whole lines and not about messages.
func (p Pattern) WholeLine() bool {
	return strings.HasPrefix(p.Text, `^\d{4}`) || strings.HasPrefix(p.Text, `^[0-9]{4}`) ||
		strings.HasPrefix(p.Text, `^\[?\d{4}-`)
}
