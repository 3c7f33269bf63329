// Package control is the protocol between mefdaemon and mefctl: HTTP and JSON over a unix socket, under /v1/.
//
// The socket's mode limits access to root and the group mef, and the kernel identifies the client: every request carries the
// user ID of its sender, read from the socket, so that a manual ban knows its author. Requests and answers are the types of
// this file; their JSON names are stable.
//
//	GET    /v1/status              Status
//	GET    /v1/bans                []Ban
//	POST   /v1/bans     BanRequest   Ban
//	DELETE /v1/bans     UnbanRequest []Ban    returns once the kernel's sets have been read back
//	POST   /v1/bans/batch  Batch     Done: the bans of many addresses, in one request
//	DELETE /v1/bans/batch  Batch     Done
//	POST   /v1/bans/clear          Cleared
//	GET    /v1/why?addr=ADDR       Why
//	GET    /v1/services            []ListeningService
//	GET    /v1/picture             Picture: what top, the page and metrics show
//	GET    /v1/history?window=SPAN History: what was counted over an hour, day, month or year
//	GET    /v1/stats?window=SPAN&by=TABLE&n=N  Stats: top ports, services, sources, networks or names
//	GET    /v1/bans/past?q=TEXT&n=N []PastBan
//	GET    /v1/dnsbl?addr=ADDR     []DNSBLAnswer: what block lists report of an address
//	POST   /v1/reports/test        []SendTest: whether reports could be sent
//	GET    /v1/names               Names; prefix=TEXT and limit=N narrow them
//	GET    /v1/alarms              Alarms
//	POST   /v1/alarms/ack          AckRequest -> Acked
//	GET    /v1/events              Record, one JSON object a line, without end
//	POST   /v1/reload              Reloaded: the configuration is read again, as by SIGHUP
//	POST   /v1/arm      ArmRequest   Armed: unless confirmed in time, bans are lifted, and further ones logged, not applied
//	POST   /v1/confirm             {}: the operator can log in
//	GET    /v1/lists?list=NAME     Lists: the whitelist, the blacklist or those in the kernel, or without a name all
//	GET    /v1/feeds               []Feed: the lists of addresses that others publish
//	POST   /v1/feeds    FeedRequest []Feed    enables, disables or updates one
//	POST   /v1/allow    AllowRequest Entry    returns once the kernel lets its addresses through
//	DELETE /v1/allow    AllowRequest Entry
//	POST   /v1/allow/batch Batch     Done
//	DELETE /v1/allow/batch Batch     Done
//	GET    /v1/blocked?addr=ADDR   Blocked: what the page for blocked customers shows
//	POST   /v1/blocked/code CodeRequest Code
//	POST   /v1/blocked/free FreeRequest {}: the ban of an address is lifted by a code or a sum
//	POST   /v1/stop                {}: the daemon ends, as by SIGTERM
//
// A refused request is answered with a status of 400 or above and an Error.
package control

import (
	"context"
	"net/netip"
	"time"

	"mef/internal/ban"
)

// A Service answers requests. The daemon is one.
type Service interface {
	Status(ctx context.Context) (Status, error)
	Bans(ctx context.Context) ([]Ban, error)
	Ban(ctx context.Context, req BanRequest) (Ban, error)
	Unban(ctx context.Context, req UnbanRequest) ([]Ban, error)
	// ClearBans lifts every ban, but no list, and returns once the kernel has been read back.
	ClearBans(ctx context.Context, author string) (Cleared, error)
	Why(ctx context.Context, addr netip.Addr) (Why, error)
	// Services returns what waits for strangers, with the rules that cover it.
	Services(ctx context.Context) ([]ListeningService, error)
	// Follow calls emit for the most recent records and then for every new one, until ctx is done or emit fails. A slow
	// reader loses records; the next one it gets reports how many.
	Follow(ctx context.Context, emit func(Record) error) error
	// Reload reads the configuration again. With mistakes in it the error is what mefctl config check prints, and the
	// configuration before stays in force.
	Reload(ctx context.Context, author string) (Reloaded, error)
	// Arm begins a trial, which ends unless it is confirmed in time; Confirm confirms it.
	Arm(ctx context.Context, req ArmRequest) (Armed, error)
	Confirm(ctx context.Context, author string) error
	ListService
	BatchService
	NameService
	ReputationService
	NotifyService
	CloudService
	ViewService
	BlockedService
	// Stop ends the daemon soon after it returned.
	Stop(author string)
}

// An Error is the answer to a request that could not be served. Its text is for people and reports what to do.
type Error struct {
	Message string `json:"error"`
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// A Status reports whether the host is protected, and why not.
type Status struct {
	Protected bool      `json:"protected"`
	Missing   []string  `json:"missing,omitempty"` // what keeps the host from being protected
	Warnings  []string  `json:"warnings,omitempty"`
	Mode      string    `json:"mode"` // "enforce" or "observe"
	Version   string    `json:"version"`
	PID       int       `json:"pid"`
	Since     time.Time `json:"since"`
	Config    string    `json:"config"`

	// Uncovered are services that others can reach over TCP and that no rule covers: "nginx.service (80, 443)".
	Uncovered []string `json:"uncovered,omitempty"`

	Sources []Source `json:"sources"`
	Rules   []Rule   `json:"rules"`
	Bans    Tally    `json:"bans"`
	Kernel  Kernel   `json:"kernel"`
	Tracker Tracker  `json:"tracker"`
	Store   Store    `json:"store"`
	Proof   Proof    `json:"selftest"`
	Spared  Spared   `json:"spared"`
	// Alarms are logins that may be break-ins and that no operator has acknowledged, the latest first, at most three; AlarmCount is
	// how many there are.
	Alarms     []string `json:"alarms,omitempty"`
	AlarmCount int      `json:"alarm_count,omitempty"`
	Attacks    []string `json:"attacks,omitempty"` // distributed attacks under way, in a sentence each, at most three

	Scans  Scans  `json:"scans"`
	Floods Floods `json:"floods"`
	DNSBL  DNSBL  `json:"dnsbl,omitzero"`

	Reports []Reports `json:"reports,omitempty"` // empty: none are sent
	Notify  []Notify  `json:"notify,omitempty"`  // empty: nobody is notified
	Cloud   Cloud     `json:"cloud"`

	Armed *Armed `json:"armed,omitempty"` // nil: confirmed, or never armed
	// WatchingSince is since when bans are logged and not applied: by mode=observe, or because a trial was not confirmed. nil: they are applied.
	WatchingSince *time.Time `json:"watching_since,omitempty"`
}

// A Source is one origin of lines.
type Source struct {
	Name    string     `json:"name"`
	State   string     `json:"state"` // "active", "waiting" or "unused"
	Reason  string     `json:"reason,omitempty"`
	Rules   []string   `json:"rules,omitempty"`
	Lines   uint64     `json:"lines"`
	Matched uint64     `json:"matched"`
	Lost    uint64     `json:"lost,omitempty"`
	Lag     string     `json:"lag,omitempty"` // what is written and not yet read
	Last    *time.Time `json:"last,omitempty"`
}

// A Rule is a detection rule in force.
type Rule struct {
	Name     string `json:"name"`
	Service  string `json:"service"`
	Enabled  bool   `json:"enabled"`
	Action   string `json:"action"`
	Live     string `json:"live"`   // "journal", "files", "syslog", "stdin", several with +, "none"; "off": its service is not on this host
	Reason   string `json:"reason"` // why that source
	MaxRetry int    `json:"maxretry"`
	FindTime string `json:"findtime"`
	BanTime  string `json:"bantime"`
	Ports    string `json:"ports"` // "all" or a list

	PortsReason string `json:"ports_reason,omitempty"` // where the service listens, of a rule with ports=auto

	Thresholds int `json:"thresholds,omitempty"` // of a rule about many requests, which has neither MaxRetry nor FindTime

	Failures uint64 `json:"failures"`
	Forgiven uint64 `json:"forgiven,omitempty"` // the failures that do not count: of users who log in here, at a person's or a device's pace
	Probes   uint64 `json:"probes"`
	Logins   uint64 `json:"logins"`
	Bans     uint64 `json:"bans"`
}

// A Tally counts the bans in force.
type Tally struct {
	Total      int    `json:"total"`
	IPv4       int    `json:"ipv4"`
	IPv6       int    `json:"ipv6"`
	Unverified int    `json:"unverified"`
	Permanent  int    `json:"permanent"`
	Ever       uint64 `json:"since_start"`
}

// MendTime is within what time of being changed by others the table in the kernel is as it should be again.
const MendTime = time.Second

// Kernel is what was read back from the packet filter.
type Kernel struct {
	Backend  string   `json:"backend"`
	Reason   string   `json:"reason,omitempty"` // why this one was chosen
	Table    string   `json:"table"`
	Present  bool     `json:"present"`
	Elements int      `json:"elements"` // bans that the kernel holds
	Matches  bool     `json:"matches"`  // the kernel holds what it should
	Repairs  uint64   `json:"repairs"`
	Evicted  uint64   `json:"evicted,omitempty"` // bans that ended early since the start, because there were too many
	Problems []string `json:"problems,omitempty"`
}

// Scans are the port scans that were found.
type Scans struct {
	On      bool       `json:"on"`
	Active  bool       `json:"active"`            // what the kernel reports is received
	Off     string     `json:"off,omitempty"`     // why none are found although they should be
	Limited string     `json:"limited,omitempty"` // why some may be missed now
	Found   uint64     `json:"found"`             // since the start
	Sources int        `json:"sources"`           // of packets to closed ports, that are remembered
	Last    *time.Time `json:"last,omitempty"`    // of the last scan
	From    string     `json:"from,omitempty"`    // its address
	Text    string     `json:"text,omitempty"`    // its ports and rate
}

// Floods are the sources that exceeded the limits of a port.
type Floods struct {
	On    bool   `json:"on"`
	Off   string `json:"off,omitempty"` // why nothing is limited although it should be
	Found uint64 `json:"found"`         // episodes since the start
	Bans  uint64 `json:"bans"`          // that they led to
}

// A ListeningService is what waits for strangers at some ports, and what happened at the rules that cover it within about an hour.
type ListeningService struct {
	Name     string   `json:"name"` // of its unit or program
	Protocol string   `json:"protocol"`
	Ports    []uint16 `json:"ports"`
	Local    bool     `json:"local,omitempty"`      // only this host can reach it
	Rules    []string `json:"rules"`                // empty: no rule covers it
	Help     string   `json:"help,omitempty"`       // the command that helps then
	Open     []uint16 `json:"open_ports,omitempty"` // of Ports, those that the bans of its rules do not cover

	Failures uint64   `json:"failures"`
	Logins   uint64   `json:"logins"`
	Sources  int      `json:"sources"`                // that failed
	More     bool     `json:"more_sources,omitempty"` // there were more than are counted
	Usual    *float64 `json:"usual,omitempty"`        // failures in an hour, on average; absent until an hour has passed
}

// Tracker reports how full the memory of sources is.
type Tracker struct {
	Sources     int    `json:"sources"`
	Limit       int    `json:"limit"`
	Evicted     uint64 `json:"evicted,omitempty"`
	KnownLogins int    `json:"known_logins"`
}

// A Proof is the outcome of the last self-test.
type Proof struct {
	State  string     `json:"state"` // "passed", "failed", "old", "running" or "impossible"
	At     *time.Time `json:"at,omitempty"`
	Detail string     `json:"detail,omitempty"`
}

// Store reports how the saving of state fares.
type Store struct {
	Path      string     `json:"path"`
	Size      int64      `json:"size"`    // bytes
	Pending   int        `json:"pending"` // changes that are not on disk yet
	LastSaved *time.Time `json:"last_saved,omitempty"`
	Problem   string     `json:"problem,omitempty"`
}

// A Ban is a ban in force.
type Ban struct {
	Prefix   string     `json:"prefix"` // address or CIDR
	Ports    string     `json:"ports"`  // "all" or a list
	Class    string     `json:"class"`
	Rule     string     `json:"rule"`
	Service  string     `json:"service,omitempty"`
	Start    time.Time  `json:"start"`
	Until    *time.Time `json:"until"` // null: until lifted
	Count    int        `json:"count,omitempty"`
	Reason   string     `json:"reason"`
	Evidence []string   `json:"evidence,omitempty"` // raw lines: quote them when showing
	Author   string     `json:"author,omitempty"`
	Note     string     `json:"note,omitempty"`
	Packets  *uint64    `json:"packets,omitempty"` // dropped, both directions; absent where the kernel does not count
	Kernel   bool       `json:"kernel"`            // read back from the kernel's set
	Set      string     `json:"set,omitempty"`     // in answers to why: that set's name
}

// MaxNote is how long a note in a request may be, in bytes.
const MaxNote = 1000

// A BanRequest asks for a manual ban.
type BanRequest struct {
	Prefix string        `json:"prefix"`
	For    time.Duration `json:"for_ns"` // 0: until lifted
	Ports  string        `json:"ports,omitempty"`
	Note   string        `json:"note,omitempty"`
	Caller netip.Addr    `json:"caller,omitzero"` // from where the operator is logged in, which only --force bans; may be missing
	Force  bool          `json:"force,omitempty"`
	Author string        `json:"-"` // filled in by the server, from the socket
}

// An UnbanRequest lifts every ban of exactly this prefix, or every ban that covers the address if Covering.
type UnbanRequest struct {
	Prefix   string `json:"prefix"`
	Covering bool   `json:"covering,omitempty"`
	Note     string `json:"note,omitempty"` // up to MaxNote bytes
	Author   string `json:"-"`
}

// Why answers "why is this address banned", and "why is it not".
type Why struct {
	Addr    string  `json:"addr"`
	Banned  bool    `json:"banned"`
	Verdict string  `json:"verdict"` // one sentence
	Bans    []Ban   `json:"bans,omitempty"`
	Allowed string  `json:"allowed,omitempty"` // what keeps the address from being banned
	Score   float64 `json:"score"`
	Limit   int     `json:"score_limit"`

	Arithmetic []string   `json:"arithmetic,omitempty"` // how the score and the counts came about, a sentence each
	Rules      []RuleWhy  `json:"rules,omitempty"`
	Known      []string   `json:"known_users,omitempty"`
	History    []Ban      `json:"history,omitempty"`
	Evidence   []string   `json:"evidence,omitempty"` // raw lines: quote them when showing
	Prefix     []Neighbor `json:"prefix,omitempty"`   // who else of its prefix is known
	Requests   []string   `json:"requests,omitempty"` // what is counted of its web requests, a sentence each
	Scans      []string   `json:"scans,omitempty"`    // to how many closed ports it came, a sentence each
	Listings   []string   `json:"listings,omitempty"` // what block lists report of it, a sentence each
	Lists      []string   `json:"lists,omitempty"`    // by which the kernel drops its packets: "blacklist", "feed NAME", "access NAME" or "community server"
	Foreign    []string   `json:"foreign,omitempty"`  // rules and policies of other nftables tables that may drop it
}

// RuleWhy is how near an address is to one rule's threshold.
type RuleWhy struct {
	Rule     string  `json:"rule"`
	Attempts float64 `json:"attempts"` // within FindTime; those forgiven to known users do not count
	MaxRetry int     `json:"maxretry"`
	FindTime string  `json:"findtime"`
}

// A Neighbor is another source of the same prefix.
type Neighbor struct {
	Prefix string  `json:"prefix"`
	Score  float64 `json:"score"`
	Banned bool    `json:"banned"`
}

// Caught is the Event of the one record that separates what had happened before from what happens while following.
const Caught = "caught-up"

// A Record is one entry of the event stream and of the event log.
type Record struct {
	Time time.Time `json:"time"`
	// Event is failure, success, probe, listed, ban, would-ban, unban, refused, error, repair, source, reload, list, allow, allow-end,
	// armed, confirmed, lapsed, login-alarm, alarms-acknowledged, attack, attack-over or status.
	Event   string  `json:"event"`
	Level   string  `json:"level,omitempty"` // of a status: Green, Yellow or Red
	Rule    string  `json:"rule,omitempty"`
	Service string  `json:"service,omitempty"`
	Addr    string  `json:"addr,omitempty"`
	Host    string  `json:"host,omitempty"`
	User    string  `json:"user,omitempty"`
	Count   int     `json:"count,omitempty"`
	Score   float64 `json:"score,omitempty"`

	Prefix string     `json:"prefix,omitempty"`
	Ports  string     `json:"ports,omitempty"`
	Class  string     `json:"class,omitempty"`
	Until  *time.Time `json:"until,omitempty"`
	Reason string     `json:"reason,omitempty"`
	// Latency is the time from the deciding line's stamp to the kernel's word that the ban holds, in nanoseconds.
	Latency  time.Duration `json:"latency_ns,omitempty"`
	Listed   bool          `json:"listed,omitempty"` // without what block lists report of the source there would be no ban
	Evidence []string      `json:"evidence,omitempty"`
	Author   string        `json:"author,omitempty"`
	Note     string        `json:"note,omitempty"`
	Source   string        `json:"source,omitempty"`
	Missed   int           `json:"missed,omitempty"` // records this reader lost before this one
}

// An Attempt is what a record of a failure, probe, success or listing is made of: there are very many, of which few are shown.
type Attempt struct {
	Time                time.Time
	Event               string // as in Record
	Rule, Service, User string
	Addr                netip.Addr
	Host                string
	Count               int
	New                 int  // attempts that it adds to the counters of its rule; lines may report the same one
	Targeted            bool // User is an account of this host other than root
	Score               float64
	Reason              string
}

// Record returns the record.
func (a *Attempt) Record() Record {
	rec := Record{Time: a.Time, Event: a.Event, Rule: a.Rule, Service: a.Service, Host: a.Host, User: a.User, Count: a.Count, Score: a.Score, Reason: a.Reason}
	if a.Addr.IsValid() {
		rec.Addr = a.Addr.String()
	}
	return rec
}

// Attacker returns the address that a record of a ban is about, if others are to be told: that of a verified ban by rules, without what lists report,
// of a single address that hosts on the Internet can have.
func (r *Record) Attacker() (addr netip.Addr, ok bool) {
	byRule := r.Rule == ban.ByScore || !ban.Reserved(r.Rule)
	p, err := netip.ParsePrefix(r.Prefix)
	if r.Event != "ban" || r.Class != ban.Verified.String() || !byRule || r.Listed || err != nil || !p.IsSingleIP() {
		return addr, false
	}
	addr = p.Addr().Unmap()
	return addr, addr.IsGlobalUnicast() && !addr.IsPrivate()
}
