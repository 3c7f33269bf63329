//go:build integration

package ipset_test

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"mef/internal/enforce"
	"mef/internal/enforce/ipset"
	"mef/internal/netnstest"
	"mef/internal/netnstest/bantest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// The forms of iptables.
const (
	legacy = "iptables-legacy"
	overNF = "iptables-nft"
)

// both returns a command of iptables for each family.
func both(form, args string) (commands []bantest.Command) {
	for _, program := range []string{form, strings.Replace(form, "iptables", "ip6tables", 1)} {
		commands = append(commands, bantest.Command{Args: append([]string{program, "-w"}, strings.Fields(args)...)})
	}
	return commands
}

func command(line string) bantest.Command { return bantest.Command{Args: strings.Fields(line)} }

// filter is what is tested like every packet filter.
func filter(form string) bantest.Filter {
	f := bantest.Filter{
		Open: func(ns *netnstest.NS, log *slog.Logger, settings enforce.Settings) (bantest.Backend, error) {
			return ipset.Form(form, ns.Fd(), log, settings)
		},
		Watched: func(testing.TB, *netnstest.NS) error { return nil }, // it compares with what there was at the start
		Undo: map[string][]bantest.Command{
			"iptables -t raw -F":        append(both(form, "-t raw -F"), both(form, "-t mangle -F")...),
			"ipset flush":               {command("ipset flush")},
			"a rule before ours":        append(both(form, "-t raw -I PREROUTING -j ACCEPT"), both(form, "-t raw -I OUTPUT -j ACCEPT")...),
			"ipset del":                 {command("ipset del mefd_ban4 192.0.2.7"), command("ipset del mefd_ban6net 2001:db8:a::/64")},
			"a rule in a chain of ours": append(both(form, "-t raw -I mefd-ban -j RETURN"), both(form, "-t raw -F mefd-reply")...),
		},
		Alter: []bantest.Command{command(form + " -w -t raw -N mefd-other"), command(form + " -w -t raw -A mefd-ban -p tcp"),
			command("ipset create mefd_strange hash:ip"), command(form + " -w -t mangle -A FORWARD -j mefd-reply")},
		Foreign: append(both(form, "-t raw -A PREROUTING -p tcp --dport 81 -j ACCEPT"),
			command("ipset create foreign hash:ip"), command("ipset add foreign 198.51.100.7"), command(form+" -w -A INPUT -m set --match-set foreign src -j DROP")),
		Show:   append(append(both(form, "-t raw -S"), both(form, "-t mangle -S")...), append(both(form, "-S"), command("ipset list"))...),
		Flush:  append(append(both(form, "-t raw -F"), both(form, "-t mangle -F")...), command("ipset flush")),
		Rules:  append(both(form, "-t raw -S"), both(form, "-t mangle -S")...),
		Sever:  func(b bantest.Backend) { b.(*ipset.Backend).Sever() },
		Delete: ipset.Delete,
		Late:   time.Second, // the kernel counts whole seconds
	}
	if form == legacy {
		f.Lacking = lacking()
	}
	if form == overNF {
		f.Slow = true // and done over the other form
		f.Undo["nft flush ruleset"] = []bantest.Command{command("nft flush ruleset")}
	}
	return f
}

func TestPacketFilter(t *testing.T) {
	for _, form := range []string{legacy, overNF} {
		t.Run(form, func(t *testing.T) { filter(form).Run(t) })
	}
}

func BenchmarkStorm(b *testing.B) {
	for _, form := range []string{legacy, overNF} {
		b.Run(form, filter(form).Storm)
	}
}

func BenchmarkRestore(b *testing.B) {
	for _, form := range []string{legacy, overNF} {
		b.Run(form, filter(form).Restore)
	}
}

func BenchmarkPackets(b *testing.B) {
	for _, form := range []string{legacy, overNF} {
		b.Run(form, filter(form).Packets)
	}
}
