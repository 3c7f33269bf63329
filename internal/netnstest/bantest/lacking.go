//go:build linux

package bantest

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"mef/internal/conf"
	"mef/internal/enforce"
	"mef/internal/enforce/enforcetest"
	"mef/internal/netlink/nfnl"
	"mef/internal/netnstest"
)

// A Lack is a part of a kernel, or a program, that is missing.
type Lack struct {
	// Open is Filter.Open without that.
	Open func(t *testing.T, ns *netnstest.NS, log *slog.Logger, settings enforce.Settings) (Backend, error)

	// What the status says about logging, samples of drops, IPv6, scans and floods; "" if they work.
	Log, Samples, IPv6, Scan, Flood string

	// Fails is the error of Open, "" if it succeeds.
	Fails string
}

// Without refuses messages that have an attribute with one of some names, as a kernel without expressions or types of these names does.
func Without(errno unix.Errno, attribute uint16, names ...string) func(message []byte) error {
	return func(message []byte) error {
		for _, name := range names {
			var a nfnl.Attrs
			a.Text(attribute, name)
			if bytes.Contains(message, a[:unix.SizeofRtAttr+len(name)+1]) {
				return errno
			}
		}
		return nil
	}
}

// everything enables all that a packet filter does.
var everything = enforce.Settings{Log: drops, Samples: true, Scan: conf.Scan{Enabled: true}, Flood: conf.Flood{Enabled: true, Ports: "80",
	FloodLimits: conf.FloodLimits{SYNRate: 1000, SYNBurst: 1000, NewRate: 1000, NewBurst: 1000, Conns: 2}}}

// lackingKernel tests that the status names what is off, why and what to do, and that everything else works.
func (f Filter) lackingKernel(t *testing.T) {
	for what, lack := range f.Lacking {
		t.Run(what, func(t *testing.T) {
			server, peer := netnstest.New(t), netnstest.New(t)
			netnstest.Join(t, server, peer, "192.0.2.1/24 2001:db8:1::1/64", "192.0.2.7/24 192.0.2.8/24 2001:db8:1::7/64 2001:db8:1::8/64")
			b, err := lack.Open(t, server, slog.New(slog.NewTextHandler(t.Output(), nil)), everything)
			if lack.Fails != "" {
				if err == nil || !strings.Contains(err.Error(), lack.Fails) {
					t.Errorf("error %v, want %q", err, lack.Fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { b.Close() })
			says := func(where, got, want string) {
				if (got != "") != (want != "") || !strings.Contains(got, want) {
					t.Errorf("%s: the status says %q, want %q", where, got, want)
				}
			}
			d, err := b.Detection()
			if err != nil {
				t.Error(err)
			}
			says("scans", d.Off, lack.Scan)
			says("floods", d.FloodOff, lack.Flood)
			lacks := strings.Join(b.Names().Lacks, "\n")
			lines := 0
			for _, want := range []string{lack.Log, lack.Samples, lack.IPv6} {
				if !strings.Contains(lacks, want) {
					t.Errorf("bans: the status says %q, want %q", lacks, want)
				}
				if want != "" {
					lines++
				}
			}
			if got := len(b.Names().Lacks); got != lines {
				t.Errorf("bans: the status names %d things, %q, want %d", got, lacks, lines)
			}

			bans := []enforce.Change{{Key: enforcetest.Key("192.0.2.8"), Timeout: enforce.Permanent}}
			if lack.IPv6 == "" {
				bans = append(bans, enforce.Change{Key: enforcetest.Key("2001:db8:1::8"), Timeout: enforce.Permanent})
			}
			failed, err := b.Rebuild(t.Context(), enforce.Changes{Bans: bans})
			if err != nil || len(failed) > 0 {
				t.Fatal(failed, err)
			}
			reports := Receive(t, server)
			server.Echo(t, "tcp", ":80")
			for range 3 {
				peer.Reaches(t, "tcp", "192.0.2.7", "192.0.2.1:80")
			}
			peer.Blocked(t, "tcp", "192.0.2.8", "192.0.2.1:80")
			peer.Reaches(t, "tcp", "2001:db8:1::7", "[2001:db8:1::1]:80")
			if lack.IPv6 == "" {
				peer.Blocked(t, "tcp", "2001:db8:1::8", "[2001:db8:1::1]:80")
			}
			if lack.Scan == "" {
				Touch(t, peer, "tcp", "192.0.2.7", "192.0.2.1:23")
				reports.Through(t, "tcp 192.0.2.7 23")
			}
			limited := limited(t, peer)
			if limited != (lack.Flood == "") {
				t.Errorf("connections are limited: %v, want %v", limited, !limited)
			}
			if check, err := b.Check(context.WithoutCancel(t.Context())); err != nil || len(check.Damaged) > 0 {
				t.Errorf("Check = %+v, %v, want no damage", check, err)
			}
		})
	}
}

// limited reports whether a third connection at a time is dropped.
func limited(t *testing.T, peer *netnstest.NS) bool {
	t.Helper()
	for range 3 {
		conn, err := peer.Dial("tcp", "192.0.2.7", "192.0.2.1:80", 2*netnstest.Silence)
		if err != nil {
			return true
		}
		t.Cleanup(func() { conn.Close() })
	}
	return false
}

// vanishingInterface tests the detector of scans with an interface that vanishes and comes again.
func (f Filter) vanishingInterface(t *testing.T) {
	server, peer := netnstest.New(t), netnstest.New(t)
	netnstest.Join(t, server, peer, "192.0.2.1/24", "192.0.2.7/24 192.0.2.8/24")
	b := f.openWith(t, server, enforce.Settings{Scan: conf.Scan{Enabled: true, On: []string{"wan0"}}})
	if d, err := b.Detection(); err != nil || d.Off != "" {
		netnstest.Missing(t, fmt.Sprint(err, d.Off))
	}
	e := enforcetest.Start(t, b, enforce.Options{})
	enforcetest.Bans(t, e, enforcetest.For("192.0.2.8", 0))
	r := Receive(t, server)
	server.Echo(t, "tcp", ":80")
	port := 100
	touch := func(reported bool) {
		t.Helper()
		port++
		Touch(t, peer, "tcp", "192.0.2.7", fmt.Sprintf("192.0.2.1:%d", port))
		if reported {
			r.Through(t, fmt.Sprintf("tcp 192.0.2.7 %d", port))
		} else if got := r.All(); slices.Contains(got, fmt.Sprintf("tcp 192.0.2.7 %d", port)) {
			t.Errorf("%q are reported, without the interface", got)
		}
	}
	rename := func(from, to string) { server.Run(t, "", "ip", "link", "set", from, "name", to) }
	touch(false) // there is none of that name yet
	rename("veth0", "wan0")
	touch(true)
	rename("wan0", "other0")
	touch(false)
	peer.Blocked(t, "tcp", "192.0.2.8", "192.0.2.1:80")
	server.Run(t, "", "ip", "link", "delete", "other0")
	netnstest.Join(t, server, peer, "192.0.2.1/24", "192.0.2.7/24 192.0.2.8/24")
	rename("veth1", "wan0")
	touch(true)
	peer.Blocked(t, "tcp", "192.0.2.8", "192.0.2.1:80")
	peer.Reaches(t, "tcp", "192.0.2.7", "192.0.2.1:80")
	if st := e.Status(); st.Repairs != 0 || st.Problem != "" {
		t.Errorf("status %+v, want nothing to repair", st)
	}
}
