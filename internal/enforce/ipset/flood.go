package ipset

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"strings"
	"time"

	"mef/internal/conf"
	"mef/internal/enforce"
	"mef/internal/event"
	"mef/internal/exempt"
	"mef/internal/netlink/nflog"
	"mef/internal/prefixset"
)

// The flood guard limits what one source may do at one TCP port, as that of nftset does: packets a second that open a connection, new
// connections a second, and connections at a time. It drops only packets that open a connection. It is in PREROUTING of the table mangle,
// after connection tracking and before DNAT.
//
// xt_hashlimit drops the packets of new sources when its table is full, so forged sources must not fill it. Only sources and ports in
// mefd_flood_seen are counted; they enter it at a bounded rate, stay for longer than the table of xt_hashlimit keeps them, and so there are
// never more of them in that table:
//
//	mefd_flood_seen: 6000/s x 10 s + 4000 = 64000 < 65536
//
// xt_connlimit counts the connections that conntrack has. It has no key for the port, so each port has a rule.
const (
	seenTime    = 10
	rateTime    = 5 // seconds after which xt_hashlimit forgets a silent source
	episodeTime = 30

	// maxCountedPorts is how many ports a list may have whose connections are counted.
	maxCountedPorts = 64
)

const (
	guardChain    = "mefd-guard"
	guardSYNChain = "mefd-guard-syn"
	overChain     = "mefd-over-"
)

// guardSYN matches TCP segments that open a connection.
const guardSYN = "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN "

const floodPrefix = prefix + "flood_"

// pairSet holds sources, which are IPv6 networks, with ports. Packets add the prefix length that the set has already, so floodSeed is in it.
func pairSet(name string, v6 bool, lasting uint32) set {
	s := set{name: floodPrefix + name + familyName(v6), typ: hashIPPort, v6: v6, timeout: true, lasting: lasting}
	if v6 {
		s.typ = hashNetPort
	}
	return s
}

// floodSeed is an element from which no packet comes.
func floodSeed() element { return element{prefix: netip.MustParsePrefix("::/64"), first: 1} }

func floodSeen(v6 bool) set     { return pairSet("seen", v6, seenTime) }
func floodReported(v6 bool) set { return pairSet("told", v6, episodeTime) }

// floodSource holds the sources of which conf.FloodDrop drops everything that opens a connection.
func (l layout) floodSource(v6 bool) set {
	s := set{name: floodPrefix + "src" + familyName(v6), typ: hashIP, v6: v6, timeout: true, lasting: uint32(max(time.Second, l.flood.Stage1) / time.Second)}
	if v6 {
		s.netmask = 64
	}
	return s
}

func proxySet(v6 bool) set { return set{name: prefix + "proxy" + familyName(v6), typ: hashNet, v6: v6} }
func cdnSet(v6 bool) set   { return set{name: prefix + "cdn" + familyName(v6), typ: hashNet, v6: v6} }

func (l layout) floodSets() (sets []set) {
	for _, v6 := range []bool{false, true} {
		sets = append(sets, floodSeen(v6), floodReported(v6), l.floodSource(v6), proxySet(v6), cdnSet(v6))
	}
	return sets
}

// sharedElements returns what the sets have that name addresses behind which there are many clients.
func (l layout) sharedElements() map[set][]element {
	if !l.flood.Enabled {
		return nil
	}
	elements := map[set][]element{}
	for _, v6 := range []bool{false, true} {
		elements[proxySet(v6)] = prefixElements(l.proxies, v6)
		elements[cdnSet(v6)] = prefixElements(l.cdns, v6)
	}
	return elements
}

// floodRules returns the chains and rules of the guard.
func (l layout) floodRules(v6 bool) (chains []string, rules []rule) {
	chains = []string{guardChain, guardSYNChain}
	add := func(chain, match, target string) { rules = append(rules, rule{chain, match, target}) }
	add(guardChain, "-i lo", "RETURN")
	add(guardChain, guardSYN+"-m addrtype --dst-type LOCAL", guardSYNChain)
	for _, s := range []set{allowSet(v6), graceSet(v6), proxySet(v6)} {
		add(guardSYNChain, inSet(s, "src"), "RETURN")
	}
	add(guardSYNChain, ofPorts(exempt.WebPorts, "dst")+inSet(cdnSet(v6), "src"), "RETURN")
	seen := floodSeen(v6).name
	for i, g := range l.flood.Groups() {
		chain := fmt.Sprintf("%s-%d", guardChain, i)
		chains = append(chains, chain)
		add(guardSYNChain, "-p tcp "+ofPorts(g.Ports, "dst"), "-g "+chain)
		if l.flood.Mode == conf.FloodDrop {
			add(chain, inSet(l.floodSource(v6), "src"), "DROP")
		}
		add(chain, "-m set ! --match-set "+seen+" src,dst -m limit --limit 6000/sec --limit-burst 4000", "SET --add-set "+seen+" src,dst --exist")
		add(chain, "-m set ! --match-set "+seen+" src,dst", "RETURN")
		add(chain, "", "SET --add-set "+seen+" src,dst --exist")
		add(chain, "-p tcp "+above(g.Limits.SYNRate, g.Limits.SYNBurst, "s", v6), "-g "+overChain+"syn")
		add(chain, "-p tcp -m conntrack --ctstate NEW "+above(g.Limits.NewRate, g.Limits.NewBurst, "n", v6), "-g "+overChain+"new")
		for _, port := range countedPorts(g) {
			add(chain, fmt.Sprintf("-p tcp -m tcp --dport %d -m conntrack --ctstate NEW -m connlimit --connlimit-above %d --connlimit-mask %d --connlimit-saddr",
				port, g.Limits.Conns, sourceMask(v6)), "-g "+overChain+"conn")
		}
	}
	end := "DROP"
	if l.flood.Mode == conf.FloodDetect {
		end = "RETURN"
	}
	for _, metric := range []struct{ name, mark string }{{"syn", event.FloodSYN}, {"new", event.FloodNew}, {"conn", event.FloodConns}} {
		chain, reported := overChain+metric.name, floodReported(v6).name
		chains = append(chains, chain)
		if l.flood.Mode == conf.FloodDrop {
			add(chain, "", "SET --add-set "+l.floodSource(v6).name+" src")
		}
		add(chain, "-m set --match-set "+reported+" src,dst", end)
		add(chain, "", "SET --add-set "+reported+" src,dst")
		// What a full set does not take is not reported: it would be with every packet.
		add(chain, "-m set --match-set "+reported+" src,dst", nflogTarget(metric.mark))
		add(chain, "", end)
	}
	return chains, rules
}

// nflogTarget reports a packet to the daemon.
func nflogTarget(mark string) string { return nflogTo(enforce.LogGroup, mark) }

func nflogTo(group int, mark string) string {
	return fmt.Sprintf("NFLOG --nflog-group %d --nflog-prefix %s --nflog-size %d", group, quote(mark), nflog.Snaplen)
}

func sourceMask(v6 bool) int {
	if v6 {
		return 64
	}
	return 32
}

// above matches packets of a source to a port beyond a rate.
func above(rate, burst int, metric string, v6 bool) string {
	return hashlimit(fmt.Sprintf("--hashlimit-above %d/sec --hashlimit-burst %d --hashlimit-mode srcip,dstport --hashlimit-srcmask %d "+
		"--hashlimit-htable-max %d --hashlimit-htable-expire %d", rate, burst, sourceMask(v6), maxFilled, rateTime*1000), metric, v6)
}

// hashlimit names a table of xt_hashlimit by its options: rules with the same name share a table, and it keeps the options of the first one,
// also while rules are replaced. The name has 15 bytes at most.
func hashlimit(options, kind string, v6 bool) string {
	h := fnv.New32a()
	h.Write([]byte(options))
	return fmt.Sprintf("-m hashlimit %s --hashlimit-name mefd%s%s%08x", options, kind, familyName(v6), h.Sum32())
}

// countedPorts returns the ports of a group whose connections are counted: all or none.
func countedPorts(g conf.FloodGroup) (ports []uint16) {
	if g.Ports == "" || portCount(g.Ports) > maxCountedPorts {
		return nil
	}
	for _, r := range g.Ports.Ranges() {
		for port := int(r.First); port <= int(r.Last); port++ {
			ports = append(ports, uint16(port))
		}
	}
	return ports
}

// uncounted returns why connections are not counted at some ports, "" if they are at all.
func uncounted(flood conf.Flood) string {
	var lists []string
	for _, g := range flood.Groups() {
		switch {
		case countedPorts(g) != nil:
		case g.Ports == "":
			lists = append(lists, "all ports")
		default:
			lists = append(lists, "ports "+string(g.Ports))
		}
	}
	if lists == nil {
		return ""
	}
	return fmt.Sprintf("ddos_connlimit has no effect at %s: iptables counts connections only where a list has at most %d ports; list the ports of the services in ddos_ports, "+
		"or use firewall_backend=nftables", strings.Join(lists, "; "), maxCountedPorts)
}

// tryFlood tries what the guard needs, and returns why it cannot work.
func (b *Backend) tryFlood() string {
	for _, v6 := range b.tables.families() {
		pair := floodSeen(v6)
		pair.name = probeSet
		if err := b.trySet(pair); err != nil {
			return "load the modules ip_set_hash_ipport and ip_set_hash_netport: " + err.Error()
		}
		for _, try := range []struct{ modules, rule string }{
			{"xt_hashlimit and xt_limit", "-p tcp " + above(1, 1, "p", v6) + " -m limit --limit 1/sec -j DROP"},
			{"xt_conntrack and nf_conntrack", "-p tcp -m conntrack --ctstate NEW -j DROP"},
			{"xt_connlimit", "-p tcp -m connlimit --connlimit-above 1 --connlimit-mask 32 --connlimit-saddr -j DROP"},
			{"xt_addrtype", "-m addrtype --dst-type LOCAL -j DROP"},
			{"xt_set", "-j SET --add-set " + probeSet + familyName(v6) + " src --exist"},
			{"xt_NFLOG", "-j " + nflogTarget("x")},
		} {
			if err := b.tryRules(v6, try.rule); err != nil {
				return fmt.Sprintf("load %s: %v", try.modules, err)
			}
		}
	}
	return ""
}

// prefixElements returns the prefixes of a family.
func prefixElements(set prefixset.Set, v6 bool) (es []element) {
	for _, p := range set.Prefixes() {
		switch {
		case p.Addr().Is6() != v6:
		case p.Bits() == 0:
			es = append(es, everything(v6)...)
		default:
			es = append(es, element{prefix: p})
		}
	}
	return es
}
