package nftset

import (
	"errors"
	"net/netip"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"mef/internal/conf"
	"mef/internal/enforce"
)

// probeTable exists for a moment while the daemon starts. It has no chain with a hook, so no packet enters it.
const probeTable = "mefdaemon_probe"

// probe tries features of the kernel instead of comparing versions, because distributions backport features.
func probe(c *conn, settings enforce.Settings) (f Features, lacking lacks, err error) {
	var t tx
	t.removeTable(probeTable) // left over from a killed daemon
	t.addTable(probeTable)
	counted := set{name: "counted", timeout: true, counter: true}
	t.addSet(probeTable, counted)
	addr := netip.AddrFrom4([4]byte{192, 0, 2, 1})
	t.addProbe(counted.name, addr, time.Minute)
	if err := c.commit(&t); err != nil {
		return f, lacking, err
	}
	var gone tx
	gone.removeTable(probeTable)
	defer func() {
		if e := c.commit(&gone); err == nil {
			err = e
		}
	}()
	sets, err := c.readSets(probeTable)
	if err != nil {
		return f, lacking, err
	}
	f.Counters = sets[counted.name].counter
	var again tx
	again.addProbe(counted.name, addr, time.Hour)
	if err := c.commit(&again); err != nil {
		return f, lacking, err
	}
	e, ok, err := c.readElement(probeTable, counted.name, addr)
	f.Extends = ok && e.left > 2*time.Minute
	if err == nil && settings.Log.Enabled {
		lacking.log, err = probeLog(c, settings.Log)
		f.Log = err == nil && lacking.log == ""
	}
	if err == nil && settings.Scan.Enabled {
		lacking.scan, err = probeScan(c)
		f.Scan = err == nil && lacking.scan == ""
	}
	if err == nil && settings.Flood.Enabled {
		lacking.flood, err = probeFlood(c)
		f.Flood = err == nil && lacking.flood == ""
	}
	if err == nil && settings.Peers != "" {
		lacking.peers, err = probePeers(c)
		f.Peers = err == nil && lacking.peers == ""
	}
	if err == nil && settings.Samples {
		lacking.samples, err = probeSamples(c)
		f.Samples = err == nil && lacking.samples == ""
	}
	if err == nil && settings.Page.HTTP != 0 {
		lacking.page, f.Resets, err = probePage(c)
		f.Page = err == nil && lacking.page == ""
	}
	return f, lacking, err
}

// probeLog tries a chain that logs, and returns what the kernel lacks. Without the module it reports that there is no such expression.
func probeLog(c *conn, drops conf.DropLog) (lacks string, err error) {
	var t tx
	t.addChain(probeTable, chain{name: "logged"})
	err = t.addRule(probeTable, newRule("logged").log(drops, "PROBE "))
	if err == nil {
		err = c.commit(&t)
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		return lackingModules("nft_log, nf_log_syslog or nft_limit"), nil
	}
	return "", err
}

// lackingModules says what to do about modules that the kernel lacks.
func lackingModules(names string) string {
	return "this kernel lacks " + names + "; load them with modprobe, or use a kernel that has them"
}

func (t *tx) addProbe(set string, addr netip.Addr, d time.Duration) {
	a := elementsOf(probeTable, set, 0)
	at := a.Begin(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	element{addr: addr, timeout: uint64(d.Milliseconds())}.append(&a)
	a.End(at)
	t.Add(unix.NFT_MSG_NEWSETELEM, netlink.Create, a)
}
