package ipset

import (
	"fmt"

	"mef/internal/enforce"
	"mef/internal/event"
)

// Sources that open a connection to watched ports are reported as nftset does, and for the same reasons.

const (
	peersChain    = "mefd-peers"
	peersNewChain = "mefd-peers-new"
)

func peersSource(v6 bool) set {
	s := set{name: prefix + "peers" + familyName(v6), typ: hashIP, v6: v6, timeout: true, lasting: enforce.PeerTime}
	if v6 {
		s.netmask = 64
	}
	return s
}

func (l layout) peerRules(v6 bool) (chains []string, rules []rule) {
	add := func(chain, match, target string) { rules = append(rules, rule{chain, match, target}) }
	add(peersChain, "-i lo", "RETURN")
	add(peersChain, "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN "+ofPorts(l.peers, "dst"), peersNewChain)
	add(peersNewChain, inSet(allowSet(v6), "src"), "RETURN")
	add(peersNewChain, inSet(peersSource(v6), "src"), "RETURN")
	add(peersNewChain, fmt.Sprintf("-m limit --limit %d/sec --limit-burst %d", enforce.PeerRate, enforce.PeerBurst), "SET --add-set "+peersSource(v6).name+" src --exist")
	add(peersNewChain, inSet(peersSource(v6), "src"), nflogTarget(event.NewPeer))
	return []string{peersChain, peersNewChain}, rules
}

// tryPeers tries what these reports need, and returns why they cannot work.
func (b *Backend) tryPeers() string {
	for _, v6 := range b.tables.families() {
		name := probeSet + familyName(v6)
		if err := b.tryRules(v6, "-p tcp -m limit --limit 1/sec -j SET --add-set "+name+" src --exist", "-j "+nflogTarget("x")); err != nil {
			return "new connections are not reported, so block lists are not asked about them: load the modules xt_limit, xt_set and xt_NFLOG: " + err.Error()
		}
	}
	return ""
}
