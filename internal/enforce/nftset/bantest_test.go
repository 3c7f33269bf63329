//go:build integration

package nftset_test

import (
	"log/slog"
	"testing"

	"golang.org/x/sys/unix"

	"mef/internal/enforce"
	"mef/internal/enforce/nftset"
	"mef/internal/netnstest"
	"mef/internal/netnstest/bantest"
)

// nft is a command of nft.
func nft(args ...string) bantest.Command {
	return bantest.Command{Args: append([]string{"nft"}, args...)}
}

// filter is what is tested like every packet filter.
func filter() bantest.Filter {
	return bantest.Filter{
		Open: func(ns *netnstest.NS, log *slog.Logger, settings enforce.Settings) (bantest.Backend, error) {
			return nftset.NewIn(ns.Fd(), log, settings)
		},
		Watched: func(t testing.TB, ns *netnstest.NS) error { return listening(ns, t) },
		Undo: map[string][]bantest.Command{
			"nft flush ruleset": {nft("flush", "ruleset")},
			"systemctl restart nftables": {{Stdin: "flush ruleset\ntable inet filter {\n\tchain input { type filter hook input priority filter; }\n}\n",
				Args: []string{"nft", "-f", "-"}}},
			"nft delete table": {nft("delete", "table", "inet", "mefdaemon")},
			"nft flush table":  {nft("flush", "table", "inet", "mefdaemon")},
			"nft flush set":    {nft("flush set inet mefdaemon ban4_32; flush set inet mefdaemon ban6_64")},
			"nft insert rule that accepts everything": {
				nft("insert rule inet mefdaemon ban accept; insert rule inet mefdaemon reply_out accept")},
		},
		Alter: []bantest.Command{nft("add chain inet mefdaemon other"), nft("add rule inet mefdaemon ban4 counter"),
			nft("add set inet mefdaemon strange { type ipv4_addr; }")},
		Foreign: []bantest.Command{{Stdin: foreign, Args: []string{"nft", "-f", "-"}}},
		Show:    []bantest.Command{nft("-a", "list", "table", "inet", "filter"), nft("-a", "list", "table", "ip", "mefdaemon"), nft("-a", "list", "table", "ip", "nat")},
		Flush:   []bantest.Command{nft("flush", "ruleset")},
		Rules:   []bantest.Command{nft("list", "table", "inet", "mefdaemon")},
		Sever:   func(b bantest.Backend) { b.(*nftset.Backend).Sever() },
		Delete:  nftset.Delete,
		Lacking: map[string]bantest.Lack{
			"nft_log":       {Open: without("log"), Log: lacks("nft_log, nf_log_syslog or nft_limit"), Samples: enforce.NoSamples, Scan: lacks("nft_log and nfnetlink_log"), Flood: lacks("nft_log and nfnetlink_log")},
			"nft_limit":     {Open: without("limit"), Log: lacks("nft_log, nf_log_syslog or nft_limit"), Samples: enforce.NoSamples, Scan: lacks("nft_limit"), Flood: lacks("nft_limit")},
			"nft_dynset":    {Open: without("dynset"), Scan: lacks("nft_dynset"), Flood: lacks("nft_dynset")},
			"nft_socket":    {Open: without("socket"), Scan: lacks("nft_socket")},
			"nft_connlimit": {Open: without("connlimit"), Flood: lacks("nft_connlimit")},
			"nf_conntrack":  {Open: without("ct"), Flood: lacks("nft_ct and nf_conntrack")},
			"nft_fib_inet":  {Open: without("fib"), Flood: lacks("nft_fib_inet")},
			"nothing":       {Open: without()},
		},
	}
}

// without opens the packet filter of a kernel that lacks expressions.
func without(expressions ...string) func(*testing.T, *netnstest.NS, *slog.Logger, enforce.Settings) (bantest.Backend, error) {
	return func(_ *testing.T, ns *netnstest.NS, log *slog.Logger, settings enforce.Settings) (bantest.Backend, error) {
		return nftset.Lacking(bantest.Without(unix.ENOENT, unix.NFTA_EXPR_NAME, expressions...), ns.Fd(), log, settings)
	}
}

func lacks(modules string) string {
	return "this kernel lacks " + modules + "; load them with modprobe, or use a kernel that has them"
}

func TestPacketFilter(t *testing.T) { filter().Run(t) }

// TestOldKernelAgreesWithAModel makes the random bans on a kernel that cannot change the timeout of an element.
func TestOldKernelAgreesWithAModel(t *testing.T) {
	f := filter()
	f.Open = func(ns *netnstest.NS, log *slog.Logger, settings enforce.Settings) (bantest.Backend, error) {
		b, err := nftset.NewIn(ns.Fd(), log, settings)
		if err == nil {
			b.Pretend(nftset.Features{})
		}
		return b, err
	}
	f.RandomBansAgreeWithAModel(t)
}
