package nftset

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"mef/internal/conf"
	"mef/internal/enforce"
	"mef/internal/event"
	"mef/internal/netlink/nfnl"
)

// The scan detector reports packets to ports without a socket: once for each source, protocol and port in scanPairTime.
//
// Its chain is in input, not prerouting: DNAT is done, so that a published container port, which is forwarded, never looks closed. It
// comes before the static policy, so it also sees ports that the policy drops. It needs no connection tracking: a packet that opens a TCP
// connection has no ACK, and the kernel itself looks for a socket, listening or connected. Ports at which packets have found a socket
// are remembered for a day: while their service is restarted, its clients are not scanning.
//
// Forged packets cannot fill the sets. An unknown source enters scan_src at a bounded rate. Only a known source, or any source while there
// is no flood, enters scan_pair and is reported, at a bounded rate for each source and for all of them. The number admitted a second, times
// the timeout, plus the burst, is less than the size:
//
//	scan_src:  6000/s x 10 s + 4000         = 64000 < 65536
//	scan_pair: (100 + 1000)/s x 30 s + 4000 = 37000 < 65536
//
// A look-up evaluates the expressions of the element that it finds, so a set that is looked up has no limits: scan_cap is beside scan_src.

// LogGroup is the NFLOG group to which packets are reported.
const LogGroup = enforce.LogGroup

const (
	scanSetSize  = 65536
	scanSrcTime  = 10
	scanPairTime = 30
	servedTime   = 24 * 60 * 60

	// scanPriority is before that of policies; the hook itself comes after DNAT (-100 in prerouting).
	scanPriority = -150
)

// The counters of packets that were not reported.
const (
	scanUnadmitted = "scan_unadmitted"
	scanCapped     = "scan_capped"
	scanMuted      = "scan_muted"
	scanFull       = "scan_full"
)

const scanServed = "scan_served"

func scanPart() part {
	p := part{
		wanted: func(s tableSpec) bool { return s.scan.Enabled },
		rules:  tableSpec.scanRules,
		counts: []counter{
			{scanUnadmitted, "closed-port packets of unknown sources beyond the admission rate"},
			{scanCapped, "closed-port packets beyond the rate of one source"},
			{scanMuted, "closed-port packets beyond the rate of reports"},
			{scanFull, "closed-port packets that found a full set; must stay 0"},
		},
		sets:   []set{{name: scanServed, with: portOnly, timeout: true, dynamic: true, size: scanSetSize, lasting: servedTime}},
		chains: []chain{{"scan", &hook{unix.NF_INET_LOCAL_IN, scanPriority}}, {"scan_open", nil}, {"scan_closed", nil}},
	}
	for _, v6 := range []bool{false, true} {
		f := familyName(v6)
		source := set{v6: v6, timeout: true, dynamic: true, size: scanSetSize, lasting: scanSrcTime}
		known, cap, pair := source, source, source
		known.name, cap.name, pair.name = "scan_src"+f, "scan_cap"+f, "scan_pair"+f
		pair.with, pair.lasting = addressAndPort, scanPairTime
		p.sets = append(p.sets, known, cap, pair)
		p.chains = append(p.chains, chain{"scan" + f, nil}, chain{"scan" + f + "_known", nil})
	}
	return p
}

// Registers that hold keys. A register of 16 bytes is four of 4 bytes.
const (
	register1  = 1 // the first 16 bytes
	register32 = 8 // the first 4 bytes of these, as one of the short registers
)

// Flags of a TCP header.
const (
	tcpFIN, tcpSYN, tcpRST, tcpPSH, tcpACK, tcpURG = 1, 2, 4, 8, 16, 32
	tcpAll                                         = tcpFIN | tcpSYN | tcpRST | tcpPSH | tcpACK | tcpURG
)

func (s tableSpec) scanRules() []rule {
	accept := func(r rule) rule { return r.verdict(expr.VerdictAccept) }
	in := newRule("scan")
	rules := []rule{accept(in.ifLoopback(expr.MetaKeyIIF))}
	if len(s.scan.NotOn) > 0 {
		rules = append(rules, accept(in.ifNamed(s.scan.NotOn, false)))
	}
	if len(s.scan.On) > 0 && !slices.Contains(s.scan.On, conf.AllInterfaces) {
		rules = append(rules, accept(in.ifNamed(s.scan.On, true)))
	}
	tcp, udp := in.protocol(unix.IPPROTO_TCP), in.protocol(unix.IPPROTO_UDP)
	protocols := []byte{unix.IPPROTO_TCP}
	if s.scan.UDP {
		protocols = append(protocols, unix.IPPROTO_UDP)
	}
	rules = append(rules,
		accept(in.noneOf(protocols)),
		accept(in.meta(expr.MetaKeyPKTTYPE).with(&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{unix.PACKET_HOST}})),
		accept(tcp.tcpFlags(tcpACK, tcpACK))) // nearly all packets, at no cost
	if s.scan.UDP {
		// A late answer to a closed client socket would count against a DNS, NTP or QUIC server.
		rules = append(rules, accept(udp.toPort(s.udpEnd)), accept(udp.fromAnswering(false)))
	}
	rules = append(rules,
		in.hasSocket().with(&expr.Verdict{Kind: expr.VerdictGoto, Chain: "scan_open"}),
		accept(in.servedKey().inNamed(register1, scanServed)))
	if s.scan.Exclude != "" {
		rules = append(rules, accept(in.protocols(protocols...).port(directions[0], s.scan.Exclude.Ranges())))
	}
	for _, v6 := range []bool{false, true} {
		f := familyName(v6)
		rules = append(rules,
			accept(in.inSet(directions[0], v6, addrBits(v6), "allow"+f)),
			accept(in.inSet(directions[0], v6, graceBits(v6), "grace"+f)))
	}
	closed := func(r rule) rule { return r.with(&expr.Verdict{Kind: expr.VerdictGoto, Chain: "scan_closed"}) }
	rules = append(rules,
		closed(tcp.tcpFlags(tcpFIN|tcpSYN|tcpRST|tcpACK, tcpSYN)),
		closed(tcp.tcpFlags(tcpAll, 0)),
		closed(tcp.tcpFlags(tcpAll, tcpFIN)),
		closed(tcp.tcpFlags(tcpAll, tcpFIN|tcpPSH|tcpURG)))
	open := newRule("scan_open")
	rules = append(rules, open.protocol(unix.IPPROTO_TCP).tcpFlags(tcpFIN|tcpSYN|tcpRST|tcpACK, tcpSYN).servedKey().updates(register1, scanServed))
	if s.scan.UDP {
		rules = append(rules, closed(udp), open.protocol(unix.IPPROTO_UDP).servedKey().updates(register1, scanServed))
	}
	rules = append(rules, newRule("scan_closed").byFamily("scan4", "scan6"))
	for _, v6 := range []bool{false, true} {
		rules = append(rules, s.scanFamilyRules(v6)...)
	}
	return rules
}

func (s tableSpec) scanFamilyRules(v6 bool) []rule {
	f := familyName(v6)
	accept := func(r rule) rule { return r.verdict(expr.VerdictAccept) }
	report := func(r rule) rule {
		return accept(r.sourceAndPort(v6).adds(register1, "scan_pair"+f).report(event.ClosedPort))
	}
	in, known := newRule("scan"+f), newRule("scan"+f+"_known")
	burst := uint32(max(50, 2*s.scan.Limit)) // more packets than a scan needs
	return []rule{
		accept(in.sourceAndPort(v6).inNamed(register1, "scan_pair"+f)),
		in.source(v6).inNamed(register1, "scan_src"+f).with(&expr.Verdict{Kind: expr.VerdictGoto, Chain: known.chain}),
		accept(in.over(6000, 4000).counter(scanUnadmitted)),
		in.source(v6).adds(register1, "scan_src"+f),
		// Without a flood, the first packet is reported at once, so that slow scans are found; in a flood, only a second one is.
		accept(in.over(100, 2000)),
		report(in),
		in.counter(scanFull),

		accept(known.source(v6).updates(register1, "scan_cap"+f, limitOver(2, burst)).counter(scanCapped)),
		accept(known.over(1000, 2000).counter(scanMuted)),
		report(known),
		known.counter(scanFull),
	}
}

// The peers part reports sources that open a connection to watched ports, each once in enforce.PeerTime, so that block lists are asked about
// them. A source can be forged: at most enforce.PeerRate a second are reported and remembered, so that forged ones cost a bounded number of
// queries and cannot fill the sets, which each family has:
//
//	20/s x 900 s + 100 = 18100 < 65536
//
// The chain is in input, after DNAT and before the static policy, like that of scans.

func peersPart() part {
	p := part{wanted: func(s tableSpec) bool { return s.peers != "" }, rules: tableSpec.peerRules, chains: []chain{{"peers", &hook{unix.NF_INET_LOCAL_IN, scanPriority}}}}
	for _, v6 := range []bool{false, true} {
		f := familyName(v6)
		p.sets = append(p.sets, set{name: "peers_src" + f, v6: v6, dynamic: true, timeout: true, size: scanSetSize, lasting: enforce.PeerTime})
		p.chains = append(p.chains, chain{"peers" + f, nil})
	}
	return p
}

func (s tableSpec) peerRules() []rule {
	accept := func(r rule) rule { return r.verdict(expr.VerdictAccept) }
	in := newRule("peers")
	rules := []rule{
		accept(in.ifLoopback(expr.MetaKeyIIF)),
		accept(in.noneOf([]byte{unix.IPPROTO_TCP})),
		in.protocol(unix.IPPROTO_TCP).tcpFlags(tcpFIN|tcpSYN|tcpRST|tcpACK, tcpSYN).port(directions[0], s.peers.Ranges()).byFamily("peers4", "peers6"),
	}
	for _, v6 := range []bool{false, true} {
		f := familyName(v6)
		in := newRule("peers" + f)
		rules = append(rules,
			accept(in.inSet(directions[0], v6, addrBits(v6), "allow"+f)),
			accept(in.source(v6).inNamed(register1, "peers_src"+f)),
			accept(in.over(enforce.PeerRate, enforce.PeerBurst)),
			in.source(v6).adds(register1, "peers_src"+f).report(event.NewPeer))
	}
	return rules
}

// ifNamed matches packets that arrive on one of the interfaces or, with not, on any other.
func (r rule) ifNamed(names []string, not bool) rule {
	s := anonSet{keyType: typeIfname, keyLen: unix.IFNAMSIZ}
	for _, name := range slices.Compact(slices.Sorted(slices.Values(names))) {
		key := make([]byte, unix.IFNAMSIZ)
		copy(key, name)
		s.elements = append(s.elements, anonElement{key: key})
	}
	r = r.meta(expr.MetaKeyIIFNAME).with(&expr.Lookup{SourceRegister: 1, SetName: anonSetName, Invert: not})
	r.anon = append(r.anon[:len(r.anon):len(r.anon)], s)
	return r
}

// noneOf matches packets of all protocols but these.
func (r rule) noneOf(protos []byte) rule {
	s := anonSet{keyType: typeInetProto, keyLen: 1}
	for _, p := range protos {
		s.elements = append(s.elements, anonElement{key: []byte{p}})
	}
	r = r.meta(expr.MetaKeyL4PROTO).with(&expr.Lookup{SourceRegister: 1, SetName: anonSetName, Invert: true})
	r.anon = append(r.anon[:len(r.anon):len(r.anon)], s)
	return r
}

// tcpFlags matches segments in which exactly the flags in set are set, of those in mask.
func (r rule) tcpFlags(mask, set byte) rule {
	return r.load(expr.PayloadBaseTransportHeader, 13, 1).
		with(&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{mask}, Xor: []byte{0}}).
		equals(set)
}

// toPort matches packets to a port or a higher one.
func (r rule) toPort(port uint16) rule {
	return r.load(expr.PayloadBaseTransportHeader, 2, 2).
		with(&expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: binary.BigEndian.AppendUint16(nil, port)})
}

// localPorts is the first port that the system gives to its own clients.
const localPorts = 32768

// firstLocalPort returns the first port that the system gives to its own clients, at most localPorts. text is ip_local_port_range, see ip(7).
func firstLocalPort(text string) uint16 {
	var first uint16
	if _, err := fmt.Sscan(text, &first); err != nil || first == 0 {
		return localPorts
	}
	return min(first, localPorts)
}

// hasSocket matches packets for which there is a socket, listening or connected. It reads an option of the socket and accepts each of
// its values; without a socket the rule does not match.
func (r rule) hasSocket() rule {
	return r.with(
		&expr.Socket{Key: expr.SocketKeyTransparent, Register: 1},
		&expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: []byte{1}})
}

// source loads the source address; for IPv6, its /64.
func (r rule) source(v6 bool) rule {
	if !v6 {
		return r.network(v6).load(expr.PayloadBaseNetworkHeader, 12, 4)
	}
	return r.network(v6).load(expr.PayloadBaseNetworkHeader, 8, 16).
		with(&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 16, Mask: mask(true, graceBits(true)), Xor: make([]byte, 16)})
}

// sourceAndPort loads the source, the protocol and the port in sequence.
func (r rule) sourceAndPort(v6 bool) rule {
	return r.source(v6).protocolAndPort(register32 + uint32(addrBits(v6)/32))
}

// servedKey loads the protocol and the port.
func (r rule) servedKey() rule { return r.protocolAndPort(register32) }

func (r rule) protocolAndPort(register uint32) rule {
	return r.with(
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Payload{DestRegister: register + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2})
}

// inNamed matches if the loaded key is in a set.
func (r rule) inNamed(register uint32, set string) rule {
	return r.with(&expr.Lookup{SourceRegister: register, SetName: set})
}

// adds adds the loaded key to a set. The rule does not match if the set is full, or if the key has a limit that is not exceeded.
func (r rule) adds(register uint32, set string, limits ...expr.Any) rule {
	return r.with(&expr.Dynset{SrcRegKey: register, SetName: set, Operation: unix.NFT_DYNSET_OP_ADD, Exprs: limits})
}

// updates is adds, but also restarts the timeout of an element.
func (r rule) updates(register uint32, set string, limits ...expr.Any) rule {
	return r.with(&expr.Dynset{SrcRegKey: register, SetName: set, Operation: unix.NFT_DYNSET_OP_UPDATE, Exprs: limits})
}

// over matches packets beyond a rate.
func (r rule) over(perSecond uint64, burst uint32) rule { return r.with(limitOver(perSecond, burst)) }

func limitOver(perSecond uint64, burst uint32) expr.Any {
	return &expr.Limit{Type: expr.LimitTypePkts, Rate: perSecond, Unit: expr.LimitTimeSecond, Burst: burst, Over: true}
}

// A piece is a rule that needs a module of the kernel.
type piece struct {
	module string
	rule   rule
}

// reportPieces returns the rules that every detector needs.
func reportPieces() []piece {
	return []piece{
		{"nft_limit", newRule("tried").over(1, 1)},
		{"nft_log and nfnetlink_log", newRule("tried").with(&expr.Log{Key: 1 << unix.NFTA_LOG_GROUP, Group: LogGroup})},
		{"nft_dynset", newRule("tried").source(false).updates(register1, "tried", limitOver(1, 1))},
	}
}

// probeScan tries the rules of the scan detector in a table that no packet enters. It returns the module that the kernel lacks, "" if none.
func probeScan(c *conn) (lacks string, err error) {
	return c.probePieces(append(reportPieces(), piece{"nft_socket", newRule("tried").protocol(unix.IPPROTO_TCP).hasSocket()}))
}

// probePeers is probeScan for the reports of new connections.
func probePeers(c *conn) (lacks string, err error) { return c.probePieces(reportPieces()) }

// probeFlood is probeScan for the flood guard.
func probeFlood(c *conn) (lacks string, err error) {
	return c.probePieces(append(reportPieces(),
		piece{"nft_ct and nf_conntrack", newRule("tried").newConnection()},
		piece{"nft_connlimit", newRule("tried").source(false).adds(register1, "lasting", &expr.Connlimit{Count: 1, Flags: connlimitOver})},
		piece{"nft_fib_inet", newRule("tried").with(&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true})}))
}

func (c *conn) probePieces(pieces []piece) (lacks string, err error) {
	for _, piece := range pieces {
		var t tx
		t.removeTable(probeTable)
		t.addTable(probeTable)
		t.addSet(probeTable, set{name: "tried", timeout: true, dynamic: true, size: 16, lasting: 1})
		t.addSet(probeTable, set{name: "lasting", dynamic: true, size: 16}) // counts of connections end with them, not by a timeout
		t.addChain(probeTable, chain{name: "tried"})
		err := t.addRule(probeTable, piece.rule)
		if err == nil {
			err = c.commit(&t)
		}
		switch {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPROTONOSUPPORT):
			return lackingModules(piece.module), nil
		case err != nil:
			return "", err
		}
	}
	return "", nil
}

// Detection implements enforce.Backend.
func (b *Backend) Detection() (d enforce.Detection, err error) {
	lacks := b.lacks.Load()
	d.Off, d.FloodOff, d.PeersOff = lacks.scan, lacks.flood, lacks.peers
	if d.Off != "" {
		return d, nil
	}
	err = b.finder.do(func(c *conn) error {
		counts, err := c.readCounters()
		d.Unadmitted, d.Muted, d.Full = counts[scanUnadmitted].packets, counts[scanMuted].packets, counts[scanFull].packets
		return err
	})
	return d, err
}

// A count is what a counter has counted.
type count struct{ packets, bytes uint64 }

// readCounters returns what the counters of the table have counted, by name.
func (c *conn) readCounters() (map[string]count, error) {
	found := map[string]count{}
	a := named(tableName)
	a.Uint32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
	err := c.dump(unix.NFT_MSG_GETOBJ, a, func() { clear(found) }, func(b []byte) {
		if nfnl.Text(nfnl.Find(b, unix.NFTA_OBJ_TABLE)) == tableName {
			data := nfnl.Find(b, unix.NFTA_OBJ_DATA)
			found[nfnl.Text(nfnl.Find(b, unix.NFTA_OBJ_NAME))] = count{nfnl.Uint64(nfnl.Find(data, unix.NFTA_COUNTER_PACKETS)), nfnl.Uint64(nfnl.Find(data, unix.NFTA_COUNTER_BYTES))}
		}
	})
	return found, ignoreAbsent(err)
}
