package dnsbl

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"mef/internal/conf"
	"mef/internal/event"
	"mef/internal/ordered"
)

// name returns the DNS name under which a zone has an address: its numbers, of IPv6 its hexadecimal digits, in reverse (RFC 5782).
func name(addr netip.Addr, zone string) string {
	var b strings.Builder
	if addr.Is4() {
		a := addr.As4()
		for i := 3; i >= 0; i-- {
			b.WriteString(strconv.Itoa(int(a[i])))
			b.WriteByte('.')
		}
	} else {
		const digits = "0123456789abcdef"
		a := addr.As16()
		for i := 15; i >= 0; i-- {
			b.Write([]byte{digits[a[i]&15], '.', digits[a[i]>>4], '.'})
		}
	}
	b.WriteString(dns.Fqdn(zone))
	return b.String()
}

// errTimeout stands for every way of not being answered in time.
var errTimeout = errors.New("no answer in time")

// A refusal is an answer in 127.255.255.0/24: the list states why it does not answer.
type refusal struct{ code netip.Addr }

func (r refusal) Error() string {
	why := "it does not answer queries from here"
	switch r.code.As4()[3] {
	case 252:
		why = "the name of the zone is mistyped"
	case 254:
		why = "it does not answer public name servers"
	case 255:
		why = "there were too many queries"
	}
	return fmt.Sprintf("%s (%s)", why, r.code)
}

// A foreign answer is no address of 127.0.0.0/8: it does not come from a block list.
type foreign struct{ addr netip.Addr }

func (f foreign) Error() string {
	return fmt.Sprintf("the answer %s is none of a block list: the name server, or the owner of the domain, answers every name", f.addr)
}

// addresses asks a name server whether a zone lists an address. It returns the answers, none if the address is not listed. Whatever cannot be
// believed is an error.
func (z *zone) addresses(ctx context.Context, server string, addr netip.Addr) ([]netip.Addr, error) {
	answer, err := z.exchange(ctx, server, name(addr, z.cfg.Zone), dns.TypeA)
	if err != nil {
		return nil, err
	}
	var all []netip.Addr
	for _, rr := range answer.Answer {
		a, ok := rr.(*dns.A)
		if !ok {
			continue
		}
		code, ok := netip.AddrFromSlice(a.A)
		if code = code.Unmap(); !ok || !code.Is4() {
			continue
		}
		switch n := code.As4(); {
		case n[0] != 127:
			return nil, foreign{code}
		case conf.IsErrorAnswer(code):
			return nil, refusal{code}
		}
		all = append(all, code)
	}
	ordered.Sort(all, netip.Addr.Compare)
	return slices.Compact(all), nil
}

// reason asks for what a zone states as its reason for listing an address; "" if it states none, or there is no answer.
func (z *zone) reason(ctx context.Context, server string, addr netip.Addr) string {
	answer, err := z.exchange(ctx, server, name(addr, z.cfg.Zone), dns.TypeTXT)
	if err != nil {
		return ""
	}
	for _, rr := range answer.Answer {
		if t, ok := rr.(*dns.TXT); ok {
			text := strings.Join(t.Txt, "")
			return text[:min(len(text), event.MaxReason)]
		}
	}
	return ""
}

// maxDatagram is how large an answer over UDP may be, in bytes: what passes every network unfragmented.
const maxDatagram = 1232

// exchange asks a name server a question, over TCP if the answer does not fit a datagram. Each question has a port and a number of its own,
// so that nobody who does not see it can answer it.
func (z *zone) exchange(ctx context.Context, server, name string, kind uint16) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, z.cfg.Timeout)
	defer cancel()
	q := new(dns.Msg).SetQuestion(name, kind)
	q.SetEdns0(maxDatagram, false)
	z.queries.Add(1)
	for _, transport := range []string{"udp", "tcp"} {
		answer, err := send(ctx, q, transport, server)
		var slow net.Error
		switch {
		case errors.As(err, &slow) && slow.Timeout(), errors.Is(err, context.DeadlineExceeded):
			return nil, errTimeout
		case err != nil:
			return nil, err
		case !answer.Response || len(answer.Question) != 1 || answer.Question[0].Qtype != kind || !strings.EqualFold(answer.Question[0].Name, name):
			return nil, errors.New("the answer is to another question")
		case answer.Truncated:
			continue
		case answer.Rcode == dns.RcodeNameError:
			answer.Answer = nil
			return answer, nil
		case answer.Rcode != dns.RcodeSuccess:
			return nil, fmt.Errorf("the answer is %s", dns.RcodeToString[answer.Rcode])
		}
		return answer, nil
	}
	return nil, errors.New("the answer is cut short")
}

// send returns the answer to one question, unless ctx is done first.
func send(ctx context.Context, q *dns.Msg, transport, server string) (*dns.Msg, error) {
	var c dns.Client
	c.Net = transport
	conn, err := c.DialContext(ctx, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if end, ok := ctx.Deadline(); ok {
		c.Timeout = time.Until(end)
	}
	answer, _, err := c.ExchangeWithConnContext(ctx, q, conn)
	if ctx.Err() != nil && err != nil {
		err = ctx.Err()
	}
	return answer, err
}

// judge returns what answers of a zone mean: nil if they do not mean that the address is listed.
func judge(z *conf.RBLZone, answers []netip.Addr) *event.Listing {
	var l *event.Listing
	var codes []string
	for _, code := range answers {
		if !slices.ContainsFunc(z.Match, func(m string) bool { return conf.MatchAnswer(m, code) }) {
			continue
		}
		if l == nil {
			l = &event.Listing{Rule: z.Rule(), Zone: z.Zone}
		}
		codes = append(codes, code.String())
		does := conf.RBLCode{Action: z.Action, Weight: z.Weight}
		if i := slices.IndexFunc(z.Codes, func(c conf.RBLCode) bool { return conf.MatchAnswer(c.Match, code) }); i >= 0 {
			does = z.Codes[i]
		}
		switch does.Action {
		case conf.RBLBan:
			l.Ban = true
		case conf.RBLScore:
			l.Points = max(l.Points, does.Weight)
		}
	}
	if l != nil {
		l.Codes = strings.Join(codes[:min(len(codes), maxCodes)], ", ")
	}
	return l
}

// maxCodes is how many answers are shown.
const maxCodes = 8
