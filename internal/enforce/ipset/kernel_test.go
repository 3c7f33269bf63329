//go:build integration

package ipset_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"mef/internal/conf"
	"mef/internal/enforce"
	"mef/internal/enforce/enforcetest"
	"mef/internal/enforce/ipset"
	"mef/internal/netnstest"
	"mef/internal/netnstest/bantest"
	"mef/internal/prefixset"
)

var drops = conf.DropLog{Enabled: true, Prefix: "MEF_", Level: "warn", Rate: 1, Burst: 5}

func open(t testing.TB, ns *netnstest.NS, form string, log conf.DropLog) *ipset.Backend {
	t.Helper()
	b, err := ipset.Form(form, ns.Fd(), slog.New(slog.NewTextHandler(t.Output(), nil)), enforce.Settings{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// inForce returns what of ours is in the kernel, without counters and times.
func inForce(t *testing.T, ns *netnstest.NS, form string) string {
	t.Helper()
	var out strings.Builder
	for _, c := range append(both(form, "-t raw -S"), both(form, "-t mangle -S")...) {
		out.WriteString(ns.Run(t, "", c.Args[0], c.Args[1:]...))
	}
	for line := range strings.Lines(ns.Run(t, "", "ipset", "save", "-sorted")) {
		var kept []string
		words := strings.Fields(line)
		for i := 0; i < len(words); i++ {
			switch words[i] {
			case "timeout", "packets", "bytes", "initval", "hashsize":
				i++
			default:
				kept = append(kept, words[i])
			}
		}
		fmt.Fprintln(&out, strings.Join(kept, " "))
	}
	return out.String()
}

// TestEachRuleAndSetIsRestored deletes every seventh rule, and flushes every set, one after the other.
func TestEachRuleAndSetIsRestored(t *testing.T) {
	ns := netnstest.New(t)
	repaired := make(chan enforce.Repair, 10)
	e := enforcetest.Start(t, open(t, ns, legacy, drops), enforce.Options{OnRepair: func(r enforce.Repair) { repaired <- r },
		Allow: prefixset.New(netip.MustParsePrefix("198.51.100.0/24"))})
	enforcetest.Bans(t, e, enforcetest.For("192.0.2.7", 0), enforcetest.For("2001:db8::/64", 0), enforcetest.For("192.0.2.8 ports 22,8000-8010", 0),
		enforcetest.For("192.0.2.9 unverified", time.Hour))
	if err := e.SetLists(t.Context(), []enforce.List{{Name: "mail", Addrs: enforcetest.Packed("203.0.113.0/24 2001:db8:bad::/48"), Ports: "25", Both: true}}); err != nil {
		t.Fatal(err)
	}
	want := inForce(t, ns, legacy)
	var damages []string
	for _, program := range []string{"iptables-legacy", "ip6tables-legacy"} {
		for _, table := range []string{"raw", "mangle"} {
			number := map[string]int{} // of rules by chain
			for line := range strings.Lines(ns.Run(t, "", program, "-w", "-t", table, "-S")) {
				if words := strings.Fields(line); words[0] == "-A" {
					number[words[1]]++
					damages = append(damages, fmt.Sprintf("%s -w -t %s -D %s %d", program, table, words[1], number[words[1]]))
				}
			}
		}
	}
	for _, name := range strings.Fields(ns.Run(t, "", "ipset", "list", "-n")) {
		if !strings.Contains(ns.Run(t, "", "ipset", "list", name), "Number of entries: 0") {
			damages = append(damages, "ipset flush "+name)
		}
	}
	if len(damages) < 60 {
		t.Errorf("only %d rules and sets", len(damages))
	}
	for i, damage := range damages {
		if i%7 != 0 && !strings.HasPrefix(damage, "ipset") {
			continue // it takes half a second each
		}
		words := strings.Fields(damage)
		ns.Run(t, "", words[0], words[1:]...)
		select {
		case r := <-repaired:
			if r.Err != nil {
				t.Errorf("%s: repair %+v", damage, r)
			}
		case <-time.After(netnstest.Patience):
			t.Fatalf("%s: nothing was repaired", damage)
		}
		if got := inForce(t, ns, legacy); got != want {
			t.Fatalf("%s: after the repair\n%s\nwant\n%s", damage, got, want)
		}
		if err := e.Repair(t.Context()); err != nil { // as an operator does, so that repairs do not slow down
			t.Fatal(err)
		}
	}
}

// TestLongBans makes a ban that lasts longer than the kernel can hold an element, which is some seconds here.
func TestLongBans(t *testing.T) {
	ns := netnstest.New(t)
	b := open(t, ns, legacy, drops)
	b.SetLongest(2 * time.Second)
	long, longer := enforcetest.Key("192.0.2.7"), enforcetest.Key("2001:db8::/64")
	began := time.Now()
	if _, err := b.Rebuild(t.Context(), enforce.Changes{Bans: []enforce.Change{
		{Key: long, Timeout: enforce.Timeout(6 * time.Second)}, {Key: longer, Timeout: enforce.Timeout(time.Hour)}}}); err != nil {
		t.Fatal(err)
	}
	held := func() (bans int) {
		t.Helper()
		if _, err := b.Check(t.Context()); err != nil { // as the enforcer does now and then
			t.Fatal(err)
		}
		s, err := b.Held(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range s.Bans {
			want := began.Add(time.Hour)
			if h.Key == long {
				want = began.Add(6 * time.Second)
			}
			if h.Until.Sub(want).Abs() > 1500*time.Millisecond {
				t.Errorf("%v is held until %v, want %v", h.Key, h.Until, want)
			}
		}
		return len(s.Bans)
	}
	for time.Since(began) < 5*time.Second {
		if n := held(); n != 2 && time.Since(began) < 5*time.Second {
			t.Fatalf("%d bans are held after %v, want 2", n, time.Since(began))
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err := netnstest.Poll(func() error {
		if n := held(); n != 1 {
			return fmt.Errorf("%d bans are held", n)
		}
		return nil
	}); err != nil || time.Since(began) > 10*time.Second {
		t.Errorf("%v after %v, want one ban after six seconds", err, time.Since(began))
	}
	if left := ns.Run(t, "", "ipset", "list", "mefd_ban6net"); !strings.Contains(left, "timeout 2 ") && !strings.Contains(left, "timeout 1 ") {
		t.Errorf("the kernel holds\n%s", left)
	}
}

func TestAFullSetDelaysNoOtherBan(t *testing.T) {
	b := open(t, netnstest.New(t), legacy, drops)
	b.SetMaxElem(3)
	if _, err := b.Rebuild(t.Context(), enforce.Changes{}); err != nil {
		t.Fatal(err)
	}
	var bans []enforce.Change
	for i := range 10 {
		bans = append(bans,
			enforce.Change{Key: enforcetest.Key(fmt.Sprintf("192.0.2.%d", i)), Timeout: enforce.Permanent},
			enforce.Change{Key: enforcetest.Key(fmt.Sprintf("192.0.2.%d ports 22", i)), Timeout: enforce.Permanent})
	}
	failed, err := b.Apply(t.Context(), enforce.Changes{Bans: bans})
	if err != nil || len(failed) == 0 {
		t.Fatalf("%d bans failed (%v), want some", len(failed), err)
	}
	for _, f := range failed {
		if !errors.Is(f.Err, syscall.ENFILE) {
			t.Errorf("ban %v failed: %v; want ENFILE", f.Key, f.Err)
		}
	}
	if s, err := b.Held(t.Context()); err != nil || len(s.Bans) != len(bans)-len(failed) || len(s.Bans) < 6 {
		t.Errorf("%d bans are held (%v), want all but the %d that failed", len(s.Bans), err, len(failed))
	}
}

// TestFewDropsAreLogged drops a thousand packets of each kind of ban, and reads how many came to the rules that log and drop.
func TestFewDropsAreLogged(t *testing.T) {
	const packets = 1000
	for _, form := range []string{legacy, overNF} {
		server, attacker := netnstest.New(t), netnstest.New(t)
		netnstest.Join(t, server, attacker, "192.0.2.1/24", "192.0.2.7/24 192.0.2.8/24")
		limit := conf.DropLog{Enabled: true, Prefix: "MEF_", Level: "info", Rate: 2, Burst: 7}
		b := open(t, server, form, limit)
		began := time.Now()
		if _, err := b.Rebuild(t.Context(), enforce.Changes{Bans: []enforce.Change{{Key: enforcetest.Key("192.0.2.7"), Timeout: enforce.Permanent},
			{Key: enforcetest.Key("192.0.2.8 unverified"), Timeout: enforce.Permanent}}}); err != nil {
			t.Fatal(err)
		}
		for _, from := range []string{"192.0.2.7", "192.0.2.8"} {
			conn, err := attacker.Dial("udp", from, "192.0.2.1:53", netnstest.Patience)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			for range packets {
				if _, err := conn.Write([]byte("hello")); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := netnstest.Poll(func() error {
			s, err := b.Held(t.Context())
			for _, h := range s.Bans {
				if err == nil && h.Packets != packets {
					err = fmt.Errorf("%v has counted %d packets", h.Key, h.Packets)
				}
			}
			return err
		}); err != nil {
			t.Error(form, err)
		}
		most := limit.Burst + limit.Rate*int(time.Since(began)/time.Second+1)
		for _, chain := range []string{"mefd-drop", "mefd-drop-susp"} {
			var counted []int
			for line := range strings.Lines(server.Run(t, "", form, "-w", "-t", "raw", "-nvxL", chain)) {
				if f := strings.Fields(line); len(f) > 2 && (f[2] == "LOG" || f[2] == "DROP") {
					n, err := strconv.Atoi(f[0])
					if err != nil {
						t.Fatal(err)
					}
					counted = append(counted, n)
				}
			}
			if len(counted) != 2 || counted[0] < limit.Burst || counted[0] > most || counted[1] != packets {
				t.Errorf("%s, %s: %v packets were logged and dropped, want %d to %d, and %d", form, chain, counted, limit.Burst, most, packets)
			}
		}
	}
}

// TestEveryLogSettingIsTaken loads the extreme settings that the configuration accepts.
func TestEveryLogSettingIsTaken(t *testing.T) {
	for _, form := range []string{legacy, overNF} {
		for _, log := range []conf.DropLog{
			{Enabled: true, Prefix: strings.Repeat("x", 64), Level: "emerg", Rate: 1000, Burst: 10_000},
			{Enabled: true, Prefix: `a "#" ; \b -j z`, Level: "debug", Rate: 1, Burst: 1},
			{Enabled: true, Prefix: "", Level: "err", Rate: 1, Burst: 5},
			{},
		} {
			ns := netnstest.New(t)
			b := open(t, ns, form, log)
			for range 2 { // the second time over what is there
				if _, err := b.Rebuild(t.Context(), enforce.Changes{}); err != nil {
					t.Errorf("%+v: %v", log, err)
				}
			}
			if check, err := b.Check(t.Context()); err != nil || len(check.Damaged) > 0 {
				t.Errorf("%+v: after Rebuild %+v, %v", log, check, err)
			}
			if second, err := open(t, ns, form, log).Check(t.Context()); err != nil || len(second.Damaged) > 0 {
				t.Errorf("%+v: a newcomer finds %+v, %v", log, second, err)
			}
			if got := strings.Contains(ns.Run(t, "", form, "-w", "-t", "raw", "-S"), "-j LOG"); got != log.Enabled {
				t.Errorf("%+v: logs: %v", log, got)
			}
			if lacks := b.Names().Lacks; len(lacks) > 0 {
				t.Errorf("%+v: lacks %q", log, lacks)
			}
		}
	}
}

// hide removes a file from a directory, in the mount namespace of the test, or has something else in its place.
func hide(t *testing.T, dir, name, instead string) {
	t.Helper()
	here, real := t.TempDir(), t.TempDir()
	if err := syscall.Mount(dir, real, "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(real, syscall.MNT_DETACH) })
	entries, err := os.ReadDir(real)
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, e := range entries {
		if e.Name() == name {
			found = true
			continue
		}
		err = errors.Join(err, os.Symlink(real+"/"+e.Name(), here+"/"+e.Name()))
	}
	if instead != "" {
		err = errors.Join(err, os.WriteFile(here+"/"+name, []byte(instead), 0o755))
	}
	if err != nil || !found {
		t.Fatalf("%s/%s: found: %v, %v", dir, name, found, err)
	}
	if err := syscall.Mount(here, dir, "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
}

type opener func(*testing.T, *netnstest.NS, *slog.Logger, enforce.Settings) (bantest.Backend, error)

// opens returns the packet filter after something was hidden.
func opens(hide func(t *testing.T)) opener {
	return func(t *testing.T, ns *netnstest.NS, log *slog.Logger, settings enforce.Settings) (bantest.Backend, error) {
		hide(t)
		return ipset.Form(legacy, ns.Fd(), log, settings)
	}
}

// withoutProgram has a program fail. Programs may be links to one another.
func withoutProgram(program string) opener {
	return opens(func(t *testing.T) {
		hide(t, "/usr/sbin", program, "#!/bin/sh\necho this kernel has no "+program+" >&2\nexit 3\n")
	})
}

// withoutExtension removes an extension of iptables, without which a rule fails as it does without the module.
func withoutExtension(name string) opener {
	return opens(func(t *testing.T) {
		dirs, err := filepath.Glob("/usr/lib/*/xtables")
		if err != nil || len(dirs) != 1 {
			t.Fatalf("directories of extensions %q, %v", dirs, err)
		}
		hide(t, dirs[0], name+".so", "")
	})
}

// withoutType has the kernel lack types of sets.
func withoutType(types ...string) opener {
	return func(_ *testing.T, ns *netnstest.NS, log *slog.Logger, settings enforce.Settings) (bantest.Backend, error) {
		const unknownType, typeName = 4098, 3 // IPSET_ERR_FIND_TYPE, IPSET_ATTR_TYPENAME
		return ipset.Lacking(bantest.Without(unknownType, typeName, types...), legacy, ns.Fd(), log, settings)
	}
}

// lacking are the parts that may be missing.
func lacking() map[string]bantest.Lack {
	const scans, floods = "load the modules xt_socket, xt_limit, xt_pkttype, xt_hashlimit, xt_set and xt_NFLOG: ", "load xt_hashlimit and xt_limit: "
	const unlogged = "packets that bans drop are not logged: load the modules xt_LOG, nf_log_syslog and xt_limit: "
	const unsampled = enforce.NoSamples + ": load the modules xt_NFLOG and xt_limit: "
	const noIPv6 = "bans of IPv6 addresses are not enforced: "
	return map[string]bantest.Lack{
		"nothing":             {Open: opens(func(*testing.T) {})},
		"xt_hashlimit":        {Open: withoutExtension("libxt_hashlimit"), Scan: scans, Flood: floods},
		"xt_limit":            {Open: withoutExtension("libxt_limit"), Log: unlogged, Samples: unsampled, Scan: scans, Flood: floods},
		"xt_LOG":              {Open: withoutExtension("libxt_LOG"), Log: unlogged},
		"xt_NFLOG":            {Open: withoutExtension("libxt_NFLOG"), Samples: unsampled, Scan: scans, Flood: "load xt_NFLOG: "},
		"xt_SET":              {Open: withoutExtension("libxt_SET"), Scan: scans, Flood: "load xt_set: "},
		"xt_socket":           {Open: withoutExtension("libxt_socket"), Scan: scans},
		"xt_pkttype":          {Open: withoutExtension("libxt_pkttype"), Scan: scans},
		"xt_connlimit":        {Open: withoutExtension("libxt_connlimit"), Flood: "load xt_connlimit: "},
		"xt_conntrack":        {Open: withoutExtension("libxt_conntrack"), Flood: "load xt_conntrack and nf_conntrack: "},
		"xt_addrtype":         {Open: withoutExtension("libxt_addrtype"), Flood: "load xt_addrtype: "},
		"xt_hl":               {Open: withoutExtension("libip6t_hl"), IPv6: noIPv6 + "ip6tables-legacy cannot look up sets; load the modules xt_hl, xt_set, "},
		"xt_set":              {Open: withoutExtension("libxt_set"), Fails: "iptables-legacy cannot look up sets; load the modules xt_set, xt_multiport, xt_comment and xt_tcpudp: "},
		"ip6tables":           {Open: withoutProgram("ip6tables-legacy"), IPv6: noIPv6},
		"iptables":            {Open: withoutProgram("iptables-legacy"), Fails: "iptables cannot be used: "},
		"ip_set_hash_ipport":  {Open: withoutType("hash:ip,port"), Scan: "load the module ip_set_hash_ipport: ", Flood: "load the modules ip_set_hash_ipport and ip_set_hash_netport: "},
		"ip_set_hash_netport": {Open: withoutType("hash:net,port"), Flood: "load the modules ip_set_hash_ipport and ip_set_hash_netport: "},
		"ip_set_hash_net":     {Open: withoutType("hash:net"), Fails: "this kernel lacks the type of set; load the modules ip_set_hash_ip, ip_set_hash_net and ip_set_bitmap_port"},
		"ip_set": {Open: func(_ *testing.T, ns *netnstest.NS, log *slog.Logger, settings enforce.Settings) (bantest.Backend, error) {
			return ipset.Lacking(func([]byte) error { return syscall.EINVAL }, legacy, ns.Fd(), log, settings)
		}, Fails: "this kernel lacks ip_set; load the modules ip_set, ip_set_hash_ip, ip_set_hash_net and xt_set: "},
	}
}

// Without ip6tables, a ban of an IPv6 address fails, and no other.
func TestBansWithoutIP6Tables(t *testing.T) {
	ns := netnstest.New(t)
	b, err := withoutProgram("ip6tables-legacy")(t, ns, slog.New(slog.DiscardHandler), enforce.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	e := enforcetest.Start(t, b, enforce.Options{})
	results, err := e.BanNow(t.Context(), false, enforcetest.For("192.0.2.7", 0), enforcetest.For("2001:db8::1", 0))
	if err != nil || results[0].Err != nil || results[1].Err == nil {
		t.Errorf("results %+v, %v; want the ban of the IPv4 address alone", results, err)
	}
	if got := enforcetest.Lists(t, e); got != "192.0.2.7\n" {
		t.Errorf("bans %q", got)
	}
}

// TestALockHolderDelaysNoBan holds the lock of xtables while bans are made that need no new rule.
func TestALockHolderDelaysNoBan(t *testing.T) {
	e := enforcetest.Start(t, open(t, netnstest.New(t), legacy, drops), enforce.Options{})
	enforcetest.Bans(t, e, enforcetest.For("192.0.2.1", 0))
	lock, err := syscall.Open("/run/xtables.lock", syscall.O_CREAT|syscall.O_CLOEXEC, 0o600)
	if err == nil {
		err = syscall.Flock(lock, syscall.LOCK_EX)
	}
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	enforcetest.Bans(t, e, enforcetest.For("192.0.2.7", 0), enforcetest.For("2001:db8::/64", time.Hour))
	if took := time.Since(began); took > time.Second {
		t.Errorf("bans took %v", took)
	}
	time.AfterFunc(time.Second, func() { syscall.Close(lock) })
	enforcetest.Bans(t, e, enforcetest.For("192.0.2.7 ports 22", 0)) // needs a rule
}

// TestElementsReplacedByOthers swaps one banned address for another, which leaves no trace but the elements.
func TestElementsReplacedByOthers(t *testing.T) {
	ns := netnstest.New(t)
	e := enforcetest.Start(t, open(t, ns, legacy, drops), enforce.Options{})
	enforcetest.Bans(t, e, enforcetest.For("192.0.2.7", 0))
	ns.Run(t, "del mefd_ban4 192.0.2.7\nadd mefd_ban4 192.0.2.8\n", "ipset", "restore")
	if err := e.Repair(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	if got := enforcetest.Lists(t, e); got != "192.0.2.7\n192.0.2.8, unknown origin\n" {
		t.Errorf("bans %q", got)
	}
}
