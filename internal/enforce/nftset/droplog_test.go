//go:build integration

package nftset_test

import (
	"encoding/binary"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"mef/internal/conf"
	"mef/internal/enforce"
	"mef/internal/enforce/enforcetest"
	"mef/internal/enforce/nftset"
	"mef/internal/netnstest"
)

// TestFewDropsAreLogged drops a thousand packets of each kind of ban, one after the other, and traces each through the table: all must
// reach the end, and few the rule that logs. (The lines themselves cannot be seen: the kernel logs nothing about namespaces other than
// the first.)
func TestFewDropsAreLogged(t *testing.T) {
	const packets = 1000
	server, attacker := netnstest.New(t), netnstest.New(t)
	netnstest.Join(t, server, attacker, "192.0.2.1/24 2001:db8::1/64", "192.0.2.7/24 192.0.2.8/24 2001:db8::7/64")
	server.Echo(t, "udp4", "192.0.2.1:53")
	server.Echo(t, "udp6", "[2001:db8::1]:53")
	limit := conf.DropLog{Enabled: true, Prefix: "MEF_", Level: "info", Rate: 2, Burst: 7}
	b := openWith(t, server, enforce.Settings{Log: limit})
	var bans enforce.Changes
	for _, key := range []string{"192.0.2.7", "2001:db8::/64", "192.0.2.8 unverified"} {
		bans.Bans = append(bans.Bans, enforce.Change{Key: enforcetest.Key(key), Timeout: enforce.Permanent})
	}
	began := time.Now()
	if _, err := b.Rebuild(t.Context(), bans); err != nil {
		t.Fatal(err)
	}
	next := traceDrops(t, server)
	logged := map[string]int{}
	for _, way := range [][2]string{{"192.0.2.7", "192.0.2.1:53"}, {"192.0.2.8", "192.0.2.1:53"}, {"2001:db8::7", "[2001:db8::1]:53"}} {
		conn, err := attacker.Dial("udp", way[0], way[1], netnstest.Patience)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for range packets {
			if _, err := conn.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			for chain, drop := next(t); !drop; chain, drop = next(t) {
				logged[chain]++
			}
		}
	}
	t.Logf("logged %v of %d packets within %v", logged, 3*packets, time.Since(began))
	for _, chain := range []string{"drop_ban", "drop_susp"} {
		most := limit.Burst + limit.Rate*int(time.Since(began)/time.Second+1)
		if n := logged[chain]; n < limit.Burst || n > most {
			t.Errorf("%s logged %d packets, want %d to %d", chain, n, limit.Burst, most)
		}
	}
	s, err := b.Held(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range s.Bans {
		if h.Packets != packets {
			t.Errorf("ban %v counted %d packets, want each of %d once", h.Key, h.Packets, packets)
		}
	}
}

// traceDrops traces the packets that enter a namespace. The function it returns waits for the next rule that matched a packet
// in a chain named drop_..., and reports the chain and whether the packet was dropped there.
func traceDrops(t *testing.T, ns *netnstest.NS) func(*testing.T) (chain string, drop bool) {
	t.Helper()
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: ns.Fd()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nl.Close() })
	if err := nl.JoinGroup(unix.NFNLGRP_NFTRACE); err != nil {
		t.Fatal(err)
	}
	ns.Run(t, "table inet trace { chain trace_all { type filter hook prerouting priority -399; meta nftrace set 1; }\n}", "nft", "-f", "-")
	var waiting []netlink.Message
	return func(t *testing.T) (string, bool) {
		t.Helper()
		for {
			for len(waiting) == 0 {
				nl.SetReadDeadline(time.Now().Add(netnstest.Patience))
				if waiting, err = nl.Receive(); err != nil {
					t.Fatalf("trace: %v", err)
				}
			}
			m := waiting[0]
			waiting = waiting[1:]
			if chain, drop, ok := parseTrace(t, m); ok {
				return chain, drop
			}
		}
	}
}

func parseTrace(t *testing.T, m netlink.Message) (chain string, drop, ok bool) {
	t.Helper()
	d, err := netlink.NewAttributeDecoder(m.Data[4:])
	if err != nil {
		t.Fatal(err)
	}
	d.ByteOrder = binary.BigEndian
	for d.Next() {
		switch d.Type() {
		case unix.NFTA_TRACE_CHAIN:
			chain = d.String()
		case unix.NFTA_TRACE_TYPE:
			ok = d.Uint32() == unix.NFT_TRACETYPE_RULE
		case unix.NFTA_TRACE_VERDICT:
			d.Nested(func(v *netlink.AttributeDecoder) error {
				for v.Next() {
					drop = drop || v.Type() == unix.NFTA_VERDICT_CODE && v.Uint32() == 0
				}
				return nil
			})
		}
	}
	return chain, drop, ok && strings.HasPrefix(chain, "drop_")
}

// TestKernelThatCannotLogStillDrops simulates a kernel without the module for logging.
func TestKernelThatCannotLogStillDrops(t *testing.T) {
	ns := netnstest.New(t)
	b := open(t, ns)
	b.Pretend(nftset.Features{Counters: true})
	e := enforcetest.Start(t, b, enforce.Options{})
	enforcetest.Bans(t, e, enforcetest.For("192.0.2.7", time.Hour))
	if got := ours(t, ns); strings.Contains(got, "log ") || strings.Contains(got, "goto drop_") {
		t.Errorf("a table that cannot log does:\n%s", got)
	}
}

// TestEveryLogSettingIsTaken loads the extreme settings that the configuration accepts into the kernel.
func TestEveryLogSettingIsTaken(t *testing.T) {
	ns := netnstest.New(t)
	for _, log := range []conf.DropLog{
		{Enabled: true, Prefix: strings.Repeat("x", 64), Level: "emerg", Rate: 1000, Burst: 10_000},
		{Enabled: true, Prefix: "a # ; b", Level: "debug", Rate: 1, Burst: 1},
		{Enabled: true, Prefix: "", Level: "warn", Rate: 1, Burst: 5},
	} {
		b, err := nftset.NewIn(ns.Fd(), slog.New(slog.NewTextHandler(t.Output(), nil)), enforce.Settings{Log: log})
		if err != nil {
			t.Fatal(err)
		}
		if !b.Features().Log {
			t.Errorf("%+v is taken for one that the kernel cannot do", log)
		}
		if _, err := b.Rebuild(t.Context(), enforce.Changes{}); err != nil {
			t.Errorf("%+v: %v", log, err)
		}
		saved := ns.Run(t, "", "nft", "list", "ruleset")
		ns.Run(t, "flush ruleset\n"+saved, "nft", "-f", "-") // nft must accept its own output
		if !strings.Contains(saved, `log prefix "`+log.Prefix+`BAN "`) {
			t.Errorf("%+v: the table is\n%s", log, saved)
		}
		b.Close()
	}
}
