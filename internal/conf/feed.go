package conf

import (
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
