package nftset

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/enforce"
	"mef/internal/event"
	"mef/internal/netlink/nfnl"
	"mef/internal/prefixset"
)

// tableName is the name of our table, of family inet.
const tableName = "mefdaemon"

// repliesCounter counts packets towards banned addresses.
const repliesCounter = "replies"

// dropCounter names the counter of packets from banned addresses.
func dropCounter(trust ban.Class) string {
	if trust == ban.Unverified {
		return "drops_susp"
	}
	return "drops_ban"
}

// A set is a named set of addresses, or of other keys that packets add.
type set struct {
	name     string
	v6       bool
	with     withPort
	interval bool   // holds ranges; otherwise single keys
	timeout  bool   // elements may end
	counter  bool   // elements count the packets that match them
	dynamic  bool   // packets add elements
	size     uint32 // maximum number of elements; 0: no limit
	lasting  uint32 // seconds until an element ends that a packet has added
}

// withPort reports whether keys have a protocol and port.
type withPort uint8

const (
	addressOnly    withPort = iota
	addressAndPort          // the address, the protocol and the port
	portOnly                // no address
)

func (s set) keyLen() int {
	switch s.with {
	case portOnly:
		return 8 // each part takes four bytes
	case addressAndPort:
		return addrBits(s.v6)/8 + 8
	}
	return addrBits(s.v6) / 8
}

// allowSets are filled with ranges, graceSets with IPv4 addresses and IPv6 /64s, exceptSets with addresses.
var (
	allowSets = []set{{name: "allow4", interval: true}, {name: "allow6", v6: true, interval: true}}
	graceSets = []set{{name: "grace4", timeout: true}, {name: "grace6", v6: true, timeout: true}}

	exceptSets = []set{{name: "except4", timeout: true}, {name: "except6", v6: true, timeout: true}}
)

func (s tableSpec) set(c setKind) set {
	return set{name: c.set(), v6: c.v6, timeout: true, counter: s.counters}
}

// A chain is a list of rules; packets enter a chain with a hook.
type chain struct {
	name string
	hook *hook
}

type hook struct {
	num      uint32
	priority int32
}

// bansPriority is after defragmentation (-400), before raw (-300) and conntrack (-200): a dropped packet leaves no conntrack
// entry, and a ban covers ports that a container publishes, because DNAT comes later (-100).
const bansPriority = -350

// A tableSpec determines the layout of a table without its kinds: the features of the kernel and the operator's settings.
type tableSpec struct {
	counters bool         // bans count packets
	log      conf.DropLog // of dropped packets
	scan     conf.Scan    // packets to closed ports that are reported
	udpEnd   uint16       // packets to this and higher UDP ports are not reported
	flood    conf.Flood   // limits of a source at a port
	peers    ban.Ports    // at which sources that open a connection are reported
	samples  bool         // of dropped packets are reported
	page     enforce.Page // where banned clients of a web server are sent
	resets   bool         // the kernel can reset connections in prerouting

	proxies, cdns prefixset.Set // whom these do not limit, see enforce.Settings
}

// A counter counts packets for the operator.
type counter struct{ name, comment string }

// A part is a piece of the table that is built as a whole or not at all.
type part struct {
	wanted func(tableSpec) bool // nil: in every table
	sets   []set
	chains []chain
	counts []counter
	rules  func(tableSpec) []rule // in the order of their chains
}

// allParts returns all parts that a table can have; kinds are not among them.
func (s tableSpec) allParts() []part {
	entries := part{rules: tableSpec.entryRules, counts: []counter{
		{repliesCounter, "packets towards banned addresses, dropped"},
		{dropCounter(ban.Verified), "packets from banned addresses, dropped"},
		{dropCounter(ban.Unverified), "packets from addresses with an unverified ban, dropped"}}, chains: []chain{
		{"ban", &hook{unix.NF_INET_PRE_ROUTING, bansPriority}},
		{"reply_out", &hook{unix.NF_INET_LOCAL_OUT, bansPriority}},
		{"reply_fwd", &hook{unix.NF_INET_FORWARD, bansPriority}}}}
	bans := part{rules: tableSpec.exemptRules, sets: slices.Concat(allowSets, graceSets, exceptSets)}
	for _, d := range directions {
		for _, v6 := range []bool{false, true} {
			bans.chains = append(bans.chains, chain{d.exactChain(v6), nil}, chain{d.chain(v6), nil})
		}
	}
	return []part{entries, bans, listPart(), logPart(), samplePart(), scanPart(), floodPart(s), peersPart(), pagePart()}
}

// parts returns the parts of this table.
func (s tableSpec) parts() []part {
	return slices.DeleteFunc(s.allParts(), func(p part) bool { return p.wanted != nil && !p.wanted(s) })
}

func (s tableSpec) sets() (all []set) {
	for _, p := range s.parts() {
		all = append(all, p.sets...)
	}
	return all
}

func (s tableSpec) counts() (all []counter) {
	for _, p := range s.parts() {
		all = append(all, p.counts...)
	}
	return all
}

func (s tableSpec) chains() (all []chain) {
	for _, p := range s.parts() {
		all = append(all, p.chains...)
	}
	return all
}

// fixedRules returns the rules of every part, in order.
func (s tableSpec) fixedRules() (all []rule) {
	for _, p := range s.parts() {
		all = append(all, p.rules(s)...)
	}
	return all
}

// A rule is a rule of a chain: expressions that match packets and act on them.
type rule struct {
	chain string
	exprs []expr.Any
	anon  []anonSet // the sets that lookups named anonName refer to, in order
}

// An anonSet is a constant set or verdict map within one rule.
type anonSet struct {
	keyType, keyLen uint32
	elements        []anonElement
	interval, vmap  bool
}

type anonElement struct {
	key  []byte
	end  bool   // first key after a range
	goTo string // chain, in a verdict map
}

const (
	anonSetName = "__set%d"
	anonMapName = "__map%d"
)

// The data types of nft, by which it prints keys.
const (
	typeVerdict     = 1
	typeNFProto     = 2
	typeIPAddr      = 7
	typeIP6Addr     = 8
	typeInetProto   = 12
	typeInetService = 13
	typeIfname      = 41
	typeICMP6Type   = 29
)

// entryRules send packets to the chains of their family.
func (s tableSpec) entryRules() []rule {
	in, out := newRule("ban").ifLoopback(expr.MetaKeyIIF).verdict(expr.VerdictAccept), newRule("reply_out").ifLoopback(expr.MetaKeyOIF).verdict(expr.VerdictAccept)
	rules := []rule{in}
	if s.page.HTTP != 0 {
		rules = append(rules, s.notToPage()...)
	}
	rules = append(rules, newRule("ban").byFamily("ban4", "ban6"), out)
	if s.page.HTTP != 0 {
		rules = append(rules, s.pageAnswers()...)
	}
	return append(rules, newRule("reply_out").byFamily("reply4", "reply6"), newRule("reply_fwd").byFamily("reply4", "reply6"))
}

// exemptRules returns the rules before those of the bans: they accept packets that no ban may drop.
//
// Multicast listener discovery needs no rule: its senders have link-local addresses, which are never banned.
func (s tableSpec) exemptRules() (rules []rule) {
	for _, d := range directions {
		for _, v6 := range []bool{false, true} {
			chain := d.chain(v6)
			rules = append(rules,
				newRule(chain).inSet(d, v6, addrBits(v6), "allow"+familyName(v6)).verdict(expr.VerdictAccept),
				newRule(chain).inSet(d, v6, graceBits(v6), "grace"+familyName(v6)).verdict(expr.VerdictAccept))
			if v6 {
				// Neighbour discovery of the link: with hop limit 255 it cannot come from beyond the link. A /64 or /48 ban that
				// contains the server's own network must not cut it off.
				rules = append(rules, newRule(chain).neighbourDiscovery().verdict(expr.VerdictAccept))
			}
			if d.incoming {
				rules = append(rules, newRule(chain).dhcpReply(v6).verdict(expr.VerdictAccept))
			}
			// An address that is excepted from a ban of its network may be banned itself, or listed, so that comes first.
			rules = append(rules, newRule(chain).with(&expr.Verdict{Kind: expr.VerdictJump, Chain: d.exactChain(v6)}))
			rules = append(rules, listGates(d, v6)...)
			rules = append(rules,
				newRule(chain).inSet(d, v6, addrBits(v6), "except"+familyName(v6)).verdict(expr.VerdictAccept))
		}
	}
	return rules
}

// graceBits returns the prefix length of the elements of the grace sets.
func graceBits(v6 bool) int {
	if v6 {
		return 64
	}
	return 32
}

// rules returns the rules of a kind.
func (s tableSpec) rules(c setKind) []rule {
	var rules []rule
	if s.page.HTTP != 0 {
		rules = s.kindPageRules(c)
	}
	if c.trust == ban.Unverified {
		return append(rules, s.unverifiedRules(c)...)
	}
	for _, d := range directions {
		r := newRule(d.chainOf(c))
		if c.ports != "" {
			r = r.protocols(unix.IPPROTO_TCP, unix.IPPROTO_UDP).port(d, c.ports.Ranges())
		}
		r = r.inSet(d, c.v6, c.bits, c.set())
		if d.incoming {
			r = s.drop(r.counter(dropCounter(c.trust)), c.trust)
		} else {
			// Every look-up also counts in the element, which holds both directions; this is the share of the replies.
			r = s.dropSampled(r.counter(repliesCounter), event.DroppedReply)
		}
		rules = append(rules, r)
	}
	return rules
}

// unverifiedRules drop only packets that open a connection to this host, so that answers to its own connections always pass: a
// forged source must not cut it off from another host.
//
// UDP packets do not show whether they open a connection. Without a list of ports, and in wide ranges of one ("all except 22"), those from
// a port of clients to a privileged port do: answers come from a service's port, or to the port of a client or of a program that takes any
// port (a resolver, telephony, VPN). At the ports of a service, all do, except from ports whose answers come there.
func (s tableSpec) unverifiedRules(c setKind) (rules []rule) {
	in := directions[0]
	begin := newRule(in.chainOf(c))
	end := func(r rule) {
		rules = append(rules, s.drop(r.inSet(in, c.v6, c.bits, c.set()).counter(dropCounter(c.trust)), c.trust))
	}
	tcp, udp := begin.protocol(unix.IPPROTO_TCP).opensTCP(), begin.protocol(unix.IPPROTO_UDP)
	if c.ports == "" {
		end(tcp)
		end(udp.fromClient().below(privileged))
		return rules
	}
	end(tcp.port(in, c.ports.Ranges()))
	served, wide := servicePorts(c.ports)
	if len(served) > 0 {
		r := udp
		if len(wide) > 0 || slices.ContainsFunc(answeringPorts, func(p uint16) bool { return within(served, p) }) {
			r = udp.fromAnswering(true)
		}
		end(r.port(in, served))
	}
	if len(wide) > 0 {
		end(udp.fromClient().port(in, wide))
	}
	return rules
}

// privileged is the first port that programs without privileges can have.
const privileged = 1024

// maxService is how many ports in a row a service may have.
const maxService = 64

// servicePorts splits a list into the ports of services and the privileged ones in wide ranges.
func servicePorts(ports ban.Ports) (served, wide []ban.PortRange) {
	for _, r := range ports.Ranges() {
		switch {
		case r.Last-r.First < maxService:
			served = append(served, r)
		case r.First < privileged:
			wide = append(wide, ban.PortRange{First: r.First, Last: min(r.Last, privileged-1)})
		}
	}
	return served, wide
}

func within(ranges []ban.PortRange, port uint16) bool {
	return slices.ContainsFunc(ranges, func(r ban.PortRange) bool { return r.Has(port) })
}

// A direction tells which end of a packet is the peer.
type direction struct {
	prefix   string // of chains
	incoming bool
}

var directions = []direction{{"ban", true}, {"reply", false}}

func (d direction) chain(v6 bool) string { return d.prefix + familyName(v6) }

// exactChain returns the chain of the rules about bans of single addresses.
func (d direction) exactChain(v6 bool) string { return d.chain(v6) + "_exact" }

// chainOf returns the chain of the rules of a kind.
func (d direction) chainOf(c setKind) string {
	if c.bits == addrBits(c.v6) {
		return d.exactChain(c.v6)
	}
	return d.chain(c.v6)
}

func newRule(chain string) rule { return rule{chain: chain} }

// with returns the rule with expressions appended. Rules are values: the original is not changed.
//
// Neither it nor what is built from it is inlined: a table has a hundred rules of many parts each, and is written once.
//
//go:noinline
func (r rule) with(e ...expr.Any) rule {
	r.exprs = append(r.exprs[:len(r.exprs):len(r.exprs)], e...)
	return r
}

//go:noinline
func (r rule) meta(key expr.MetaKey) rule { return r.with(&expr.Meta{Key: key, Register: 1}) }

//go:noinline
func (r rule) equals(data ...byte) rule {
	return r.with(&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data})
}

//go:noinline
func (r rule) load(base expr.PayloadBase, offset, length uint32) rule {
	return r.with(&expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: length})
}

//go:noinline
func (r rule) verdict(kind expr.VerdictKind) rule { return r.with(&expr.Verdict{Kind: kind}) }

func (r rule) counter(name string) rule {
	return r.with(&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: name})
}

// ifLoopback matches packets of the loopback interface, which has index 1 in every namespace.
func (r rule) ifLoopback(key expr.MetaKey) rule {
	return r.meta(key).equals(binary.NativeEndian.AppendUint32(nil, 1)...)
}

// byFamily sends IPv4 and IPv6 packets to different chains, so that no packet meets the rules of the other family.
func (r rule) byFamily(chain4, chain6 string) rule {
	r = r.meta(expr.MetaKeyNFPROTO).with(&expr.Lookup{SourceRegister: 1, IsDestRegSet: true, SetName: anonMapName})
	r.anon = append(r.anon, anonSet{keyType: typeNFProto, keyLen: 1, vmap: true, elements: []anonElement{
		{key: []byte{unix.NFPROTO_IPV4}, goTo: chain4},
		{key: []byte{unix.NFPROTO_IPV6}, goTo: chain6},
	}})
	return r
}

// inAnon looks up the loaded value in a constant set.
func (r rule) inAnon(s anonSet) rule {
	r = r.with(&expr.Lookup{SourceRegister: 1, SetName: anonSetName})
	r.anon = append(r.anon[:len(r.anon):len(r.anon)], s)
	return r
}

// network checks the family, as nft does before it reads an IP header. The packet is of that family anyway, but nft prints
// addresses in the rule only after such a check.
func (r rule) network(v6 bool) rule {
	if v6 {
		return r.meta(expr.MetaKeyNFPROTO).equals(unix.NFPROTO_IPV6)
	}
	return r.meta(expr.MetaKeyNFPROTO).equals(unix.NFPROTO_IPV4)
}

// inSet matches packets whose peer has its prefix in a set.
func (r rule) inSet(d direction, v6 bool, bits int, set string) rule {
	offset, length := uint32(12), uint32(4)
	if v6 {
		offset, length = 8, 16
	}
	if !d.incoming {
		offset += length
	}
	r = r.network(v6).load(expr.PayloadBaseNetworkHeader, offset, length)
	if bits < addrBits(v6) {
		r = r.with(&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: length, Mask: mask(v6, bits), Xor: make([]byte, length)})
	}
	return r.with(&expr.Lookup{SourceRegister: 1, SetName: set})
}

func mask(v6 bool, bits int) []byte {
	all := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	if v6 {
		b := [16]byte{}
		for i := range b {
			b[i] = 255
		}
		all = netip.AddrFrom16(b)
	}
	return netip.PrefixFrom(all, bits).Masked().Addr().AsSlice()
}

//go:noinline
func (r rule) protocol(proto byte) rule { return r.meta(expr.MetaKeyL4PROTO).equals(proto) }

func (r rule) protocols(protos ...byte) rule {
	s := anonSet{keyType: typeInetProto, keyLen: 1}
	for _, p := range protos {
		s.elements = append(s.elements, anonElement{key: []byte{p}})
	}
	return r.meta(expr.MetaKeyL4PROTO).inAnon(s)
}

// port matches packets whose port at this host is in one of ranges.
func (r rule) port(d direction, ranges []ban.PortRange) rule {
	offset := uint32(2)
	if !d.incoming {
		offset = 0
	}
	r = r.load(expr.PayloadBaseTransportHeader, offset, 2)
	s := anonSet{keyType: typeInetService, keyLen: 2}
	for _, p := range ranges {
		s.interval = s.interval || p.Last > p.First
	}
	for _, p := range ranges {
		s.elements = append(s.elements, anonElement{key: binary.BigEndian.AppendUint16(nil, p.First)})
		if s.interval && p.Last < 65535 {
			s.elements = append(s.elements, anonElement{key: binary.BigEndian.AppendUint16(nil, p.Last+1), end: true})
		}
	}
	return r.inAnon(s)
}

// opensTCP matches segments with SYN and without ACK.
func (r rule) opensTCP() rule {
	const syn, ack = 0x02, 0x10
	return r.load(expr.PayloadBaseTransportHeader, 13, 1).
		with(&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{syn | ack}, Xor: []byte{0}}).
		equals(syn)
}

// fromClient matches UDP packets that do not come from a privileged port.
func (r rule) fromClient() rule {
	return r.load(expr.PayloadBaseTransportHeader, 0, 2).
		with(&expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: binary.BigEndian.AppendUint16(nil, privileged)})
}

// below matches packets to ports below one.
func (r rule) below(port uint16) rule {
	return r.load(expr.PayloadBaseTransportHeader, 2, 2).
		with(&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: binary.BigEndian.AppendUint16(nil, port)})
}

// answeringPorts are the ports of UDP services whose answers may come to ports of services: resolvers on this host (Unbound, PowerDNS
// and dnsmasq choose ports from 1024 on) get answers from port 53, and NTP, IKE and OpenVPN use the same port at both ends.
var answeringPorts = []uint16{53, 123, 500, 1194, 4500}

// fromAnswering matches UDP packets from answeringPorts, or with not all others.
func (r rule) fromAnswering(not bool) rule {
	s := anonSet{keyType: typeInetService, keyLen: 2}
	for _, p := range answeringPorts {
		s.elements = append(s.elements, anonElement{key: binary.BigEndian.AppendUint16(nil, p)})
	}
	r = r.load(expr.PayloadBaseTransportHeader, 0, 2).with(&expr.Lookup{SourceRegister: 1, SetName: anonSetName, Invert: not})
	r.anon = append(r.anon[:len(r.anon):len(r.anon)], s)
	return r
}

// neighbourDiscovery matches router and neighbour solicitations and advertisements of the link (RFC 4861).
func (r rule) neighbourDiscovery() rule {
	s := anonSet{keyType: typeICMP6Type, keyLen: 1}
	for typ := byte(133); typ <= 136; typ++ {
		s.elements = append(s.elements, anonElement{key: []byte{typ}})
	}
	return r.network(true).protocol(unix.IPPROTO_ICMPV6).load(expr.PayloadBaseTransportHeader, 0, 1).inAnon(s).
		load(expr.PayloadBaseNetworkHeader, 7, 1).equals(255)
}

// dhcpReply matches replies of a DHCP server, without which this host would lose its address.
func (r rule) dhcpReply(v6 bool) rule {
	server, client := uint16(67), uint16(68)
	if v6 {
		server, client = 547, 546
	}
	return r.protocol(unix.IPPROTO_UDP).load(expr.PayloadBaseTransportHeader, 0, 4).
		equals(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, server), client)...)
}

// encode returns the rule's expressions in netlink form. Its anonymous sets are numbered from firstID.
func (r rule) encode(firstID uint32) (nfnl.Attrs, error) {
	var list nfnl.Attrs
	for _, e := range r.exprs {
		if l, ok := e.(*expr.Lookup); ok && (l.SetName == anonSetName || l.SetName == anonMapName) {
			numbered := *l
			numbered.SetID = firstID
			firstID++
			e = &numbered
		}
		b, err := expr.Marshal(unix.NFPROTO_INET, e)
		if err != nil {
			return nil, err
		}
		list.Bytes(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, b)
	}
	return list, nil
}

// fingerprint returns a fingerprint of the rule. Each rule in the kernel carries its own in user data that nft does not show. Rules
// cannot be changed, only replaced, so a rule with the right fingerprint is the right rule.
func (r rule) fingerprint() (uint64, error) {
	h := fnv.New64a()
	b, err := r.encode(0)
	if err != nil {
		return 0, err
	}
	h.Write(b)
	for _, s := range r.anon {
		for _, e := range s.elements {
			h.Write(e.key)
			h.Write([]byte(e.goTo))
		}
	}
	return h.Sum64(), nil
}
