package zone

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"time"

	"mef/internal/cloud/wire"
)

// Values of DNS (RFC 1035, RFC 6891).
const (
	headerLen  = 12
	maxName    = 255
	typeA      = 1
	typeSOA    = 6
	typeTXT    = 16
	typeOPT    = 41
	typeANY    = 255
	classIN    = 1
	rcodeName  = 3
	flagQR     = 0x80 // of the third byte
	flagAA     = 0x04
	flagTC     = 0x02
	opcodeMask = 0x78
	flagRD     = 0x01
	optLen     = 11
	// maxUDP is what is offered for UDP (DNS flag day 2020). No answer is longer than 512 bytes.
	maxUDP = 1232
)

const (
	ttlListed   = 300 // seconds
	ttlUnlisted = 60
	ttlLeast    = 30 // of a listing that ends
)

// A question is that of a packet of the usual form.
type question struct {
	end    int // of the question in the packet
	opt    bool
	kind   uint16
	addr   netip.Addr // whose reversed form the name is
	within bool       // the name is an address, or the end of one, in the zone
}

// parse reads a packet of the usual form: one question of class IN about an address in the zone, and at most an OPT record of version 0.
// Anything else is for package dns.
func (z *Zone) parse(p []byte) (q question, ok bool) {
	if len(p) < headerLen+5 || p[2]&(flagQR|opcodeMask|flagTC) != 0 || binary.BigEndian.Uint32(p[4:]) != 1<<16 || p[8] != 0 || p[9] != 0 || p[10] != 0 || p[11] > 1 {
		return q, false
	}
	// The labels before the zone are those of an address: at most 32 of them, of one to three bytes.
	at, labels := headerLen, 0
	var starts [33]int
	for {
		if at >= len(p) {
			return q, false
		}
		if z.suffix(p[at:]) {
			break
		}
		n := int(p[at])
		if n == 0 || n > 3 || labels == 32 || at+1+n >= len(p) {
			return q, false
		}
		starts[labels] = at
		labels++
		at += 1 + n
	}
	if labels == 0 {
		return q, false
	}
	q.end = at + len(z.wire) + 4
	if q.end > len(p) || binary.BigEndian.Uint16(p[q.end-2:]) != classIN {
		return q, false
	}
	q.kind = binary.BigEndian.Uint16(p[q.end-4:])
	if q.kind == typeANY || q.kind > 250 && q.kind < 255 { // transfers
		return q, false
	}
	rest := p[q.end:]
	if p[11] == 1 {
		// An OPT record has the root as its name. Its options need no answer.
		if len(rest) < optLen || rest[0] != 0 || binary.BigEndian.Uint16(rest[1:]) != typeOPT || rest[6] != 0 || len(rest) != optLen+int(binary.BigEndian.Uint16(rest[9:])) {
			return q, false
		}
		if !options(rest[optLen:]) {
			return q, false
		}
		q.opt = true
	} else if len(rest) > 0 {
		return q, false
	}
	if labels <= 4 {
		q.addr, q.within = address4(p, starts[:labels])
	}
	if !q.within {
		q.addr, q.within = address6(p, starts[:labels])
	}
	return q, true
}

// options reports whether the options of an OPT record are complete.
func options(p []byte) bool {
	for len(p) > 0 {
		if len(p) < 4 {
			return false
		}
		n := 4 + int(binary.BigEndian.Uint16(p[2:]))
		if n > len(p) {
			return false
		}
		p = p[n:]
	}
	return true
}

// suffix reports whether a name is that of the zone.
func (z *Zone) suffix(p []byte) bool {
	if len(p) < len(z.wire) || p[0] != z.wire[0] {
		return false
	}
	for i, c := range z.wire {
		if d := p[i]; d != c && (d < 'A' || d > 'Z' || d+'a'-'A' != c) {
			return false
		}
	}
	return true
}

// address4 reads the labels of an IPv4 address in reverse. A name with fewer than four has only a part of one: it has no address, but is in the zone, so that
// name servers that ask label by label (RFC 9156) find what is below.
func address4(p []byte, starts []int) (addr netip.Addr, ok bool) {
	var b [4]byte
	for i, at := range starts {
		n, v := int(p[at]), 0
		label := p[at+1 : at+1+n]
		if n > 1 && label[0] == '0' {
			return addr, false
		}
		for _, c := range label {
			if c < '0' || c > '9' {
				return addr, false
			}
			v = 10*v + int(c-'0')
		}
		if v > 255 {
			return addr, false
		}
		b[len(starts)-1-i] = byte(v)
	}
	if len(starts) < 4 {
		return addr, true
	}
	return netip.AddrFrom4(b), true
}

// address6 reads those of an IPv6 address: 32 digits.
func address6(p []byte, starts []int) (addr netip.Addr, ok bool) {
	var b [16]byte
	for i, at := range starts {
		if p[at] != 1 {
			return addr, false
		}
		var v byte
		switch c := p[at+1]; {
		case c >= '0' && c <= '9':
			v = c - '0'
		case c >= 'a' && c <= 'f':
			v = c - 'a' + 10
		case c >= 'A' && c <= 'F':
			v = c - 'A' + 10
		default:
			return addr, false
		}
		n := len(starts) - 1 - i // from the front
		b[n/2] |= v << (4 * (1 - n%2))
	}
	if len(starts) < 32 {
		return addr, true
	}
	return netip.AddrFrom16(b).Unmap(), true
}

// answer appends the answer to a question, which is at the beginning of p, to out.
func (z *Zone) answer(out, p []byte, q question, now time.Time) []byte {
	var info Info
	listed := false
	if q.addr.IsValid() {
		info, listed = z.lookup(q.addr)
	}
	out = append(out, p[:q.end]...)
	out[2], out[3] = flagQR|flagAA|p[2]&flagRD, 0
	out[10], out[11] = 0, 0
	answers := 0
	if listed {
		ttl := remaining(info, now)
		switch q.kind {
		case typeA:
			var codes [maxCodes]byte
			for _, code := range appendCodes(codes[:0], info.Categories()) {
				out = append(out, 0xc0, headerLen, 0, typeA, 0, classIN)
				out = binary.BigEndian.AppendUint32(out, ttl)
				out = append(out, 0, 4, 127, 0, 0, code)
				answers++
			}
		case typeTXT:
			out = append(out, 0xc0, headerLen, 0, typeTXT, 0, classIN)
			out = binary.BigEndian.AppendUint32(out, ttl)
			at := len(out)
			out = append(out, 0, 0, 0)
			out = z.appendText(out, q.addr, info)
			out[at+1], out[at+2] = byte(len(out)-at-2), byte(len(out)-at-3)
			if n := len(out) - at - 2; n > 255 {
				out[at] = byte(n >> 8)
			}
			answers++
		}
	}
	out[7] = byte(answers)
	if answers == 0 {
		if !q.within || q.addr.IsValid() && !listed {
			out[3] |= rcodeName
		}
		apex := uint16(q.end - 4 - len(z.wire))
		out = binary.BigEndian.AppendUint16(out, 0xc000|apex)
		out = append(out, 0, typeSOA, 0, classIN, 0, 0, 0, ttlUnlisted)
		out = append(out, 0, byte(len(z.soa)))
		at := len(out)
		out = append(out, z.soa...)
		binary.BigEndian.PutUint32(out[at+z.serialAt:], z.index.serial.Load())
		out[9] = 1
	}
	if q.opt {
		out = append(out, 0, 0, typeOPT, maxUDP>>8, maxUDP&255, 0, 0, 0, 0, 0, 0)
		out[11] = 1
	}
	return out
}

// truncated appends the answer that has a client ask again over TCP.
func (z *Zone) truncated(out, p []byte, q question) []byte {
	out = append(out, p[:q.end]...)
	out[2], out[3], out[11] = flagQR|flagAA|flagTC|p[2]&flagRD, 0, 0
	return out
}

// remaining returns how long an answer may be kept, in seconds.
func remaining(info Info, now time.Time) uint32 {
	left := info.Until().Time().Unix() - now.Unix()
	return uint32(min(max(left, ttlLeast), ttlListed))
}

// test is the Info of the test entry (RFC 5782).
const test = Info(1<<20-1) << 28

// lookup returns what the zone has of an address.
func (z *Zone) lookup(addr netip.Addr) (Info, bool) {
	if addr == testListed {
		return test, true
	}
	info := z.index.Get(addr)
	return info, info != 0
}

// Codes: the last byte of 127.0.0.0/8 in answers.
const (
	codeListed = 2
	codeLogin  = 4
	codeWeb    = 5
	codeMail   = 6
	codeScan   = 7
	maxCodes   = 4
)

// codes are those of wire.Categories, 0 for none of its own.
var codes = [...]byte{0, codeLogin, codeLogin, codeMail, codeWeb, codeLogin, codeScan}

// appendCodes appends the codes of categories in ascending order, at most maxCodes.
func appendCodes(out []byte, categories uint16) []byte {
	out = append(out, codeListed)
	for code := byte(codeLogin); code <= codeScan && len(out) < maxCodes; code++ {
		for i, c := range codes {
			if c == code && categories&(1<<i) != 0 {
				out = append(out, code)
				break
			}
		}
	}
	return out
}

// appendText appends the text about a listing, at most 255 bytes.
func (z *Zone) appendText(out []byte, addr netip.Addr, info Info) []byte {
	if info == test {
		return append(out, "v=mef1 test entry (RFC 5782)"...)
	}
	out = append(out, "v=mef1 score="...)
	out = strconv.AppendInt(out, int64(info.Score()), 10)
	out = append(out, " cat="...)
	first := true
	for i, c := range wire.Categories {
		if info.Categories()&(1<<i) == 0 {
			continue
		}
		if !first {
			out = append(out, ',')
		}
		out, first = append(out, c...), false
	}
	out = append(out, " n="...)
	out = append(out, info.reporters()...)
	out = append(out, " until="...)
	out = info.Until().Time().AppendFormat(out, "2006-01-02T15Z")
	if len(z.page) > 0 {
		out = append(out, ' ')
		out = append(out, z.page...)
		out = addr.AppendTo(out)
	}
	return out
}
