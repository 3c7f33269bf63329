//go:build linux

// Package bantest tests packet filters behind an enforce.Enforcer with real packets: what bans drop and what passes, that live sessions
// end, that others' changes are undone and that restarts leave no gap. The same tests run over every packet filter.
package bantest

import (
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"mef/internal/conf"
	"mef/internal/enforce"
	"mef/internal/enforce/enforcetest"
	"mef/internal/netnstest"
	"mef/internal/prefixset"
)

// A Filter is a packet filter to be tested.
type Filter struct {
	// Open returns the one of a namespace.
	Open func(ns *netnstest.NS, log *slog.Logger, settings enforce.Settings) (Backend, error)

	// Watched returns nil once changes by others in a namespace are noticed.
	Watched func(t testing.TB, ns *netnstest.NS) error

	// Undo are commands by which others take bans out of force: those of 192.0.2.7 and 2001:db8:a::/64. Each has a name.
	Undo map[string][]Command

	// Alter are commands after which what is ours in the kernel is not as it should be, without a ban out of force.
	Alter []Command

	// Foreign is what others have in the kernel, and Show the command that prints it: it must stay as it is.
	Foreign, Show []Command

	// Delete removes all that is ours in the caller's namespace, and reports whether there was anything.
	Delete func() (bool, error)

	// Flush are commands by which others flush everything, and Rules print what is ours.
	Flush, Rules []Command

	// Sever closes the connections of a packet filter without its knowledge.
	Sever func(Backend)

	// Lacking are parts of kernels that are missing, by name.
	Lacking map[string]Lack

	// Slow says that a new list of ports takes tens of milliseconds: what needs hundreds of them is left out.
	Slow bool

	// Late is how much later than asked the kernel may end a ban.
	Late time.Duration
}

// A Backend is an enforce.Backend that can be closed.
type Backend interface {
	enforce.Backend
	Close() error
}

// A Command is a program with its input and its arguments.
type Command struct {
	Stdin string
	Args  []string
}

// run runs commands in a namespace and returns what they print.
func run(t testing.TB, ns *netnstest.NS, commands []Command) (out string) {
	t.Helper()
	for _, c := range commands {
		out += ns.Run(t, c.Stdin, c.Args[0], c.Args[1:]...)
	}
	return out
}

// Run runs all tests.
func (f Filter) Run(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"promises": func(t *testing.T) {
			enforcetest.Promises(t, func(t testing.TB) enforce.Backend { return f.open(t, netnstest.New(t)) })
		},
		"what a ban drops": f.whatABanDrops,
		"answers to our own connections pass unverified bans": f.answersToOurOwnConnectionsPassUnverifiedBans,
		"a ban of our own network leaves neighbour discovery": f.aBanOfOurOwnNetworkLeavesNeighbourDiscovery,
		"loopback is never touched":                           f.loopbackIsNeverTouched,
		"link-local is never touched":                         f.linkLocalIsNeverTouched,
		"DHCP replies pass":                                   f.dhcpRepliesPass,
		"only neighbour discovery of the link passes":         f.onlyNeighbourDiscoveryOfTheLinkPasses,
		"random bans agree with a model":                      f.RandomBansAgreeWithAModel,
		"live sessions are cut both ways":                     f.liveSessionsAreCutBothWays,
		"drops are counted":                                   f.dropsAreCounted,
		"a banned source costs no conntrack entry":            f.aBannedSourceCostsNoConntrackEntry,
		"banned peers are back out within a second":           f.bannedPeersAreBackOutWithinASecond,
		"a restart leaves no gap":                             f.aRestartLeavesNoGap,
		"delete needs no daemon":                              f.deleteNeedsNoDaemon,
		"a bulk load is complete":                             f.bulkLoadIsComplete,
		"no gap while a list is replaced":                     f.noGapWhileAListIsReplaced,
		"lists drop what opens connections":                   f.listsDropWhatOpensConnections,
		"closed ports are reported":                           f.closedPortsAreReported,
		"late answers are not reported":                       f.lateAnswersAreNotReported,
		"sources of new connections are reported":             f.newPeersAreReported,
		"clients of a service that restarts are not reported": f.serviceThatRestarts,
		"a flood of packets to closed ports":                  f.floodOfClosedPorts,
		"log settings change without a gap":                   f.logSettingsChangeWithoutAGap,
		"vanished connections are opened again":               f.vanishedConnectionsAreOpenedAgain,
		"what the kernel lacks":                               f.lackingKernel,
		"an interface that vanishes":                          f.vanishingInterface,
		"flood guard":                                         f.floodGuard,
		"flood guard exempts shared addresses":                f.floodGuardExemptsSharedAddresses,
		"flood guard remembers sources":                       f.floodGuardRemembersSources,
		"flood guard during a forged flood":                   f.floodGuardDuringForgedFlood,
		"flood guard drops the source":                        f.floodGuardDropsTheSource,
		"sets are bounded, and those of ended bans make room": f.setsAreBounded,
	} {
		t.Run(name, test)
	}
}

// drops are the settings for logging of the default configuration.
var drops = conf.DropLog{Enabled: true, Prefix: "MEF_", Level: "warn", Rate: 1, Burst: 5}

func (f Filter) open(t testing.TB, ns *netnstest.NS) Backend {
	t.Helper()
	return f.openWith(t, ns, enforce.Settings{Log: drops, Samples: true})
}

func (f Filter) openWith(t testing.TB, ns *netnstest.NS, settings enforce.Settings) Backend {
	t.Helper()
	b, err := f.Open(ns, slog.New(slog.NewTextHandler(t.Output(), nil)), settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// A World is a server with a packet filter that bans, an attacker with many addresses, and a container behind the server.
//
//	attacker 192.0.2.7-9, 2001:db8:a::7-8, 2001:db8:b::7   2001:db8:1::7 ── 2001:db8:1::1, 192.0.2.1 server ── container 172.17.0.2
//
// On the server, ports 22 and 25 answer over TCP and 53 over UDP; port 8080 leads to the container's port 80.
type World struct {
	Server, Attacker, Container *netnstest.NS
	B                           Backend
	E                           *enforce.Enforcer
}

// NewWorld makes a world whose server never bans some addresses.
func (f Filter) NewWorld(t *testing.T, allow ...string) World {
	t.Helper()
	w := World{Server: netnstest.New(t), Attacker: netnstest.New(t), Container: netnstest.New(t)}
	netnstest.Join(t, w.Server, w.Attacker, "192.0.2.1/24 2001:db8:1::1/64",
		"192.0.2.7/24 192.0.2.8/24 192.0.2.9/24 2001:db8:1::7/64 2001:db8:a::7/64 2001:db8:a::8/64 2001:db8:b::7/64")
	netnstest.Join(t, w.Server, w.Container, "172.17.0.1/16", "172.17.0.2/16")
	w.Server.Route(t, "2001:db8:a::/47", "2001:db8:1::7")
	w.Container.Route(t, "0.0.0.0/0", "172.17.0.1")
	w.Server.Sysctl(t, "net.ipv4.ip_forward", "1")
	w.Server.Run(t, `
		table ip nat {
			chain pre { type nat hook prerouting priority dstnat; tcp dport 8080 dnat to 172.17.0.2:80; tcp dport 8081 dnat to 172.17.0.2:81; udp dport 8081 dnat to 172.17.0.2:81; }
			chain post { type nat hook postrouting priority srcnat; ip saddr 172.17.0.0/16 masquerade; }
		}`, "nft", "-f", "-")
	for _, port := range []string{":22", ":25"} {
		w.Server.Echo(t, "tcp", port)
	}
	w.Server.Echo(t, "udp4", "192.0.2.1:53")
	w.Server.Echo(t, "udp6", "[2001:db8:1::1]:53")
	w.Container.Echo(t, "tcp", ":80")
	w.Attacker.Echo(t, "tcp", ":443")
	for _, port := range []string{"53", "443", "514", "5060", "40000"} {
		w.Attacker.Echo(t, "udp4", "192.0.2.7:"+port)
	}
	w.Attacker.Echo(t, "udp6", "[2001:db8:a::7]:53")
	var set []netip.Prefix
	for _, p := range allow {
		set = append(set, netip.MustParsePrefix(p))
	}
	w.B = f.open(t, w.Server)
	w.E = enforcetest.Start(t, w.B, enforce.Options{Allow: prefixset.New(set...)})
	return w
}
