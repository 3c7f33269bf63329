package conf

import (
	"strings"
	"time"

	"mef/internal/ban"
)

// A Feed is a list of addresses that others publish, a section [feed NAME] of mef.conf, or one of those that are built in and off.
type Feed struct {
	Name     string
	Pos      Pos  // of its section; zero: built in and not mentioned
	Enabled  bool // unless an operator has said otherwise by command
	URL      string
	Format   FeedFormat
	Column   int    // of FeedCSV, from 1
	Member   string // of FeedJSON
	Refresh  time.Duration
	Action   FeedAction
	Weight   int       // points of FeedScore
	Both     bool      // direction=both
	Ports    ban.Ports // of this host, of FeedDrop; empty: all
	MaxSize  int       // megabytes, after decompression
	MaxShare int       // percent of the public addresses of a family that it may cover
	About    string    // what it has, of a built-in one
}

// Rule returns the name of the rule whose events are addresses of the feed that attack.
func (f *Feed) Rule() string { return "feed/" + f.Name }

// A FeedFormat is how a feed is written.
type FeedFormat uint8

// The formats. All have an entry a line: an address, CIDR, IP/MASK or range a-b.
const (
	FeedPlain FeedFormat = iota // the first word of each line that is no comment
	FeedCSV                     // a column
	FeedJSON                    // a member of each line's object
)

// A FeedAction is what being in a feed leads to.
type FeedAction uint8

// The actions.
const (
	FeedDrop   FeedAction = iota // packets are dropped
	FeedDetect                   // failures and probes of its addresses are reported
	FeedScore                    // the same, and points are added to the score of the address
)

// FeedActions are the words for actions.
var FeedActions = [...]string{FeedDrop: "drop", FeedDetect: "detect", FeedScore: "score"}

// String returns the word for it in mef.conf.
func (a FeedAction) String() string { return FeedActions[a] }

// A Notify is a section [notify NAME] of mef.conf: who is notified, of what, and how. Exactly one of URL, Command and Mail is set.
type Notify struct {
	Name    string
	Pos     Pos // of its section
	Enabled bool
	Events  [4]bool       // by NotifyEvent
	Digest  time.Duration // new bans are reported together, at most once in this time
	Limit   int           // messages an hour

	URL     string // a web hook; {key} in it stands for the key
	Format  string // one of NotifyFormats
	Body    string // of format=own: a text with placeholders
	To      string // the chat or room, where a format needs one
	KeyFile string // of the key or password; empty: none

	Command []string // a program and its arguments

	Mail     []string // addresses
	MailFrom string   // empty: mef@ and the name of this host
	SMTP     string   // smtp://HOST:PORT or smtps://HOST:PORT
	SMTPUser string   // empty: without authentication
	Sendmail string   // a program that takes the mail, in place of SMTP
}

// A NotifyEvent is a kind of what an administrator is notified of.
type NotifyEvent uint8

// The kinds.
const (
	NotifyAlarms  NotifyEvent = iota // login alarms
	NotifyStatus                     // the status has turned red or yellow, or is well again
	NotifyAttacks                    // a distributed attack has begun or is over
	NotifyBans                       // new bans, as a digest
)

// NotifyEvents are the words for kinds.
var NotifyEvents = [...]string{NotifyAlarms: "alarms", NotifyStatus: "status", NotifyAttacks: "attacks", NotifyBans: "bans"}

// NotifyFormats are the forms of what is sent to a web hook.
var NotifyFormats = [...]string{"json", "ntfy", "gotify", "slack", "telegram", "matrix", "own"}

// NotifyPlaceholders are what a body of format=own may have, each in braces.
var NotifyPlaceholders = [...]string{"title", "text", "level", "host"}

// NotifyJSON reports whether a body of format=own is JSON, so that what replaces placeholders is escaped.
func NotifyJSON(body string) bool {
	body = strings.TrimSpace(body)
	return strings.HasPrefix(body, `{"`) || body == "{}" || strings.HasPrefix(body, "[")
}

// A Page says where mefpage serves the operator's page and the metrics.
type Page struct {
	Address      string      // page: path of a unix socket, or address:port; empty: off
	Groups       []PageGroup // page_groups: at a unix socket
	PasswordFile string      // page_password_file: at an address
	Certificate  string      // page_certificate; empty: one that the daemon makes, but at a loopback address plain HTTP
	Key          string      // page_key

	Metrics string // metrics: path of a unix socket, or loopback address:port; empty: off

	BlockPort        int    // block_page: where banned clients of a web server are told that they are banned; 0: nowhere
	BlockContact     string // block_page_contact: whom they are told to ask
	BlockCertificate string // block_page_certificate: of the web server; empty: connections to port 443 are reset
	BlockKey         string // block_page_key
	BlockSum         int    // block_page_sum: how many times a day a client may lift its ban by a sum; 0: never
	BlockSumTotal    int    // block_page_sum_total: how many times a day all may
}

// BlockTLSPort returns the port of the page for banned clients over TLS, 0 if there is none.
func (p Page) BlockTLSPort() int {
	if p.BlockPort == 0 || p.BlockCertificate == "" {
		return 0
	}
	return p.BlockPort + 1
}

// A PageGroup is a group of this host whose members have a role on the page.
type PageGroup struct{ Name, Role string }

// PageRoles are what somebody may do on the page, each more than the one before: look; lift bans; ban and change the allow list.
var PageRoles = [...]string{"read", "support", "operator"}
