// Package dns asks name servers for the records of a name.
//
// It asks one server one question at a time, over UDP and, if the answer is truncated, over TCP. The resolver of package net can do
// neither: ask a given server only, and return the times for which records may be kept. There is no cache.
package dns

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// maxDatagram is the size limit of an answer over UDP, in bytes: a datagram of this size passes every network unfragmented.
const maxDatagram = 1232

// The errors of Ask, beside those of connections.
var (
	ErrTimeout   = errors.New("no answer in time")
	ErrNoName    = errors.New("the answer is NXDOMAIN")
	errOther     = errors.New("the answer is to another question")
	errTruncated = errors.New("the answer is cut short")
)

// A Record is a record of the types A, AAAA, CNAME or TXT.
type Record struct {
	Name string // fully qualified, in the letters of the server
	Type dnsmessage.Type
	TTL  time.Duration
	Addr netip.Addr // of A and AAAA, never IPv4-mapped
	Text string     // the name that CNAME points to, or all strings of TXT
}

// Ask asks a server, given as host:port, for the records of one type that a name has. It returns the answer's records of the types
// that Record has: none if the name has none of this type, those of aliases beside those of their names. The error is ErrNoName if the
// name does not exist, and ErrTimeout if the server did not answer before ctx was done.
func Ask(ctx context.Context, server, name string, kind dnsmessage.Type) ([]Record, error) {
	records, err := ask(ctx, "udp", server, name, kind)
	if err == errTruncated {
		records, err = ask(ctx, "tcp", server, name, kind)
	}
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	var slow net.Error
	if errors.As(err, &slow) && slow.Timeout() { // context.DeadlineExceeded is one
		return nil, ErrTimeout
	}
	if code := syscall.Errno(0); errors.As(err, &code) {
		err = code // the addresses and the system call say nothing more to a reader
	}
	return records, err
}

// ask asks over one transport.
func ask(ctx context.Context, transport, server, name string, kind dnsmessage.Type) ([]Record, error) {
	query, id, err := question(name, kind)
	if err != nil {
		return nil, err
	}
	// Each question has a port and a number of its own, so that only those who see it can answer it.
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, transport, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	stream := transport == "tcp"
	if stream {
		query = append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)
	}
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	for {
		message, err := receive(conn, stream)
		if err != nil {
			return nil, err
		}
		// A datagram with another number is forged, or the late answer to somebody else's question: the right one may still come.
		if len(message) >= 2 && binary.BigEndian.Uint16(message) == id {
			return parse(message, name, kind)
		}
	}
}

// question returns the message that asks for records, and its number.
func question(name string, kind dnsmessage.Type) (message []byte, id uint16, err error) {
	n, err := dnsmessage.NewName(FQDN(name))
	if err != nil {
		return nil, 0, fmt.Errorf("name %q: %w", name, err)
	}
	var number [2]byte
	rand.Read(number[:]) // never fails
	id = binary.BigEndian.Uint16(number[:])
	var options dnsmessage.ResourceHeader
	if err := options.SetEDNS0(maxDatagram, dnsmessage.RCodeSuccess, false); err != nil {
		return nil, 0, err
	}
	m := dnsmessage.Message{
		Header:      dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions:   []dnsmessage.Question{{Name: n, Type: kind, Class: dnsmessage.ClassINET}},
		Additionals: []dnsmessage.Resource{{Header: options, Body: &dnsmessage.OPTResource{}}},
	}
	message, err = m.Pack()
	return message, id, err
}

// receive reads one message.
func receive(conn net.Conn, stream bool) ([]byte, error) {
	if !stream {
		buf := make([]byte, maxDatagram)
		n, err := conn.Read(buf)
		return buf[:n], err
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, err
	}
	buf := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(conn, buf)
	return buf, err
}

// parse returns the records of an answer to a question.
func parse(message []byte, name string, kind dnsmessage.Type) ([]Record, error) {
	var p dnsmessage.Parser
	h, err := p.Start(message)
	if err != nil {
		return nil, fmt.Errorf("the answer is malformed: %w", err)
	}
	asked, err := p.AllQuestions()
	switch {
	case err != nil:
		return nil, fmt.Errorf("the answer is malformed: %w", err)
	case !h.Response, len(asked) != 1, asked[0].Type != kind, !strings.EqualFold(asked[0].Name.String(), FQDN(name)):
		return nil, errOther
	case h.Truncated:
		return nil, errTruncated
	case h.RCode == dnsmessage.RCodeNameError:
		return nil, ErrNoName
	case h.RCode != dnsmessage.RCodeSuccess:
		return nil, fmt.Errorf("the answer is %s", codeName(h.RCode))
	}
	var records []Record
	for {
		r, err := next(&p)
		switch {
		case err == dnsmessage.ErrSectionDone:
			return records, nil
		case err != nil:
			return nil, fmt.Errorf("the answer is malformed: %w", err)
		case r.Type != 0:
			records = append(records, r)
		}
	}
}

// next returns the next record of an answer, one without a type if Record does not have its type.
func next(p *dnsmessage.Parser) (Record, error) {
	h, err := p.AnswerHeader()
	if err != nil {
		return Record{}, err
	}
	r := Record{Name: h.Name.String(), Type: h.Type, TTL: time.Duration(h.TTL) * time.Second}
	if h.Class != dnsmessage.ClassINET {
		return Record{}, p.SkipAnswer()
	}
	switch h.Type {
	case dnsmessage.TypeA:
		var a dnsmessage.AResource
		a, err = p.AResource()
		r.Addr = netip.AddrFrom4(a.A)
	case dnsmessage.TypeAAAA:
		var a dnsmessage.AAAAResource
		a, err = p.AAAAResource()
		r.Addr = netip.AddrFrom16(a.AAAA).Unmap()
	case dnsmessage.TypeCNAME:
		var c dnsmessage.CNAMEResource
		c, err = p.CNAMEResource()
		r.Text = c.CNAME.String()
	case dnsmessage.TypeTXT:
		var t dnsmessage.TXTResource
		t, err = p.TXTResource()
		r.Text = strings.Join(t.TXT, "")
	default:
		return Record{}, p.SkipAnswer()
	}
	return r, err
}

// codeName returns the name of a response code, as dig(1) prints it.
func codeName(code dnsmessage.RCode) string {
	switch code {
	case dnsmessage.RCodeFormatError:
		return "FORMERR"
	case dnsmessage.RCodeServerFailure:
		return "SERVFAIL"
	case dnsmessage.RCodeNotImplemented:
		return "NOTIMP"
	case dnsmessage.RCodeRefused:
		return "REFUSED"
	}
	return fmt.Sprintf("RCODE %d", code)
}

// FQDN returns a name with the dot that ends a fully qualified name.
func FQDN(name string) string {
	return strings.TrimSuffix(name, ".") + "."
}

// Servers returns the name servers of this host, those of /etc/resolv.conf, as host:port. There is at least one, or an error.
func Servers() ([]string, error) {
	return serversOf("/etc/resolv.conf")
}

func serversOf(path string) ([]string, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("name servers: %w", err)
	}
	defer file.Close()
	var servers []string
	for s := bufio.NewScanner(io.LimitReader(file, 1<<20)); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if addr, err := netip.ParseAddr(fields[1]); err == nil {
			servers = append(servers, netip.AddrPortFrom(addr, 53).String())
		}
	}
	if len(servers) == 0 {
		return nil, fmt.Errorf("%s has no name server", path)
	}
	return servers, nil
}
