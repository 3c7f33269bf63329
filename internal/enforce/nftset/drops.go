package nftset

import (
	"encoding/binary"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/enforce"
	"mef/internal/event"
)

// When drops are logged or sampled, packets that a ban or list catches go to a short chain, which logs and reports some of them and drops all:
//
//	chain drop_ban {
//		limit rate 25/second burst 50 packets log prefix "ban" group 4243 snaplen 128 limit rate 1/second burst 5 packets log prefix "MEF_BAN "
//		drop
//	}
//
// Most packets of a flood cost one limit: what is logged is one of the samples, which are as many as the log may have if that is more. The limits are in these chains because a rule that looks up a set must not have one: the look-up counts in the ban. Verified and
// unverified bans have separate chains and limits: forged packets must not use up the lines and samples of real attackers. Replies and lists
// have chains for their samples; only what comes in is logged.

func dropChain(trust ban.Class) string {
	if trust == ban.Unverified {
		return "drop_susp"
	}
	return "drop_ban"
}

// The chains of what no ban drops, or what goes out. logListChain is for what comes in, if that is logged.
const (
	dropReplyChain = "drop_reply"
	dropListChain  = "drop_list"
	logListChain   = "log_list"
)

// dropWord follows the prefix in a logged line.
func dropWord(trust ban.Class) string {
	if trust == ban.Unverified {
		return "SUSP "
	}
	return "BAN "
}

func (r rule) goTo(chain string) rule {
	return r.with(&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain})
}

// drop ends a rule that matches packets of banned peers.
func (s tableSpec) drop(r rule, trust ban.Class) rule {
	if s.log.Enabled || s.samples {
		return r.goTo(dropChain(trust))
	}
	return r.verdict(expr.VerdictDrop)
}

// dropSampled ends a rule that drops for a cause without logging: replies, and what goes to addresses of lists.
func (s tableSpec) dropSampled(r rule, cause string) rule {
	switch {
	case !s.samples:
		return r.verdict(expr.VerdictDrop)
	case cause == event.DroppedList:
		return r.goTo(dropListChain)
	}
	return r.goTo(dropReplyChain)
}

// dropListed ends a rule that matches packets from addresses of a list.
func (s tableSpec) dropListed(r rule) rule {
	switch {
	case s.log.Enabled && s.samples:
		return r.goTo(logListChain)
	case s.log.Enabled:
		return r.goTo(dropChain(ban.Verified))
	}
	return s.dropSampled(r, event.DroppedList)
}

// logPart has the chains that log or sample what bans drop, and drop it.
func logPart() part {
	return part{wanted: func(s tableSpec) bool { return s.log.Enabled || s.samples }, rules: tableSpec.logRules,
		chains: []chain{{dropChain(ban.Verified), nil}, {dropChain(ban.Unverified), nil}}}
}

func (s tableSpec) logRules() (rules []rule) {
	for _, trust := range []ban.Class{ban.Verified, ban.Unverified} {
		r, cause := newRule(dropChain(trust)), event.DroppedBan
		if trust == ban.Unverified {
			cause = event.DroppedUnverified
		}
		rules = append(rules, s.logAndSample(r, dropWord(trust), cause), r.verdict(expr.VerdictDrop))
	}
	return rules
}

// logAndSample logs some packets, and reports samples of them, if that is wanted.
func (s tableSpec) logAndSample(r rule, word, cause string) rule {
	if s.samples {
		rate, burst := enforce.SampleRate, enforce.SampleBurst
		if s.log.Enabled {
			rate, burst = max(rate, s.log.Rate), max(burst, s.log.Burst)
		}
		r = r.sample(cause, rate, burst)
	}
	if s.log.Enabled {
		r = r.log(s.log, word)
	}
	return r
}

// samplePart has the other chains that sample.
func samplePart() part {
	return part{wanted: func(s tableSpec) bool { return s.samples }, rules: tableSpec.sampleRules,
		chains: []chain{{dropReplyChain, nil}, {dropListChain, nil}, {logListChain, nil}}}
}

func (s tableSpec) sampleRules() []rule {
	reply, list, logged := newRule(dropReplyChain), newRule(dropListChain), newRule(logListChain)
	return []rule{
		reply.sample(event.DroppedReply, enforce.SampleRate, enforce.SampleBurst), reply.verdict(expr.VerdictDrop),
		list.sample(event.DroppedList, enforce.SampleRate, enforce.SampleBurst), list.verdict(expr.VerdictDrop),
		s.logAndSample(logged, dropWord(ban.Verified), event.DroppedList), logged.verdict(expr.VerdictDrop)}
}

// sample reports packets that are dropped for a cause, up to a rate.
func (r rule) sample(cause string, rate, burst int) rule {
	return r.with(&expr.Limit{Type: expr.LimitTypePkts, Rate: uint64(rate), Unit: expr.LimitTimeSecond, Burst: uint32(burst)}).
		reportTo(enforce.SampleGroup, cause)
}

// probeSamples is probeScan for samples of dropped packets.
func probeSamples(c *conn) (lacks string, err error) {
	return c.probePieces([]piece{
		{"nft_limit", newRule("tried").over(1, 1)},
		{"nft_log and nfnetlink_log", newRule("tried").reportTo(enforce.SampleGroup, event.DroppedBan)}})
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

// The page part sends the clients of verified bans of some ports, if port 80 or 443 of this host is one of them, to other ports, where they
// are told that they are banned. It changes the port of their packets before connection tracking, and back in those of the answers after it, so
// it needs no address translation, and connection tracking, policies and the socket see one connection, to the port of the page. No packet of
// a banned client reaches a web server: one of a connection that was open before is answered by a reset, as no socket at the page's port has it.
// Packets to other hosts are dropped as without a page, and nobody else reaches the page's ports from another host. So are packets of which
// the kernel sees no complete TCP header, such as a fragment where nothing defragments: their port cannot be changed.
//
// Without a port for TLS, a connection to port 443 is reset: the browser then says at once that it cannot connect, or tries http.
//
// Only bans of some ports lead to the page: the chains page4 and page6 drop the packets of sources that are also banned on all ports, by the
// ban of a network, or listed. Those chains have a rule for each kind of such bans.
//
// A flood cannot use up the page: a source (IPv6: a /64) that opens more than pageRate connections a second, or sends more than pagePacket
// packets, is dropped until it has been silent for pagePause, and then spends nothing of what all sources share: pageRates connections and
// pagePackets packets. What is over is dropped, as without a page. A full set accepts no new source, whose packets are then limited by the sum
// alone.
//
// mef.rules and other policies have to accept the ports of the page.

const (
	pageRate, pageBurst       = 2, 20
	pagePacket, pagePktBurst  = 100, 300
	pageRates, pageBursts     = 100, 200
	pagePackets               = 5000 // a second, and the burst
	pageTime                  = 60   // seconds after which a silent source is forgotten; longer than its burst takes to come back
	pagePause                 = 10   // seconds
	webPort, tlsPort          = 80, 443
	pageOutPriority           = 300 // in output, after connection tracking (-200), address translation (-100) and policies (0)
	tcpSource, tcpDest        = 0, 2
	tcpSequence, tcpFlags     = 4, 13
	tcpChecksum               = 16
	pageOutput, pageStop      = "page_out", "page_stop"
	pageSrc, pagePkt, pageOff = "page_src", "page_pkt", "page_off" // sets, by family
)

func pageChain(v6 bool) string { return "page" + familyName(v6) }

func pagePart() part {
	p := part{wanted: func(s tableSpec) bool { return s.page.HTTP != 0 }, rules: tableSpec.pageRules,
		chains: []chain{{"page", nil}, {pageStop, nil}, {pageOutput, &hook{unix.NF_INET_LOCAL_OUT, pageOutPriority}}}}
	for _, v6 := range []bool{false, true} {
		p.chains = append(p.chains, chain{pageChain(v6), nil})
		for _, name := range []string{pageSrc, pagePkt, pageOff} {
			of := set{name: name + familyName(v6), v6: v6, timeout: true, dynamic: true, size: guardSetSize, lasting: pageTime}
			if name == pageOff {
				of.lasting = pagePause
			}
			p.sets = append(p.sets, of)
		}
	}
	return p
}

// pageRedirect is the change of a port.
type pageRedirect struct{ from, to uint16 }

// redirects returns which ports are changed for the page.
func (s tableSpec) redirects() []pageRedirect {
	all := []pageRedirect{{webPort, s.page.HTTP}}
	if s.page.TLS != 0 {
		all = append(all, pageRedirect{tlsPort, s.page.TLS})
	}
	return all
}

// pagedPorts returns the ports of a kind's bans at which clients are sent to the page.
func (c setKind) pagedPorts() (all []ban.PortRange) {
	if c.trust != ban.Verified || c.ports == "" {
		return nil
	}
	for _, port := range []uint16{webPort, tlsPort} {
		if c.ports.Lists(port) {
			all = append(all, ban.PortRange{First: port, Last: port})
		}
	}
	return all
}

// kindPageRules returns the rules of a kind that the page needs. Those that lead to it come before the one that drops.
func (s tableSpec) kindPageRules(c setKind) (rules []rule) {
	in := directions[0]
	if ports := c.pagedPorts(); len(ports) > 0 {
		rules = append(rules, newRule(in.chainOf(c)).protocol(unix.IPPROTO_TCP).port(in, ports).inSet(in, c.v6, c.bits, c.set()).
			with(&expr.Verdict{Kind: expr.VerdictGoto, Chain: "page"}))
	}
	if c.ports == "" && c.bits < addrBits(c.v6) { // bans of addresses come before all that lead to the page
		r := newRule(pageChain(c.v6))
		if c.trust == ban.Unverified {
			r = r.protocol(unix.IPPROTO_TCP).opensTCP()
		}
		rules = append(rules, s.drop(r.inSet(in, c.v6, c.bits, c.set()).counter(dropCounter(c.trust)), c.trust))
	}
	return rules
}

// notToPage drops what other hosts send to the page's ports themselves.
func (s tableSpec) notToPage() (rules []rule) {
	for _, p := range s.redirects() {
		rules = append(rules, newRule("ban").protocol(unix.IPPROTO_TCP).tcpPort(tcpDest, p.to).toHost(true).verdict(expr.VerdictDrop))
	}
	return rules
}

// pageAnswers accept the answers of the page, and the resets at port 443: those to a segment with SYN alone have the sequence number 0.
func (s tableSpec) pageAnswers() (rules []rule) {
	r := newRule("reply_out").protocol(unix.IPPROTO_TCP)
	for _, p := range s.redirects() {
		rules = append(rules, r.tcpPort(tcpSource, p.to).verdict(expr.VerdictAccept))
	}
	if s.pageResets() {
		const rst, ack = 0x04, 0x10
		rules = append(rules, r.tcpPort(tcpSource, tlsPort).load(expr.PayloadBaseTransportHeader, tcpSequence, 4).equals(0, 0, 0, 0).
			load(expr.PayloadBaseTransportHeader, tcpFlags, 1).equals(rst|ack).verdict(expr.VerdictAccept))
	}
	return rules
}

// pageResets reports whether connections to port 443 are reset.
func (s tableSpec) pageResets() bool { return s.page.TLS == 0 && s.resets }

func (s tableSpec) pageRules() (rules []rule) {
	page, out := newRule("page"), newRule(pageOutput)
	drop := func(r rule) {
		rules = append(rules, r.counter(dropCounter(ban.Verified)).verdict(expr.VerdictDrop))
	}
	tcp := page.protocol(unix.IPPROTO_TCP)
	drop(page.toHost(false))
	for _, v6 := range []bool{false, true} {
		f := familyName(v6)
		stop := &expr.Verdict{Kind: expr.VerdictGoto, Chain: pageStop}
		drop(page.source(v6).inNamed(register1, pageOff+f).updates(register1, pageOff+f))
		rules = append(rules,
			page.network(v6).protocol(unix.IPPROTO_TCP).opensTCP().source(v6).updates(register1, pageSrc+f, limitOver(pageRate, pageBurst)).with(stop),
			page.source(v6).updates(register1, pagePkt+f, limitOver(pagePacket, pagePktBurst)).with(stop),
			page.network(v6).with(&expr.Verdict{Kind: expr.VerdictJump, Chain: pageChain(v6)}),
			newRule(pageStop).source(v6).adds(register1, pageOff+f))

		// A list of all ports drops here too; see listGates. What is excepted from the ban of a network is for the page.
		also := newRule(pageChain(v6))
		rules = append(rules,
			also.with(&expr.Verdict{Kind: expr.VerdictJump, Chain: listBothChain(v6)}),
			also.protocol(unix.IPPROTO_TCP).opensTCP().with(&expr.Verdict{Kind: expr.VerdictJump, Chain: listChain(v6)}),
			also.inSet(directions[0], v6, addrBits(v6), "except"+f).verdict(expr.VerdictReturn))
	}
	drop(newRule(pageStop))
	drop(tcp.opensTCP().over(pageRates, pageBursts))
	drop(page.over(pagePackets, pagePackets))
	if s.pageResets() {
		rules = append(rules, tcp.opensTCP().tcpPort(tcpDest, tlsPort).with(&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}))
	}
	rules = append(rules, out.ifLoopback(expr.MetaKeyOIF).verdict(expr.VerdictAccept))
	for _, p := range s.redirects() {
		rules = append(rules, tcp.tcpPort(tcpDest, p.from).setTCPPort(tcpDest, p.to).verdict(expr.VerdictAccept),
			out.protocol(unix.IPPROTO_TCP).tcpPort(tcpSource, p.to).setTCPPort(tcpSource, p.from).verdict(expr.VerdictAccept))
	}
	drop(page)
	return rules
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

// probePage is probeScan for the page. resets reports whether the kernel can reset connections before it routes their packets (Linux 5.9).
func probePage(c *conn) (lacks string, resets bool, err error) {
	lacks, err = c.probePieces([]piece{
		{"nft_limit", newRule("tried").over(1, 1)},
		{"nft_dynset", newRule("tried").source(false).updates(register1, "tried", limitOver(1, 1))},
		{"nft_fib_inet", newRule("tried").toHost(true)},
		{"nft_payload", newRule("tried").setTCPPort(tcpDest, webPort)},
	})
	if err != nil || lacks != "" {
		return lacks, false, err
	}
	// The kernel checks the hook only of chains that have one. No packet is of both families.
	var t tx
	t.removeTable(probeTable)
	t.addTable(probeTable)
	t.addChain(probeTable, chain{"tried", &hook{unix.NF_INET_PRE_ROUTING, bansPriority}})
	err = t.addRule(probeTable, newRule("tried").network(false).network(true).protocol(unix.IPPROTO_TCP).with(&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}))
	if err == nil {
		err = c.commit(&t)
	}
	return "", err == nil, nil
}
