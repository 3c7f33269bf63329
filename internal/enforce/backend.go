package enforce

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/prefixset"
)

// A Backend is what an Enforcer needs of a packet filter. Package nftset is the one for nftables, ipset the one for iptables.
//
// It knows nothing of what should hold beyond its own tables, chains and rules: it makes changes, and it says what it finds.
// Held, Watch, Lists, Listed, Drops, Names and SetOf may be called from any goroutine, the other methods are called from one.
type Backend interface {
	// Apply makes the changes hold in one transaction. Where the kernel refuses single bans, the others hold all the same and
	// the refused ones are returned. An error means that nothing is known to have changed.
	Apply(ctx context.Context, c Changes) (failed []Failure, err error)

	// Rebuild makes c, and nothing else, hold, whatever is there now, in one transaction without a moment in which less holds
	// than before or after. It creates what is missing.
	Rebuild(ctx context.Context, c Changes) (failed []Failure, err error)

	// Check compares the tables, chains, rules and sets in the kernel with the ones that belong there, without reading
	// elements. It is cheap.
	Check(ctx context.Context) (Check, error)

	// Held reads back what the kernel holds of the keys, or everything if there are none. The bans come in any order. Of very many
	// it may overlook some, if others end while it reads.
	Held(ctx context.Context, keys ...ban.Key) (State, error)

	// Watch calls changed whenever somebody else may have changed what is ours, until ctx is done; and once as soon as it would
	// notice, unless it knows that nobody has changed anything since the first Check. It blocks; changed must not.
	Watch(ctx context.Context, changed func(Notice)) error

	// SetList returns the steps that make a list hold in the place of the one of that name; a list without entries is removed. A step takes
	// some milliseconds at most for any length of the list, so that bans can be written in between; done reports that it was the last. An
	// address that the list had before and has afterwards is listed all the time; the others change at one of the steps. After an error the
	// former list holds, perhaps with some of the new entries, and SetList is to be called again. Setting a list that holds already costs
	// nothing. No more than one list is set at a time: a second call gives up what the first one began. A step is called like Apply.
	//
	// Lists hold beside bans, in any order with them: after the allow and grace sets, before Changes.Except. They outlive the daemon, and
	// Rebuild keeps those that hold.
	SetList(l List) (step func(context.Context) (done bool, err error))

	// KeepLists removes the lists that have none of the names, and what an unfinished SetList left behind. It is called like Apply.
	KeepLists(ctx context.Context, names []string) error

	// Lists returns the lists that hold, in the order of their names, without reading their entries. Listed returns the names of those that have an
	// address, in order. Both may be called from any goroutine.
	Lists(ctx context.Context) ([]HeldList, error)
	Listed(ctx context.Context, addr netip.Addr) ([]string, error)

	// Drops returns how many packets were dropped. It reads counters, no elements of bans or lists. It may be called from any goroutine.
	Drops(ctx context.Context) (Drops, error)

	// Configure changes what it does beside bans, from the next Rebuild on.
	Configure(Settings) error

	// Detection returns what becomes of the packets that it is to report.
	Detection() (Detection, error)

	// Names returns what people call it, and SetOf where it holds a ban, as the packet filter's own tool shows it.
	Names() Names
	SetOf(ban.Key) string
}

// LogGroup is the NFLOG group to which packets are reported.
const LogGroup = 4242

// SampleGroup is the NFLOG group to which samples of dropped packets are reported: at most SampleRate a second, after the first SampleBurst, for
// each cause of event.DroppedBan and the following (iptables: and each family), or as many as Settings.Log allows. What is not sampled costs a look at the limit.
const (
	SampleGroup = 4243
	SampleRate  = 25
	SampleBurst = 50
)

// NoSamples is what a host lacks where the kernel cannot report samples.
const NoSamples = "dropped packets are counted, but not by service, source and network"

// A source that opens a connection to one of Settings.Peers is reported once in PeerTime seconds; at most PeerRate sources a second, after
// the first PeerBurst.
const (
	PeerTime  = 15 * 60
	PeerRate  = 20
	PeerBurst = 100
)

// Settings are what a packet filter does beside bans.
type Settings struct {
	Log  conf.DropLog // how it logs packets that bans drop
	Scan conf.Scan    // which packets to closed ports it reports; none unless enabled
	// Flood is what a source may do at a port; anything unless enabled. What exceeds it is reported.
	Flood conf.Flood
	// Peers are the TCP ports of this host at which sources that open a connection are reported; empty: none.
	Peers ban.Ports
	// Page is where banned clients of a web server, by verified bans of some ports only, are told that they are banned.
	Page Page
	// Samples has samples of the packets that bans and lists drop reported.
	Samples bool
	// Proxies and CDNs have many clients behind each address. Flood does not limit the former, and the latter not at exempt.WebPorts.
	Proxies, CDNs prefixset.Set
}

// A Page is the TCP ports of this host to which connections to ports 80 (HTTP) and 443 (TLS) are sent. Without HTTP there is no page; without
// TLS, connections to port 443 are reset.
type Page struct{ HTTP, TLS uint16 }

// A Detection is what becomes of the packets that a packet filter is to report.
type Detection struct {
	Off      string // why packets to closed ports are not reported although they should be; empty if they are
	FloodOff string // why there is no flood guard although there should be one
	PeersOff string // why sources that open a connection are not reported although they should be

	// Packets that were not reported since the table was built: of unknown sources beyond a rate, and beyond the rate of reports. Full
	// counts those that found a full set.
	Unadmitted, Muted, Full uint64
}

// ScanStatus is how the detection of scans fares.
type ScanStatus struct {
	On       bool
	Off      string // why it does not work although it is on
	Guard    bool   // the flood guard is on
	GuardOff string // why that does not work although it is on

	Receiving bool     // what the kernel reports is received
	Sampling  string   // why it sees a part of the packets only; empty if it sees all
	Warnings  []string // what else an operator should know
}

// Names are what people call a packet filter, "nftables", and what is ours in it, "table inet mefdaemon".
type Names struct {
	Filter, Table string
	Uncounted     bool     // bans do not count packets
	Lacks         []string // what it cannot do on this host, and why, each in a sentence
}

// A List is a long list of addresses whose packets are dropped: one value from its file to the kernel, which nobody changes.
type List struct {
	Name  string            // lower-case letters, digits, dots and hyphens, at most MaxListName
	Addrs *prefixset.Packed // without addresses that must never be dropped
	Ports ban.Ports         // of this host; empty: all

	// Both drops every packet from and to the addresses. Otherwise only those that open a connection to this host or through it are dropped, TCP
	// segments with SYN and without ACK and UDP packets to ports of services, so that this host can reach the addresses: lists have
	// addresses of large providers now and then.
	Both bool
}

// MaxListName is how long the name of a list may be, in bytes.
const MaxListName = 40

// A HeldList is a list that the kernel holds.
type HeldList struct {
	Name    string
	Packets uint64 // dropped since the kernel first had a list of that name
	Entries int    // as the kernel counts them, which may leave out a network that ends with the last address of its family; -1 if it does not
}

// Drops are packets that were dropped since the kernel has the table: it counts on while the daemon restarts.
type Drops struct {
	Verified, Unverified uint64 // from banned addresses, by the class of the ban
	Replies              uint64 // to banned addresses
	Lists                uint64 // of those lists that there are, both directions
}

// Changes is what one transaction does.
type Changes struct {
	// Allow, unless nil, replaces the addresses that no ban touches.
	Allow *prefixset.Set

	// Grace grants or takes back freedom from bans for a while.
	Grace []Element

	// Except excepts single addresses from bans of networks for a while, or no longer.
	Except []Element

	// Bans adds, extends or removes bans.
	Bans []Change
}

// A Change puts a ban in force or lifts it.
type Change struct {
	Key     ban.Key
	Timeout Timeout // of a ban in force: how long from now, whatever held before
	Remove  bool    // lift it; no error if it is not in force
}

// An Element is a prefix with the time that it has left: a single address, or in a grace set an IPv6 /64.
type Element struct {
	Prefix  netip.Prefix
	Timeout Timeout
	Remove  bool
}

// A Timeout is how long from now a ban holds. The zero value is invalid, because the kernel takes a timeout of zero for
// "forever": permanence must be said.
type Timeout time.Duration

const (
	// Permanent is the timeout of a ban without end.
	Permanent Timeout = -1

	// MinTimeout is what a ban gets that has less time left: rounding down to zero would make it permanent.
	MinTimeout = Timeout(time.Second)
)

// TimeoutUntil returns how long a ban that ends at until holds from now on: Permanent if until is zero, never less than
// MinTimeout.
func TimeoutUntil(until, now time.Time) Timeout {
	if until.IsZero() {
		return Permanent
	}
	return max(Timeout(until.Sub(now)), MinTimeout)
}

// Milliseconds returns the timeout in the kernel's unit, 0 for Permanent. It refuses anything else below MinTimeout.
func (t Timeout) Milliseconds() (uint64, error) {
	switch {
	case t == Permanent:
		return 0, nil
	case t < MinTimeout:
		return 0, fmt.Errorf("timeout %v is below one second, and the kernel treats zero as permanent", time.Duration(t))
	}
	return uint64(time.Duration(t).Milliseconds()), nil
}

// ErrTooManyKinds is wrapped by the Err of a Failure if bans of one more combination of prefix length and ports could not be held
// beside those there are, and those that there were since the last Rebuild.
var ErrTooManyKinds = errors.New("too many combinations of prefix length and ports")

// A Failure is a ban that the kernel refused.
type Failure struct {
	Key ban.Key
	Err error
}

// A Check is what a look at the kernel's objects, but not their elements, found.
type Check struct {
	// Damaged names the objects that are missing or not as they should be, such as "table", "chain ban4", "set ban4_32".
	Damaged []string

	// Bans is how many bans the kernel holds, expired ones that it has not yet cleared included; -1 if it does not say.
	Bans int

	// Lists names the lists of which entries are missing, or may be: another program changed them. They are to be set again.
	Lists []string
}

// A Notice says that somebody else changed something of ours.
type Notice struct {
	By string // the process: its name and number, as in "nft[4711]"; empty if unknown

	// Shallow means that no elements but bans can have changed, so that they need reading only if Check finds damage, or too few.
	Shallow bool
}

// State is what the kernel holds.
type State struct {
	Allow   prefixset.Set
	Grace   []Element // with the time left
	Except  []Element // single addresses, with the time left
	Bans    []Held    // in the order of their keys if an Enforcer returned them
	Replies uint64    // packets towards banned addresses that were dropped
}

// Held is a ban that the kernel holds.
type Held struct {
	ban.Key
	Until time.Time // zero: permanent

	// Packets and Bytes were dropped, in both directions, since the ban began. They stay 0 where the kernel cannot count.
	Packets, Bytes uint64

	// Unknown says that the kernel held the ban when we came, and no record tells why.
	Unknown bool
}
