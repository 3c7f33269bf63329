package conf

import (
	"cmp"
	"log/slog"
	"net/netip"
	"time"

	"mef/internal/ban"
	"mef/internal/conf/diag"
)

// DefaultPath is where mef.conf is unless a command says otherwise.
const DefaultPath = "/etc/mef/mef.conf"

// DefaultStateDir is where the daemon keeps its state unless cache_dir says otherwise.
const DefaultStateDir = "/var/lib/mef"

// DefaultEventLog is where the event log is unless ban_log_path says otherwise.
const DefaultEventLog = "/var/log/mef.log"

// A place in a configuration file, mistakes there, and what else there is to report about it; see package diag.
type (
	Pos    = diag.Pos
	Error  = diag.Error
	Errors = diag.Errors
	Notice = diag.Notice
)

// Name returns the name of a file for messages; see diag.Name.
func Name(path string) string { return diag.Name(path) }

// A Config is mef.conf checked, every value in force. Load makes one.
type Config struct {
	Path  string // the file it was read from
	Paths Paths

	Observe  bool // mode=observe: everything is done except writing bans
	LogLevel slog.Level

	EventLog     bool   // ban_log_enabled
	EventLogPath string // ban_log_path: JSON lines

	ClearOnStop bool // clear_bans_on_stop

	JournalSince time.Duration // journal_since: how far back the first start reads
	FileRecent   FileRecent
	Syslog       Syslog
	Stdin        bool // stdin: lines are read from the standard input

	Canaries     []string // canaries: names that nobody uses, one try bans
	StarterNames bool     // starter_names
	LoginAlarms  bool     // login_alarms
	NAT64        []string // nat64_prefixes

	BanNetworks   bool     // ban_networks: networks are banned for what several of their addresses did
	IPv6Prefix    int      // ipv6_prefix: IPv6 sources count and are banned by prefixes of this length
	ProtectGroups []string // protect_groups
	Proxies       []string // proxies: addresses and prefixes never banned at packet level

	Score Score
	Ban   BanTimes
	Known Known
	Scan  Scan
	Flood Flood
	RBL   RBL
	Log   DropLog

	Report    Report
	Community Community

	Page Page

	Firewall Firewall

	Feeds  []Feed   // ordered by name, built-in ones included
	Notify []Notify // in the order of the file

	GeoDatabases []string // geo_databases: mmdb files
	Access       []Access // ordered by name

	Whitelist []Entry // entries of whitelist/*.conf
	Blacklist []Entry // entries of blacklist/*.conf
	// ListErrors are lines of those files that are no entries, and files that cannot be read. They are left out, the rest holds.
	ListErrors Errors

	// How often those files are looked at, should a change go unnoticed: whitelist_reload, blacklist_reload.
	WhitelistReload, BlacklistReload time.Duration // 0: only when asked to

	Rules []Rule // enabled or not, ordered by name behind those that are shipped disabled

	// Notices are sentences about keys that were accepted and ignored, replaced or clamped.
	Notices []Notice
	// Origins has, for every key of mef.conf, where its value comes from.
	Origins []Origin
}

// Paths are the places a daemon uses, so that several can run side by side.
type Paths struct {
	RulesDir, WhitelistDir, BlacklistDir string

	WebscanDir string // the default stands for webscan.d beside RulesDir

	StateDir      string // cache_dir
	ControlSocket string // control_socket
}

// A Syslog reports where messages of syslog are received.
type Syslog struct {
	Sockets []SyslogSocket // syslog_listen
	Senders []string       // syslog_senders: addresses and prefixes that are believed
}

// A SyslogSocket is a path (unix) or an address with port (udp, tcp).
type SyslogSocket struct{ Network, Address string }

// FileRecent bounds what is read of a file that has no saved position.
type FileRecent struct {
	Lines  int           // file_recent_limit
	Window time.Duration // file_recent_window
}

// Score holds the points of the score across services.
type Score struct {
	Failure, Probe, Unverified int           // score_failure, score_probe, score_unverified
	Contested                  int           // score_contested: a name that never logged in here and that other networks try
	Absent                     int           // score_unknown_user: a name that the daemon reports as unknown, the first time
	Hot                        int           // score_hot_name: such a name that other networks try; 0: names are not learned
	HalfLife                   time.Duration // score_halflife
	Ban                        int           // score_ban: a source with this many points is banned on all ports; 0: none is
	Days                       int           // score_days: a source that fails on as many days and never succeeds is banned; 0: days do not matter
	AfterBan                   int           // score_after_ban: percent of Ban that remain after a ban by score
	Sprays                     bool          // spray_limits: limits are lower where many sources try one name, or from one network
}

// BanTimes reports how ban times grow.
type BanTimes struct {
	First   time.Duration // bantime: for rules that name none
	Score   time.Duration // bantime_score: for bans by score
	Names   time.Duration // bantime_names: for bans by score for names that do not exist
	Growth  int           // bantime_growth: each repeat multiplies by this
	Cap     time.Duration // bantime_cap
	History time.Duration // bantime_history: repeats are forgotten after this
}

// Known bounds the memory of known logins.
type Known struct {
	TTL       time.Duration // known_ttl
	PerUser   int           // known_per_user: addresses
	Total     int           // known_total
	SharedMin int           // known_shared: an address with as many known users is shared
	Burst     int           // known_burst: failures in a row that are forgiven to a known login
	Retries   int           // known_retries: failures a day that are forgiven at the pace of a forgotten device; 0: nothing is forgiven
	Limits    bool          // known_limits: limits grow with the number of users who log in from an address
}

// Scan holds the ps_* keys.
type Scan struct {
	Enabled  bool
	Limit    int
	Interval time.Duration
	BanTime  time.Duration
	UDP      bool
	Exclude  ban.Ports // ports that never count; empty: none
	On       []string  // interfaces on which scans count; empty or with AllInterfaces: all
	NotOn    []string  // interfaces on which they do not
}

// AllInterfaces stands for all interfaces.
const AllInterfaces = "auto"

// Flood holds the ddos_* keys.
type Flood struct {
	Enabled bool
	Ports   ban.Ports // guarded TCP ports; empty: all
	FloodLimits
	Of     map[uint16]FloodLimits // of single ports; 0 stands for the limit of all
	Mode   FloodMode
	Stage1 time.Duration // how long FloodDrop drops

	Escalate bool // exceeded limits lead to a ban:
	Hits     int  // so many
	Window   time.Duration
	BanTime  time.Duration
}

// FloodLimits are what one source may do at one port.
type FloodLimits struct {
	SYNRate, SYNBurst int // packets that open a connection, a second
	NewRate, NewBurst int // new connections a second
	Conns             int // at a time
}

// Or returns the limits, with those of others in place of 0.
func (l FloodLimits) Or(other FloodLimits) FloodLimits {
	return FloodLimits{cmp.Or(l.SYNRate, other.SYNRate), cmp.Or(l.SYNBurst, other.SYNBurst), cmp.Or(l.NewRate, other.NewRate),
		cmp.Or(l.NewBurst, other.NewBurst), cmp.Or(l.Conns, other.Conns)}
}

// A FloodMode is what happens to a source beyond a limit.
type FloodMode uint8

// The modes.
const (
	FloodThrottle FloodMode = iota // what is beyond the limit is dropped
	FloodDrop                      // nothing new of the source reaches guarded ports for a while
	FloodDetect                    // it is reported
)

// Report holds the report_* keys.
type Report struct {
	AbuseIPDB   Collector // report_abuseipdb
	BlocklistDE Collector // report_blocklist_de
}

// Community is what a host does with the community server that it has joined.
type Community struct {
	Report     bool      // community_report
	Protection bool      // community_cloud_protection
	Ports      ban.Ports // community_cloud_ports
	Lookup     string    // community_cloud_lookup: LookupFeed, LookupPrefix or a DNS zone
	Listing    RBLZone   // what a listing leads to that is found otherwise than in the feed
	Fleet      bool      // community_fleet
	Names      bool      // community_names
}

// How the list of a community server is used.
const (
	LookupFeed   = "feed"   // the host has a copy
	LookupPrefix = "prefix" // the server is asked for all listed addresses of a large network
)

// CommunityName is that of the list of a community server among DNS block lists.
const CommunityName = "community"

// Feed reports whether the host has a copy of the list.
func (c *Community) Feed() bool { return c.Protection && (c.Lookup == LookupFeed || c.Lookup == "") }

// A Collector is who is sent reports about bans.
type Collector struct {
	Enabled bool
	KeyFile string
	Server  string // report_blocklist_de_server: how this host is registered there
}

// RBL holds the rbl_* keys.
type RBL struct {
	Enabled bool
	Servers []string  // rbl_servers: host:port; empty: those of this host
	Zones   []RBLZone // lists that are asked, ordered by name; none unless Enabled

	// ConnectionPorts are the TCP ports (rbl_connection_ports) at which the sources of new connections are asked about too; none if empty.
	ConnectionPorts ban.Ports
}

// Peers returns ConnectionPorts if a list is asked, otherwise none.
func (r *RBL) Peers() ban.Ports {
	if len(r.Zones) == 0 {
		return ""
	}
	return r.ConnectionPorts
}

// An RBLZone is a DNS block list that is asked about sources.
type RBLZone struct {
	Name    string   // K of rbl_K_*
	Zone    string   // rbl_K_zone: its DNS zone, without a dot at the end
	Match   []string // rbl_K_answer_match: answers that mean listed
	Codes   []RBLCode
	Enabled bool
	Prefix  bool // it is no zone: the community server is asked

	Action  RBLAction // rbl_K_action, of answers that are not in Codes
	Weight  int       // rbl_K_weight: points
	Ports   ban.Ports // rbl_K_ports, of a ban
	BanTime time.Duration

	Timeout                   time.Duration // of a query
	Positive, Negative, Error time.Duration // how long an answer counts
	Canary                    []netip.Addr  // addresses that the list must contain; empty: the test entries of RFC 5782
	Rate, InFlight            int           // queries a second, and at a time
}

// Rule returns the name of the rule whose events are listings by the zone.
func (z *RBLZone) Rule() string { return "dnsbl/" + z.Name }

// An RBLCode is what some answers of a list lead to.
type RBLCode struct {
	Match  string // as an answer of RBLZone.Match
	Action RBLAction
	Weight int // of RBLScore
}

// An RBLAction is what a listing leads to.
type RBLAction uint8

// The actions.
const (
	RBLScore  RBLAction = iota // it adds points to the score of the address
	RBLBan                     // the address is banned
	RBLDetect                  // it is reported
)

// DropLog holds the firewall_log_* keys.
type DropLog struct {
	Enabled bool
	Prefix  string
	Level   string
	Rate    int // messages a second
	Burst   int
}

// A Backend is the packet filter that enforces bans and holds the static policy.
type Backend uint8

// The backends. Automatic is nftables where it can be had.
const (
	Automatic Backend = iota
	NFTables
	IPTables
)

// String returns the value of firewall_backend.
func (b Backend) String() string { return [...]string{"auto", "nftables", "iptables"}[b] }

// Firewall is the settings of the firewall loader.
type Firewall struct {
	RulesFile  string // rules_file
	KeepOnStop bool   // rules_on_stop=keep
	Backend    Backend
}

// An Entry is one line of a whitelist or blacklist file.
type Entry struct {
	Pos  Pos
	Text string // as written: address, CIDR, IP/MASK, a-b range, or DNS name
	Note string // the comment behind it
}

// An Origin reports where the value of a key comes from.
type Origin struct {
	Section    string // of a rule's file; empty: [rule]
	Key, Value string
	Pos        Pos // zero: the default
}
