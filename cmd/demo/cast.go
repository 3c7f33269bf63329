//go:build linux

package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"mef/internal/lab"
)

// patience is how long a client waits for an answer. Dovecot delays its refusals, up to 15 seconds for a bad reputation.
const patience = 20 * time.Second

// silence is how long a client waits before it takes a server for silent that has always answered at once.
const silence = time.Second

// A try is one thing that an attacker does. Its error wraps lab.ErrDenied where the server said no.
type try struct {
	what string // "ssh root: refused"
	do   func(context.Context, lab.Client) error
}

func guessSSH(user string) try {
	return try{"ssh " + user + ": refused", func(ctx context.Context, c lab.Client) error {
		_, err := c.SSH(ctx, lab.SSHPort, user, "123456", "")
		return err
	}}
}

func guessIMAP(user string) try {
	return try{"imap " + user + ": refused", func(ctx context.Context, c lab.Client) error { return c.IMAP(ctx, user, "123456") }}
}

// look takes sshd's host key and leaves, as scanners do, without a guess.
func look() try {
	errSeen := errors.New("seen")
	return try{"ssh: looked, and left", func(ctx context.Context, c lab.Client) error {
		conn, err := c.Dial(ctx, lab.SSHPort)
		if err != nil {
			return err
		}
		defer conn.Close()
		_, _, _, err = ssh.NewClientConn(conn, "", &ssh.ClientConfig{
			HostKeyCallback: func(string, net.Addr, ssh.PublicKey) error { return errSeen },
		})
		if errors.Is(err, errSeen) {
			return nil
		}
		return err
	}}
}

// An attacker goes on until the server falls silent or the tries are over.
type attacker struct {
	who      string       // "guesses at ssh"
	from     []netip.Addr // the addresses in turn, one a round
	tries    [][]try      // rounds; the tries of a round are made at the same time
	ban      netip.Prefix // what is to be banned
	rule     string       // and why: by a service's rule or by the score; empty: whichever comes first
	neighbor netip.Addr   // somebody next door, who must not be hit
}

// cast returns the attackers: every one comes to the same end by another way.
func cast() []attacker {
	return []attacker{
		{
			who: "guesses at ssh", from: addrs("203.0.113.7"), tries: rounds(12, guessSSH("root")),
			ban: netip.MustParsePrefix("203.0.113.7/32"), neighbor: netip.MustParseAddr("203.0.113.8"),
		},
		{
			who: "guesses at ssh over IPv6", from: addrs("2001:db8:bad1::7"), tries: rounds(12, guessSSH("admin")),
			// No user here has that name, and attackers everywhere try it: once is enough. The address is banned, not its network.
			ban: netip.MustParsePrefix("2001:db8:bad1::7/128"), rule: "score", neighbor: netip.MustParseAddr("2001:db8:bad1::8"),
		},
		{
			who: "guesses at imap", from: addrs("203.0.113.25"),
			tries: rounds(4, guessIMAP("sales"), guessIMAP("office"), guessIMAP("alice")),
			ban:   netip.MustParsePrefix("203.0.113.25/32"), neighbor: netip.MustParseAddr("203.0.113.26"),
		},
		{
			who: "guesses at imap over IPv6", from: addrs("2001:db8:bad2::25"),
			tries: rounds(4, guessIMAP("info"), guessIMAP("billing"), guessIMAP("alice")),
			ban:   netip.MustParsePrefix("2001:db8:bad2::25/128"), neighbor: netip.MustParseAddr("2001:db8:bad2::26"),
		},
		{
			// Four guesses at each service are below the limit of either, which is five; only the score knows of all.
			who: "spreads few tries over both services", from: addrs("203.0.113.99"),
			tries: slices.Concat(
				rounds(1, guessIMAP("carol"), guessIMAP("dave"), guessIMAP("erin"), guessIMAP("frank")),
				rounds(4, guessSSH("backup")),
				rounds(12, look()),
			),
			ban: netip.MustParsePrefix("203.0.113.99/32"), rule: "score", neighbor: netip.MustParseAddr("203.0.113.100"),
		},
		{
			who: "hops through the addresses of one /64", from: hops("2001:db8:bad3:64::", 12), tries: rounds(12, guessSSH("git")),
			ban: netip.MustParsePrefix("2001:db8:bad3:64::/64"), rule: "score", neighbor: netip.MustParseAddr("2001:db8:bad3:65::1"),
		},
	}
}

func rounds(n int, at ...try) [][]try {
	out := make([][]try, n)
	for i := range out {
		out[i] = at
	}
	return out
}

func addrs(s string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(s)} }

// hops returns n addresses of a /64 that have nothing else in common.
func hops(network string, n int) []netip.Addr {
	base := netip.MustParseAddr(network).As16()
	out := make([]netip.Addr, n)
	for i := range out {
		host := uint32(i+1) * 2654435761 // Knuth's multiplicative hash scatters them
		base[8], base[9], base[14], base[15] = byte(host>>24), byte(host>>16), byte(host>>8), byte(host)
		out[i] = netip.AddrFrom16(base)
	}
	return out
}
