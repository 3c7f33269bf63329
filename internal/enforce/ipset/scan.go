package ipset

import (
	"fmt"
	"slices"
	"strings"

	"mef/internal/conf"
	"mef/internal/enforce"
	"mef/internal/event"
)

// The scan detector reports packets to ports without a socket, as that of nftset does and for the same reasons: in input, after address
// translation, without connection tracking. xt_socket asks the kernel for a socket; ports at which packets have found one are remembered
// for a day. Sets that packets fill are bounded, and by the rates below they do not fill up:
//
//	mefd_scan_src:  6000/s x 10 s + 4000         = 64000 < 65536
//	mefd_scan_pair: (100 + 1000)/s x 30 s + 4000 = 37000 < 65536

const (
	scanPrefix   = prefix + "scan_"
	maxFilled    = 65536 // elements of a set that packets fill
	scanSrcTime  = 10
	scanPairTime = 30
	servedTime   = 24 * 60 * 60
)

const (
	scanChain       = "mefd-scan"
	scanOnChain     = "mefd-scan-on"
	scanTCPChain    = "mefd-scan-tcp"
	scanUDPChain    = "mefd-scan-udp"
	scanClosedChain = "mefd-scan-closed"
	scanKnownChain  = "mefd-scan-known"
	scanReportChain = "mefd-scan-report"
)

func scanSource(v6 bool) set {
	s := set{name: scanPrefix + "src" + familyName(v6), typ: hashIP, v6: v6, timeout: true, lasting: scanSrcTime}
	if v6 {
		s.netmask = 64
	}
	return s
}

func scanPair(v6 bool) set {
	return set{name: scanPrefix + "pair" + familyName(v6), typ: hashIPPort, v6: v6, timeout: true, lasting: scanPairTime}
}

// scanServed holds the ports at which packets of a protocol have found a socket.
func scanServed(protocol string) set {
	return set{name: scanPrefix + protocol, typ: bitmapPort, timeout: true, lasting: servedTime}
}

// scanUnadmitted and scanMuted hold all addresses and count the packets that were not reported.
func scanUnadmitted(v6 bool) set {
	return set{name: scanPrefix + "unadm" + familyName(v6), typ: hashNet, v6: v6, counters: true}
}

func scanMuted(v6 bool) set {
	return set{name: scanPrefix + "muted" + familyName(v6), typ: hashNet, v6: v6, counters: true}
}

func scanSets() (sets []set) {
	for _, v6 := range []bool{false, true} {
		sets = append(sets, scanSource(v6), scanPair(v6), scanUnadmitted(v6), scanMuted(v6))
	}
	return append(sets, scanServed("tcp"), scanServed("udp"))
}

// scanRules returns the chains and rules of the detector.
func (l layout) scanRules(v6 bool) (chains []string, rules []rule) {
	chains = []string{scanChain, scanOnChain, scanTCPChain, scanUDPChain, scanClosedChain, scanKnownChain, scanReportChain}
	add := func(chain, match, target string) { rules = append(rules, rule{chain, match, target}) }
	add(scanChain, "-i lo", "RETURN")
	for _, name := range l.scan.NotOn {
		add(scanChain, "-i "+quote(name), "RETURN")
	}
	if len(l.scan.On) > 0 && !slices.Contains(l.scan.On, conf.AllInterfaces) {
		for _, name := range l.scan.On {
			add(scanChain, "-i "+quote(name), scanOnChain)
		}
	} else {
		add(scanChain, "", scanOnChain)
	}
	add(scanOnChain, "-m pkttype ! --pkt-type unicast", "RETURN")
	add(scanOnChain, "-p tcp -m tcp --tcp-flags ACK ACK", "RETURN") // nearly all packets, at no cost
	add(scanOnChain, "-p tcp", scanTCPChain)
	if l.scan.UDP {
		add(scanOnChain, "-p udp", scanUDPChain)
	}
	const opening = "--tcp-flags FIN,SYN,RST,ACK SYN"
	socket := "-m socket --nowildcard"
	exempt := func(chain, protocol string) {
		add(chain, socket, "RETURN")
		add(chain, inSet(scanServed(protocol), "dst"), "RETURN")
		if l.scan.Exclude != "" {
			add(chain, strings.TrimSpace(ofPorts(l.scan.Exclude, "dst")), "RETURN")
		}
		add(chain, inSet(allowSet(v6), "src"), "RETURN")
		add(chain, inSet(graceSet(v6), "src"), "RETURN")
	}
	add(scanTCPChain, "-p tcp -m tcp "+opening+" "+socket, "SET --add-set "+scanServed("tcp").name+" dst --exist")
	exempt(scanTCPChain, "tcp")
	for _, flags := range []string{opening, "--tcp-flags ALL NONE", "--tcp-flags ALL FIN", "--tcp-flags ALL FIN,PSH,URG"} {
		add(scanTCPChain, "-p tcp -m tcp "+flags, scanClosedChain)
	}
	// A late answer to a closed client socket would count against a DNS, NTP or QUIC server.
	add(scanUDPChain, fmt.Sprintf("-p udp -m udp --dport %d:65535", l.udpEnd), "RETURN")
	add(scanUDPChain, "-p udp -m multiport --sports "+answeringPorts, "RETURN")
	add(scanUDPChain, socket, "SET --add-set "+scanServed("udp").name+" dst --exist")
	exempt(scanUDPChain, "udp")
	add(scanUDPChain, "", scanClosedChain)

	pair, source := scanPair(v6).name, scanSource(v6).name
	add(scanClosedChain, "-m set --match-set "+pair+" src,dst", "RETURN")
	add(scanClosedChain, inSet(scanSource(v6), "src"), scanKnownChain)
	add(scanClosedChain, inSet(scanSource(v6), "src"), "RETURN")
	// Without a flood, the first packet is reported at once, so that slow scans are found; in a flood, only a second one is.
	add(scanClosedChain, "-m limit --limit 6000/sec --limit-burst 4000", "SET --add-set "+source+" src --exist")
	add(scanClosedChain, "-m limit --limit 100/sec --limit-burst 2000", scanReportChain)
	add(scanClosedChain, "-m set ! --match-set "+pair+" src,dst "+inSet(scanUnadmitted(v6), "src"), "")

	// A source enters xt_hashlimit while it is in mefd_scan_src, and stays there for ten seconds: twice as many at most as that has in ten.
	burst := max(50, 2*l.scan.Limit)
	add(scanKnownChain, hashlimit(fmt.Sprintf("--hashlimit-above 2/sec --hashlimit-burst %d --hashlimit-mode srcip --hashlimit-srcmask %d "+
		"--hashlimit-htable-max %d --hashlimit-htable-expire 10000", burst, sourceMask(v6), 2*maxFilled), "c", v6), "RETURN")
	add(scanKnownChain, "-m limit --limit 1000/sec --limit-burst 2000", scanReportChain)
	add(scanKnownChain, "-m set ! --match-set "+pair+" src,dst "+inSet(scanMuted(v6), "src"), "")

	add(scanReportChain, "", "SET --add-set "+pair+" src,dst")
	add(scanReportChain, "", nflogTarget(event.ClosedPort))
	return chains, rules
}

// tryScan tries what the detector needs, and returns why it cannot work.
func (b *Backend) tryScan() string {
	const try = "-p tcp -m socket --nowildcard -m pkttype ! --pkt-type unicast -m limit --limit 1/sec -m hashlimit --hashlimit-above 2/sec --hashlimit-mode srcip --hashlimit-name mefd-probe "
	pair := scanPair(false)
	pair.name = probeSet
	if err := b.trySet(pair); err != nil {
		return "load the module ip_set_hash_ipport: " + err.Error()
	}
	for _, v6 := range b.tables.families() {
		s := set{name: probeSet + familyName(v6)}
		for _, target := range []string{"-j SET --add-set " + s.name + " src --exist", fmt.Sprintf("-j NFLOG --nflog-group %d --nflog-size 64", enforce.LogGroup)} {
			if err := b.tryRules(v6, try+target); err != nil {
				return "load the modules xt_socket, xt_limit, xt_pkttype, xt_hashlimit, xt_set and xt_NFLOG: " + err.Error()
			}
		}
	}
	return ""
}

// countScans reads how many packets were not reported.
func (c *conn) countScans(d *enforce.Detection) (err error) {
	for _, v6 := range []bool{false, true} {
		for s, sum := range map[set]*uint64{scanUnadmitted(v6): &d.Unadmitted, scanMuted(v6): &d.Muted} {
			if err := c.each(s, func(e element) { *sum += e.packets }); err != nil {
				return err
			}
		}
	}
	return nil
}
