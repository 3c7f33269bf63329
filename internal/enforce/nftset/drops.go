package nftset

import (
	"encoding/binary"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"mef/internal/ban"
	"mef/internal/conf"
)

// When drops are logged, packets that a ban catches go to one of two short chains, which log some of them and drop all:
//
//	chain drop_ban {
//		limit rate 1/second burst 5 packets log prefix "MEF_BAN "
//		drop
//	}
//
// The limit is in these chains because a rule that looks up a set must not have one: the look-up counts in the ban. Verified and
// unverified bans have separate chains and limits: forged packets must not use up the lines of real attackers.

func dropChain(trust ban.Class) string {
	if trust == ban.Unverified {
		return "drop_susp"
	}
	return "drop_ban"
}

// dropWord follows the prefix in a logged line.
func dropWord(trust ban.Class) string {
	if trust == ban.Unverified {
		return "SUSP "
	}
	return "BAN "
}

// drop ends a rule that matches packets of banned peers.
func (s tableSpec) drop(r rule, trust ban.Class) rule {
	if s.log.Enabled {
		return r.with(&expr.Verdict{Kind: expr.VerdictGoto, Chain: dropChain(trust)})
	}
	return r.verdict(expr.VerdictDrop)
}

// logRules returns the rules of the chains that log and drop.
func (s tableSpec) logRules() (rules []rule) {
	for _, trust := range []ban.Class{ban.Verified, ban.Unverified} {
		chain := dropChain(trust)
		rules = append(rules, newRule(chain).log(s.log, dropWord(trust)), newRule(chain).verdict(expr.VerdictDrop))
	}
	return rules
}

// log writes a line to the kernel log, up to the configured rate.
func (r rule) log(to conf.DropLog, word string) rule {
	return r.with(
		&expr.Limit{Type: expr.LimitTypePkts, Rate: uint64(to.Rate), Unit: expr.LimitTimeSecond, Burst: uint32(to.Burst)},
		&expr.Log{
			Key:   1<<unix.NFTA_LOG_PREFIX | 1<<unix.NFTA_LOG_LEVEL,
			Data:  []byte(to.Prefix + word), // the kernel accepts 127 bytes; the configuration accepts 64
			Level: logLevels[to.Level],
		})
}

// logLevels are the levels by their names in nft and in the configuration.
var logLevels = map[string]expr.LogLevel{
	"emerg":  expr.LogLevelEmerg,
	"alert":  expr.LogLevelAlert,
	"crit":   expr.LogLevelCrit,
	"err":    expr.LogLevelErr,
	"warn":   expr.LogLevelWarning,
	"notice": expr.LogLevelNotice,
	"info":   expr.LogLevelInfo,
	"debug":  expr.LogLevelDebug,
}

// The page part sends the clients of verified bans of some ports, if port 80 of this host is one of them, to another port, where they are
// told that they are banned. It changes the port of their packets before connection tracking, and back in those of the answers after it, so
// it needs no address translation, and connection tracking, policies and the socket see one connection, to the port of the page. No packet of
// a banned client reaches port 80: one of a connection that was open before is answered by a reset, as no socket at the page's port has it.
// Packets to other hosts are dropped as without a page, and nobody else reaches the page's port from another host.
//
// A flood cannot use up the page: each source (IPv6: /64) may open pageRate connections a second, all together pageRates, and all packets
// together are limited. What is over is dropped, as without a page. A full set accepts no new source, whose connections are then limited by the sum alone.
//
// mef.rules and other policies have to accept the port of the page.

const (
	pageRate, pageBurst     = 5, 20
	pageRates, pageBursts   = 100, 200
	pagePackets             = 5000 // a second, and the burst
	pageTime                = 60   // seconds after which a silent source is forgotten; longer than its burst takes to come back
	webPort                 = 80
	pageOutPriority         = 300 // in output, after connection tracking (-200), address translation (-100) and policies (0)
	tcpSource, tcpDest      = 0, 2
	tcpChecksum, pageOutput = 16, "page_out"
)

func pagePart() part {
	p := part{wanted: func(s tableSpec) bool { return s.page != 0 }, rules: tableSpec.pageRules,
		chains: []chain{{"page", nil}, {pageOutput, &hook{unix.NF_INET_LOCAL_OUT, pageOutPriority}}}}
	for _, v6 := range []bool{false, true} {
		p.sets = append(p.sets, set{name: "page_src" + familyName(v6), v6: v6, timeout: true, dynamic: true, size: guardSetSize, lasting: pageTime})
	}
	return p
}

// paged reports whether clients of bans of this kind are sent to the page.
func (c setKind) paged() bool {
	return c.trust == ban.Verified && c.ports != "" && within(c.ports.Ranges(), webPort)
}

// toPage sends packets of the banned to port 80 to the chain that changes their port. It comes before the rule that drops.
func toPage(c setKind) rule {
	in := directions[0]
	return newRule(in.chainOf(c)).protocol(unix.IPPROTO_TCP).tcpPort(tcpDest, webPort).inSet(in, c.v6, c.bits, c.set()).
		with(&expr.Verdict{Kind: expr.VerdictGoto, Chain: "page"})
}

// notToPage drops what other hosts send to the page's port itself.
func (s tableSpec) notToPage() rule {
	return newRule("ban").protocol(unix.IPPROTO_TCP).tcpPort(tcpDest, s.page).toHost(true).verdict(expr.VerdictDrop)
}

// fromPage matches the answers of the page.
func (s tableSpec) fromPage(chain string) rule {
	return newRule(chain).protocol(unix.IPPROTO_TCP).tcpPort(tcpSource, s.page)
}

func (s tableSpec) pageRules() (rules []rule) {
	page := newRule("page")
	rules = append(rules, page.toHost(false).verdict(expr.VerdictDrop))
	for _, v6 := range []bool{false, true} {
		opens := page.network(v6).protocol(unix.IPPROTO_TCP).opensTCP()
		rules = append(rules, opens.source(v6).updates(register1, "page_src"+familyName(v6), limitOver(pageRate, pageBurst)).verdict(expr.VerdictDrop))
	}
	return append(rules,
		page.protocol(unix.IPPROTO_TCP).opensTCP().over(pageRates, pageBursts).verdict(expr.VerdictDrop),
		page.over(pagePackets, pagePackets).verdict(expr.VerdictDrop),
		page.setTCPPort(tcpDest, s.page).verdict(expr.VerdictAccept),
		newRule(pageOutput).ifLoopback(expr.MetaKeyOIF).verdict(expr.VerdictAccept),
		s.fromPage(pageOutput).setTCPPort(tcpSource, webPort))
}

// tcpPort matches a port at an offset of a TCP header.
func (r rule) tcpPort(offset uint32, port uint16) rule {
	return r.load(expr.PayloadBaseTransportHeader, offset, 2).equals(binary.BigEndian.AppendUint16(nil, port)...)
}

// setTCPPort changes a port at an offset of a TCP header.
func (r rule) setTCPPort(offset uint32, port uint16) rule {
	return r.protocol(unix.IPPROTO_TCP).with(
		&expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, port)},
		&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2,
			CsumType: expr.CsumTypeInet, CsumOffset: tcpChecksum})
}

// toHost matches packets to addresses of this host, or to others.
func (r rule) toHost(own bool) rule {
	op := expr.CmpOpNeq
	if own {
		op = expr.CmpOpEq
	}
	return r.with(
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: op, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)})
}

// probePage is probeScan for the page.
func probePage(c *conn) (lacks string, err error) {
	return c.probePieces([]piece{
		{"nft_limit", newRule("tried").over(1, 1)},
		{"nft_dynset", newRule("tried").source(false).updates(register1, "tried", limitOver(1, 1))},
		{"nft_fib_inet", newRule("tried").toHost(true)},
		{"nft_payload", newRule("tried").setTCPPort(tcpDest, webPort)},
	})
}
