package nftset

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"mef/internal/conf"
	"mef/internal/event"
	"mef/internal/exempt"
	"mef/internal/netlink/nflog"
	"mef/internal/prefixset"
)

// The flood guard limits what one source may do at one TCP port: packets a second that open a connection, new connections a second,
// and connections at a time. It drops only packets that open a connection, so established connections are not affected.
//
// Its chain is in prerouting, after connection tracking, which counts the connections, and before DNAT, so that the port is the one that
// the client addressed. A set that forged sources have filled accepts no new keys: its rule does not match for them, and those in it stay
// limited. A source and port are reported once in episodeTime.

const (
	guardPriority = -150 // conntrack is -200, DNAT -100
	episodeTime   = 30
	rateTime      = 5 // seconds after which a silent source is forgotten
	guardSetSize  = 65536
	episodeSize   = 16384
)

// floodMetrics returns the quantities that the guard limits, in the order of their rules.
func floodMetrics() []floodMetric {
	return []floodMetric{
		{"syn", event.FloodSYN, false, func(l conf.FloodLimits) expr.Any { return limitOver(uint64(l.SYNRate), uint32(l.SYNBurst)) }},
		{"new", event.FloodNew, true, func(l conf.FloodLimits) expr.Any { return limitOver(uint64(l.NewRate), uint32(l.NewBurst)) }},
		{"conn", event.FloodConns, true, func(l conf.FloodLimits) expr.Any {
			return &expr.Connlimit{Count: uint32(l.Conns), Flags: connlimitOver}
		}},
	}
}

type floodMetric struct {
	name    string
	mark    string
	tracked bool // needs connection tracking
	limit   func(conf.FloodLimits) expr.Any
}

const connlimitOver = 1 // NFT_CONNLIMIT_F_INV

func floodPart(s tableSpec) part {
	p := part{wanted: func(s tableSpec) bool { return s.flood.Enabled }, rules: tableSpec.floodRules,
		chains: []chain{{"guard", &hook{unix.NF_INET_PRE_ROUTING, guardPriority}}}}
	for _, v6 := range []bool{false, true} {
		f := familyName(v6)
		for _, m := range floodMetrics() {
			of := set{name: "flood_" + m.name + f, v6: v6, with: addressAndPort, dynamic: true, timeout: true, size: guardSetSize, lasting: rateTime}
			if m.mark == event.FloodConns {
				of.timeout, of.lasting = false, 0 // its elements end with the connections
			}
			p.sets = append(p.sets, of)
			p.chains = append(p.chains, chain{"over_" + m.name + f, nil})
		}
		p.sets = append(p.sets,
			set{name: "flood_reported" + f, v6: v6, with: addressAndPort, dynamic: true, timeout: true, size: episodeSize, lasting: episodeTime},
			set{name: "flood_src" + f, v6: v6, dynamic: true, timeout: true, size: episodeSize, lasting: uint32(max(time.Second, s.flood.Stage1) / time.Second)})
		p.chains = append(p.chains, chain{"guard" + f, nil})
	}
	return p
}

func (s tableSpec) floodRules() []rule {
	accept := func(r rule) rule { return r.verdict(expr.VerdictAccept) }
	in := newRule("guard")
	rules := []rule{
		accept(in.ifLoopback(expr.MetaKeyIIF)),
		accept(in.noneOf([]byte{unix.IPPROTO_TCP})),
		accept(in.protocol(unix.IPPROTO_TCP).load(expr.PayloadBaseTransportHeader, 13, 1).with(
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{tcpFIN | tcpSYN | tcpRST | tcpACK}, Xor: []byte{0}},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{tcpSYN}})),
		accept(in.with(
			&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)})),
	}
	for _, v6 := range []bool{false, true} {
		f := familyName(v6)
		rules = append(rules,
			accept(in.inSet(directions[0], v6, addrBits(v6), "allow"+f)),
			accept(in.inSet(directions[0], v6, graceBits(v6), "grace"+f)))
		if own := familyRanges(s.proxies, v6); len(own) > 0 {
			rules = append(rules, accept(in.fromRanges(v6, own)))
		}
		if cdns := familyRanges(s.cdns, v6); len(cdns) > 0 {
			web := in.protocol(unix.IPPROTO_TCP).port(directions[0], exempt.WebPorts.Ranges())
			rules = append(rules, accept(web.fromRanges(v6, cdns)))
		}
	}
	rules = append(rules, in.byFamily("guard4", "guard6"))
	for _, v6 := range []bool{false, true} {
		rules = append(rules, s.floodFamilyRules(v6)...)
	}
	return rules
}

func (s tableSpec) floodFamilyRules(v6 bool) (rules []rule) {
	f := familyName(v6)
	guard := newRule("guard" + f)
	ports := func(r rule, g conf.FloodGroup) rule {
		if r = r.protocol(unix.IPPROTO_TCP); g.Ports != "" {
			r = r.port(directions[0], g.Ports.Ranges())
		}
		return r
	}
	groups := s.flood.Groups()
	if s.flood.Mode == conf.FloodDrop {
		for _, g := range groups {
			rules = append(rules, ports(guard, g).source(v6).inNamed(register1, "flood_src"+f).verdict(expr.VerdictDrop))
		}
	}
	for _, g := range groups {
		for _, m := range floodMetrics() {
			r := ports(guard, g)
			if m.tracked {
				r = r.newConnection()
			}
			r = r.sourceAndPort(v6)
			if m.mark == event.FloodConns {
				r = r.adds(register1, "flood_"+m.name+f, m.limit(g.Limits))
			} else { // otherwise a source that goes on would get its burst again every rateTime
				r = r.updates(register1, "flood_"+m.name+f, m.limit(g.Limits))
			}
			rules = append(rules, r.with(&expr.Verdict{Kind: expr.VerdictGoto, Chain: "over_" + m.name + f}))
		}
	}
	end := expr.VerdictDrop
	if s.flood.Mode == conf.FloodDetect {
		end = expr.VerdictAccept
	}
	for _, m := range floodMetrics() {
		over := newRule("over_" + m.name + f)
		if s.flood.Mode == conf.FloodDrop {
			rules = append(rules, over.source(v6).adds(register1, "flood_src"+f))
		}
		rules = append(rules,
			over.sourceAndPort(v6).inNamed(register1, "flood_reported"+f).verdict(end),
			over.sourceAndPort(v6).adds(register1, "flood_reported"+f).report(m.mark),
			over.verdict(end))
	}
	return rules
}

// familyRanges returns the ranges of a set that are of a family.
func familyRanges(set prefixset.Set, v6 bool) []prefixset.Range {
	return slices.DeleteFunc(slices.Clone(set.Ranges()), func(r prefixset.Range) bool { return r.First.Is6() != v6 })
}

// fromRanges matches packets whose source is in one of some ascending ranges of addresses.
func (r rule) fromRanges(v6 bool, ranges []prefixset.Range) rule {
	s := anonSet{keyType: typeIPAddr, keyLen: 4, interval: true}
	offset := uint32(12)
	if v6 {
		s.keyType, s.keyLen, offset = typeIP6Addr, 16, 8
	}
	for _, a := range ranges {
		s.elements = append(s.elements, anonElement{key: a.First.AsSlice()})
		if next := a.Last.Next(); next.IsValid() {
			s.elements = append(s.elements, anonElement{key: next.AsSlice(), end: true})
		}
	}
	return r.network(v6).load(expr.PayloadBaseNetworkHeader, offset, s.keyLen).inAnon(s)
}

// newConnection matches packets that begin a connection according to connection tracking.
func (r rule) newConnection() rule {
	const stateNew = 8 // NF_CT_STATE_BIT(IP_CT_NEW)
	return r.with(
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binary.NativeEndian.AppendUint32(nil, stateNew), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)})
}

// report sends the packet to the daemon's NFLOG group.
func (r rule) report(mark string) rule { return r.reportTo(LogGroup, mark) }

func (r rule) reportTo(group uint16, mark string) rule {
	return r.with(&expr.Log{
		Key:     1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_PREFIX | 1<<unix.NFTA_LOG_SNAPLEN,
		Group:   group,
		Data:    []byte(mark),
		Snaplen: nflog.Snaplen,
	})
}
