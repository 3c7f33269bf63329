package ipset

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"mef/internal/enforce"
)

// Names of the things that a probe makes for a moment. No packet meets them.
const (
	probeSet   = newPrefix + "probe"
	probeChain = "mefd-probe"
)

// lacks are what this host lacks, in a sentence each; empty: nothing.
type lacks struct{ ipv6, log, samples, conns, page, scan, flood, peers string }

func (l lacks) all() []string { return append(l.enforcing(), l.detecting()...) }

func (l lacks) enforcing() []string { return nonEmpty(l.ipv6, l.log, l.samples, l.conns, l.page) }

func (l lacks) detecting() []string { return nonEmpty(l.scan, l.flood, l.peers) }

func nonEmpty(texts ...string) (all []string) {
	for _, text := range texts {
		if text != "" {
			all = append(all, text)
		}
	}
	return all
}

// probe tries the types of sets and the rules that are needed.
func (b *Backend) probe(settings enforce.Settings) (found lacks, err error) {
	for _, v6 := range []bool{false, true} {
		for _, s := range []set{{typ: hashIP, v6: v6, timeout: true, counters: true}, {typ: hashNet, v6: v6, timeout: true, counters: true}, {typ: bitmapPort}} {
			s.name = probeSet
			if err := b.trySet(s); err != nil {
				return found, fmt.Errorf("probe sets: %w", err)
			}
		}
	}
	for _, v6 := range b.tables.families() {
		if err := b.tryBans(v6); err != nil && !v6 {
			return found, err
		} else if err != nil {
			b.tables.v6, b.tables.lacks6 = false, err.Error()
			break
		}
		if settings.Log.Enabled {
			if err := b.tryRules(v6, "-m limit --limit 1/sec --limit-burst 5 -j LOG --log-prefix x"); err != nil {
				found.log = "packets that bans drop are not logged: load the modules xt_LOG, nf_log_syslog and xt_limit: " + err.Error()
			}
		}
		if settings.Samples {
			if err := b.tryRules(v6, "-m limit --limit 1/sec --limit-burst 5 -j "+nflogTo(enforce.SampleGroup, "x")); err != nil {
				found.samples = enforce.NoSamples + ": load the modules xt_NFLOG and xt_limit: " + err.Error()
			}
		}
	}
	if !b.tables.v6 {
		found.ipv6 = "bans of IPv6 addresses are not enforced: " + b.tables.lacks6
	}
	if settings.Scan.Enabled {
		found.scan = b.tryScan()
	}
	if settings.Peers != "" {
		found.peers = b.tryPeers()
	}
	if settings.Flood.Enabled {
		if found.flood = b.tryFlood(); found.flood == "" {
			found.conns = uncounted(settings.Flood)
		}
	}
	return found, nil
}

// tryBans tries the rules of bans.
func (b *Backend) tryBans(v6 bool) error {
	rules, modules := []string{"-m set --match-set " + probeSet + familyName(v6) + " src -p tcp -m tcp --tcp-flags SYN,ACK SYN -j DROP",
		"-p udp -m multiport ! --sports " + answeringPorts + " -m comment --comment " + marker + "0 -j DROP"}, "xt_set, xt_multiport, xt_comment and xt_tcpudp"
	if v6 {
		rules, modules = append(rules, neighbourDiscovery(probeChain)[0].match+" -j RETURN"), "xt_hl, "+modules
	}
	if err := b.tryRules(v6, rules...); err != nil {
		return fmt.Errorf("%s cannot look up sets; load the modules %s: %w", b.tables.program(v6), modules, err)
	}
	return nil
}

func (b *Backend) trySet(s set) error {
	if err := b.conn.destroy(s.name); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	if err := b.conn.create(s, 0, maxSetSize); err != nil {
		return err
	}
	return b.conn.destroy(s.name)
}

// tryRules tries rules in a chain that no packet enters.
func (b *Backend) tryRules(v6 bool, rules ...string) error {
	s := set{name: probeSet + familyName(v6), typ: hashIP, v6: v6}
	if err := b.conn.create(s, 0, maxSetSize); err != nil && !errors.Is(err, errBusy) {
		if found, listErr := b.conn.headers(); listErr != nil || found[s.name].name == "" {
			return err
		}
	}
	defer b.conn.destroy(s.name)
	var text strings.Builder
	fmt.Fprintf(&text, "*raw\n:%s - [0:0]\n", probeChain)
	for _, r := range rules {
		fmt.Fprintf(&text, "-A %s %s\n", probeChain, r)
	}
	fmt.Fprintf(&text, "COMMIT\n*raw\n-F %[1]s\n-X %[1]s\nCOMMIT\n", probeChain)
	return b.tables.restore(v6, text.String())
}

// Detection implements enforce.Backend.
func (b *Backend) Detection() (enforce.Detection, error) {
	b.mu.Lock()
	d := enforce.Detection{Off: b.lacks.scan, FloodOff: b.lacks.flood, PeersOff: b.lacks.peers}
	b.mu.Unlock()
	if d.Off != "" {
		return d, nil
	}
	b.read.Lock()
	defer b.read.Unlock()
	b.exchange.RLock()
	defer b.exchange.RUnlock()
	err := b.reader.countScans(&d)
	return d, err
}

// eraseRules removes our rules.
func eraseRules(x *xtables) (err error) {
	for _, v6 := range x.families() {
		found, saveErr := x.save(v6)
		if saveErr != nil {
			err = errors.Join(err, saveErr)
			continue
		}
		if text := erase(found); text != "" {
			err = errors.Join(err, x.restore(v6, text))
		}
	}
	return err
}

// everyXtables returns the forms of iptables in which there may be rules of ours. Asking legacy iptables would make its tables.
func everyXtables() (all []*xtables) {
	names, err := os.ReadFile("/proc/thread-self/net/ip_tables_names")
	noLegacy := err == nil && !strings.Contains(string(names), "raw")
	for _, name := range forms() {
		x := &xtables{name: name}
		if version, err := x.run("", name, "--version"); err != nil || noLegacy && !strings.Contains(version, "nf_tables") {
			continue
		}
		if x.try() == nil {
			all = append(all, x)
		}
	}
	return all
}

// loaded reports whether the kernel has sets now: asking for them would load their module.
func loaded() bool {
	_, err := os.Stat("/sys/module/ip_set")
	_, unknown := os.Stat("/sys/module")
	return err == nil || unknown != nil
}

// Delete removes all rules and sets of ours, and with them all bans, in the network namespace of the caller, and reports whether there
// were any. It needs no daemon; a running one would restore them.
func Delete() (deleted bool, err error) {
	err = withSets(func(c *conn, sets []string) (err error) {
		if deleted = len(sets) > 0; !deleted {
			return nil
		}
		for _, x := range everyXtables() {
			err = errors.Join(err, eraseRules(x))
		}
		for _, name := range sets {
			err = errors.Join(err, c.destroy(name))
		}
		return err
	})
	return deleted, err
}

// Present reports whether there are sets of ours in the network namespace of the caller.
func Present() (present bool, err error) {
	err = withSets(func(_ *conn, sets []string) error {
		present = len(sets) > 0
		return nil
	})
	return present, err
}

// withSets calls do with the names of our sets in the network namespace of the caller, unless the kernel has no sets at all.
func withSets(do func(c *conn, sets []string) error) error {
	if !loaded() {
		return nil
	}
	c, err := dial(0)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.hasSets(); errors.Is(err, errors.ErrUnsupported) {
		return nil
	} else if err != nil {
		return err
	}
	sets, err := ourSets(c)
	if err != nil {
		return err
	}
	return do(c, sets)
}

// ourSets returns the names of our sets.
func ourSets(c *conn) (names []string, err error) {
	found, err := c.headers()
	for name := range found {
		if strings.HasPrefix(name, prefix) || strings.HasPrefix(name, newPrefix) {
			names = append(names, name)
		}
	}
	return names, err
}
