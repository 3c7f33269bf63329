package dnsbl

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/dns/dnsmessage"

	"mef/internal/conf"
	"mef/internal/dns"
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
	b.WriteString(dns.FQDN(zone))
	return b.String()
}

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
	answer, err := z.query(ctx, server, addr, dnsmessage.TypeA)
	if err != nil {
		return nil, err
	}
	var all []netip.Addr
	for _, r := range answer {
		code := r.Addr
		if !code.Is4() {
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
	answer, err := z.query(ctx, server, addr, dnsmessage.TypeTXT)
	if err != nil {
		return ""
	}
	for _, r := range answer {
		if r.Type == dnsmessage.TypeTXT {
			return r.Text[:min(len(r.Text), event.MaxReason)]
		}
	}
	return ""
}

// query asks a name server for the records that a zone has of an address, none if it has none.
func (z *zone) query(ctx context.Context, server string, addr netip.Addr, kind dnsmessage.Type) ([]dns.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, z.cfg.Timeout)
	defer cancel()
	z.queries.Add(1)
	answer, err := dns.Ask(ctx, server, name(addr, z.cfg.Zone), kind)
	if errors.Is(err, dns.ErrNoName) {
		return nil, nil
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
