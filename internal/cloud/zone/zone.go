// Package zone answers whether addresses are listed as a DNS block list (RFC 5782).
//
// To ask about 192.0.2.7, its numbers are reversed in front of the zone: an A record of 7.2.0.192.bl.example means that the address is listed. Its last byte
// says why: 2 for each listing, and 4 for attacks on logins, 5 on the web, 6 on mail, 7 for scans. A TXT record says more. IPv6 addresses
// are reversed by hexadecimal digit; they are listed by their /64. 127.0.0.2 and ::ffff:127.0.0.2 are always listed, 127.0.0.1 never.
//
// Answers to questions of the usual form are made without an allocation from an Index in memory; package dns answers all others, and TCP. Only
// names of the zone are answered, no answer is longer than 512 bytes, and each network has a limit: every second answer beyond it is
// a short one that has the client use TCP, which cannot be forged, and there an answer of 127.255.255.255 says that there are too many queries.
package zone

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"

	"mef/internal/cloud/limit"
)

const (
	perSecond = 200 // queries of a network
	burst     = 1000
	// maxZone keeps all answers within 512 bytes, which every client takes.
	maxZone     = 64
	maxConns    = 256 // over TCP
	maxConnsNet = 16
	tcpTime     = 5 * time.Second // for one query, and between two
	tcpQueries  = 1000            // of a connection
	// mostFailures is how often in a row a socket may fail: an error can be of one client.
	mostFailures = 100
)

var testListed = netip.AddrFrom4([4]byte{127, 0, 0, 2})

// Options of a Zone.
type Options struct {
	Zone   string // its name
	Listen string // HOST:PORT for UDP and TCP
	Server string // HOST:PORT of the community server: the name server, and where the page about an address is
	Index  *Index
}

// A Zone answers queries. It must be closed, or run.
type Zone struct {
	name     string // with a dot at its end
	host     string // the name server
	index    *Index
	page     []byte // what stands before an address in the URL of its page
	wire     []byte // the name as packets have it
	soa      []byte // data of the SOA record, without compression
	serialAt int    // where the serial number is in it
	rate     *limit.Rate
	udp      []*net.UDPConn
	tcp      net.Listener
}

// Open listens.
func Open(opt Options) (_ *Zone, err error) {
	z, err := newZone(opt)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			z.Close()
		}
	}()
	if err := z.listen(opt.Listen); err != nil {
		return nil, fmt.Errorf("dns: %w", err)
	}
	return z, nil
}

func newZone(opt Options) (*Zone, error) {
	z := &Zone{name: dns.CanonicalName(opt.Zone), index: opt.Index, rate: limit.NewRate(perSecond, burst, time.Now())}
	if _, ok := dns.IsDomainName(z.name); !ok || dns.CountLabel(z.name) < 2 || len(z.name) > maxZone || strings.Trim(z.name, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "" {
		return nil, fmt.Errorf("%q is not the name of a zone; write one of at most %d characters, such as bl.example.org", opt.Zone, maxZone-1)
	}
	host, _, err := net.SplitHostPort(opt.Server)
	if err != nil {
		return nil, err
	}
	z.host = dns.CanonicalName(host)
	if _, ok := dns.IsDomainName(z.host); !ok || net.ParseIP(host) != nil || len(z.host) > maxZone {
		z.host = z.name // there must be some name
	}
	if len(opt.Server) <= maxZone {
		z.page = []byte("https://" + opt.Server + "/ip/")
	}
	if z.wire, err = packName(z.name); err != nil {
		return nil, err
	}
	mname, err := packName(z.host)
	if err != nil {
		return nil, err
	}
	rname, err := packName("hostmaster." + z.name)
	if err != nil {
		return nil, err
	}
	z.soa = append(mname, rname...)
	z.serialAt = len(z.soa)
	for _, n := range []uint32{0, 3600, 600, 86400, ttlUnlisted} {
		z.soa = append(z.soa, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
	return z, nil
}

func packName(name string) ([]byte, error) {
	buf := make([]byte, maxName+1)
	n, err := dns.PackDomainName(name, buf, 0, nil, false)
	return buf[:n], err
}

// listen opens a UDP socket for each processor, among which the kernel spreads clients, and one for TCP.
func (z *Zone) listen(addr string) (err error) {
	// SO_REUSEPORT, which package syscall lacks. The first socket has it too, so a second server of the same user could take a part; the port is
	// therefore tried without it first.
	probe, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	addr = probe.LocalAddr().String()
	if err := probe.Close(); err != nil {
		return err
	}
	const reusePort = 15
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		return errors.Join(c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, reusePort, 1) }), err)
	}}
	for range runtime.GOMAXPROCS(0) {
		conn, err := lc.ListenPacket(context.Background(), "udp", addr)
		if err != nil {
			return err
		}
		udp := conn.(*net.UDPConn)
		_ = udp.SetReadBuffer(1 << 20) // the kernel may allow less
		z.udp = append(z.udp, udp)
	}
	tcp, err := net.Listen("tcp", addr)
	if err == nil {
		z.tcp = limit.Listener(tcp, maxConns, maxConnsNet)
	}
	return err
}

// Addr returns the address of both UDP and TCP.
func (z *Zone) Addr() net.Addr { return z.tcp.Addr() }

// Close closes all sockets.
func (z *Zone) Close() {
	for _, c := range z.udp {
		c.Close()
	}
	if z.tcp != nil {
		z.tcp.Close()
	}
}

// Run answers until ctx is done.
func (z *Zone) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, c := range z.udp {
		g.Go(func() error { return z.serve(c) })
	}
	stream := &dns.Server{Listener: z.tcp, Handler: dns.HandlerFunc(z.overTCP), ReadTimeout: tcpTime, WriteTimeout: tcpTime,
		IdleTimeout: func() time.Duration { return tcpTime }, MaxTCPQueries: tcpQueries}
	started := make(chan struct{})
	stream.NotifyStartedFunc = func() { close(started) }
	g.Go(func() error {
		if err := stream.ActivateAndServe(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		select {
		case <-started:
			_ = stream.Shutdown() // it was serving
		default:
		}
		z.Close()
		return nil
	})
	return g.Wait()
}

// serve answers the queries of one socket.
func (z *Zone) serve(c *net.UDPConn) error {
	in, err := newBatch(c)
	if err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	out := make([]byte, 0, maxUDP)
	limited, failures := 0, 0
	for {
		n, err := in.wait()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			if failures++; failures > mostFailures {
				return fmt.Errorf("dns: %w", err)
			}
			continue
		}
		failures = 0
		now := time.Now()
		for i := range n {
			p, from := in.packet(i)
			if len(p) > maxUDP || from.Port() == 0 || !from.Addr().IsValid() {
				continue
			}
			var reply []byte
			if z.allow(from.Addr(), now) {
				reply = z.reply(out, p, now)
			} else if limited++; limited%2 == 1 {
				// Every second client that was forged gets nothing, and a real one gets through.
				if q, ok := z.parse(p); ok {
					reply = z.truncated(out, p, q)
				}
			}
			if len(reply) > 0 {
				_, _ = c.WriteToUDPAddrPort(reply, from) // a client that cannot be reached asks again
			}
		}
	}
}

// allow reports whether a client may ask. Those of this machine may: forged packets do not come from there.
func (z *Zone) allow(from netip.Addr, now time.Time) bool {
	return from.Unmap().IsLoopback() || z.rate.Allow(from, now)
}

// reply returns the answer to a packet; it uses the space of out. Empty means none.
func (z *Zone) reply(out, p []byte, now time.Time) []byte {
	if q, ok := z.parse(p); ok {
		return z.answer(out[:0], p, q, now)
	}
	m, ok := z.unusual(p, now)
	if !ok {
		return nil
	}
	reply, err := m.PackBuffer(out[:cap(out)])
	if err != nil {
		return nil
	}
	return reply
}

// unusual answers a packet that is not of the usual form.
func (z *Zone) unusual(p []byte, now time.Time) (*dns.Msg, bool) {
	q := new(dns.Msg)
	if len(p) < headerLen || p[2]&flagQR != 0 { // an answer to an answer would go on forever
		return nil, false
	}
	if err := q.Unpack(p); err != nil {
		m := new(dns.Msg)
		m.Id, m.Response, m.Opcode, m.Rcode = uint16(p[0])<<8|uint16(p[1]), true, int(p[2]>>3&15), dns.RcodeFormatError
		return m, true
	}
	return z.respond(q, now), true
}

// respond answers any query.
func (z *Zone) respond(q *dns.Msg, now time.Time) *dns.Msg {
	m := new(dns.Msg)
	m.Id, m.Response, m.Opcode, m.RecursionDesired = q.Id, true, q.Opcode, q.RecursionDesired
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(maxUDP, false)
		if opt.Version() != 0 {
			m.Rcode = dns.RcodeBadVers
			return m
		}
	}
	switch {
	case q.Opcode != dns.OpcodeQuery:
		m.Rcode = dns.RcodeNotImplemented
		return m
	case len(q.Question) != 1 || len(q.Answer)+len(q.Ns) > 0:
		m.Rcode = dns.RcodeFormatError
		return m
	}
	ask := q.Question[0]
	m.Question = q.Question
	name := dns.CanonicalName(ask.Name)
	if ask.Qclass != dns.ClassINET || ask.Qtype >= 251 && ask.Qtype <= 255 || !dns.IsSubDomain(z.name, name) {
		m.Rcode = dns.RcodeRefused // ANY and transfers too (RFC 8482)
		return m
	}
	m.Authoritative = true
	within := name == z.name
	switch {
	case within && ask.Qtype == dns.TypeSOA:
		m.Answer = append(m.Answer, z.soaRecord())
	case within && ask.Qtype == dns.TypeNS:
		m.Answer = append(m.Answer, &dns.NS{Hdr: z.header(z.name, dns.TypeNS, 86400), Ns: z.host})
	case !within:
		addr, ok := parseName(strings.TrimSuffix(name, "."+z.name))
		within = ok
		if !addr.IsValid() {
			break
		}
		var info Info
		if info, within = z.lookup(addr); within {
			m.Answer = z.records(ask, addr, info, now)
		}
	}
	if len(m.Answer) == 0 {
		if !within {
			m.Rcode = dns.RcodeNameError
		}
		m.Ns = append(m.Ns, z.soaRecord())
	}
	return m
}

func (z *Zone) records(ask dns.Question, addr netip.Addr, info Info, now time.Time) (all []dns.RR) {
	hdr := z.header(ask.Name, ask.Qtype, remaining(info, now))
	switch ask.Qtype {
	case dns.TypeA:
		for _, code := range appendCodes(nil, info.Categories()) {
			all = append(all, &dns.A{Hdr: hdr, A: net.IPv4(127, 0, 0, code)})
		}
	case dns.TypeTXT:
		all = append(all, &dns.TXT{Hdr: hdr, Txt: []string{string(z.appendText(nil, addr, info))}})
	}
	return all
}

func (z *Zone) header(name string, kind uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: ttl}
}

func (z *Zone) soaRecord() dns.RR {
	return &dns.SOA{Hdr: z.header(z.name, dns.TypeSOA, ttlUnlisted), Ns: z.host, Mbox: "hostmaster." + z.name, Serial: z.index.serial.Load(),
		Refresh: 3600, Retry: 600, Expire: 86400, Minttl: ttlUnlisted}
}

// parseName reads the name of an address below the zone; within reports whether it is one or the end of one.
func parseName(name string) (addr netip.Addr, within bool) {
	var p []byte
	var starts []int
	for label := range strings.SplitSeq(name, ".") {
		if len(label) > 3 || len(label) == 0 || len(starts) == 32 {
			return addr, false
		}
		starts = append(starts, len(p))
		p = append(append(p, byte(len(label))), label...)
	}
	if len(starts) <= 4 {
		if addr, within = address4(p, starts); within {
			return addr, true
		}
	}
	return address6(p, starts)
}

// overTCP answers a query over TCP, whose client is certainly who it seems to be.
func (z *Zone) overTCP(w dns.ResponseWriter, q *dns.Msg) {
	now := time.Now()
	m := z.respond(q, now)
	from, _ := netip.ParseAddrPort(w.RemoteAddr().String())
	if len(q.Question) == 1 && m.Authoritative && !z.allow(from.Addr(), now) {
		m.Rcode, m.Answer, m.Ns = dns.RcodeSuccess, nil, nil
		if ask := q.Question[0]; ask.Qtype == dns.TypeTXT {
			m.Answer = []dns.RR{&dns.TXT{Hdr: z.header(ask.Name, dns.TypeTXT, ttlUnlisted), Txt: []string{"too many queries from this network"}}}
		} else if ask.Qtype == dns.TypeA {
			m.Answer = []dns.RR{&dns.A{Hdr: z.header(ask.Name, dns.TypeA, ttlUnlisted), A: net.IPv4(127, 255, 255, 255)}}
		}
	}
	_ = w.WriteMsg(m) // a client that is gone asks again
}
