//go:build linux

package foreign

import (
	"bytes"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"mef/internal/netlink/nfnl"
)

// verdictDrop is NF_DROP, as policy and as verdict.
const verdictDrop = 0

// A rule of somebody else's, as far as it concerns one source address.
type rule struct {
	drops   bool // it drops or rejects
	matches bool // it has a condition on the source address, and the address meets it, if the set has it
	match   string
	set     string // the set in which the source address is looked up
	not     bool   // that must not have it
	some    bool   // it has other conditions
}

// readRule walks the expressions of a rule, of which the kernel loads a field of the packet into a register, may mask it there,
// and compares it.
func readRule(expressions []byte, addr netip.Addr) (r rule) {
	source := map[uint32]field{} // registers that hold the source address, or its first bytes
	differs := false
	for _, element := range nfnl.Each(expressions) {
		e := nested(element)
		data := e.nest(unix.NFTA_EXPR_DATA)
		switch name := e.text(unix.NFTA_EXPR_NAME); name {
		case "payload":
			register := data.number(unix.NFTA_PAYLOAD_DREG)
			delete(source, register)
			if f, ok := sourceField(data, addr); ok {
				source[register] = f
			}
		case "bitwise":
			f, ok := source[data.number(unix.NFTA_BITWISE_SREG)]
			mask := data.nest(unix.NFTA_BITWISE_MASK).get(unix.NFTA_DATA_VALUE)
			if ok && len(mask) == len(f.value) {
				source[data.number(unix.NFTA_BITWISE_DREG)] = f.masked(mask)
			}
		case "cmp":
			f, ok := source[data.number(unix.NFTA_CMP_SREG)]
			value := data.nest(unix.NFTA_CMP_DATA).get(unix.NFTA_DATA_VALUE)
			if !ok || len(value) != len(f.value) {
				r.some = r.some || !protocolOnly(data)
				continue
			}
			r.matches = true
			op := data.number(unix.NFTA_CMP_OP)
			r.match = compared(r.match, op, f.text(value, addr))
			differs = differs || !holds(op, bytes.Compare(f.value, value))
		case "range":
			f, ok := source[data.number(unix.NFTA_RANGE_SREG)]
			from, to := data.nest(unix.NFTA_RANGE_FROM_DATA).get(unix.NFTA_DATA_VALUE), data.nest(unix.NFTA_RANGE_TO_DATA).get(unix.NFTA_DATA_VALUE)
			if !ok || len(from) != len(f.value) || len(to) != len(f.value) {
				r.some = true
				continue
			}
			r.matches = true
			r.match = fmt.Sprintf("%s-%s", f.text(from, addr), f.text(to, addr))
			inside := bytes.Compare(from, f.value) <= 0 && bytes.Compare(f.value, to) <= 0
			differs = differs || inside == (data.number(unix.NFTA_RANGE_OP) == unix.NFT_RANGE_NEQ)
		case "lookup":
			f, ok := source[data.number(unix.NFTA_LOOKUP_SREG)]
			if !ok || len(f.value) != addr.BitLen()/8 || f.mask != nil {
				r.some = true
				continue
			}
			r.matches = true
			r.set = data.text(unix.NFTA_LOOKUP_SET)
			r.not = data.number(unix.NFTA_LOOKUP_FLAGS)&unix.NFT_LOOKUP_F_INV != 0
			r.match = "@" + r.set
			if r.not {
				r.match = "all except @" + r.set
			}
		case "immediate":
			verdict := data.nest(unix.NFTA_IMMEDIATE_DATA).nest(unix.NFTA_DATA_VERDICT)
			r.drops = r.drops || verdict != nil && len(verdict.get(unix.NFTA_VERDICT_CODE)) == 4 && verdict.number(unix.NFTA_VERDICT_CODE) == verdictDrop
		case "reject":
			r.drops = true
		case "target":
			target := data.text(unix.NFTA_TARGET_NAME)
			r.drops = r.drops || target == "DROP" || target == "REJECT"
		case "counter", "log", "notrack":
		case "meta":
			clear(source) // it is loaded into a register; nft loads what it compares right before
		default:
			clear(source)
			r.some = true
		}
	}
	r.matches = r.matches && !differs
	return r
}

// protocolOnly reports whether a comparison is one byte long, or of an interface's kind: those that nft puts before every look at
// an address, to know the family of the packet.
func protocolOnly(cmp nested) bool {
	value := cmp.nest(unix.NFTA_CMP_DATA).get(unix.NFTA_DATA_VALUE)
	return len(value) == 1 && (value[0] == unix.NFPROTO_IPV4 || value[0] == unix.NFPROTO_IPV6)
}

// compared writes a comparison behind what is written already: of a range, nft compares both ends.
func compared(before string, op uint32, text string) string {
	switch op {
	case unix.NFT_CMP_NEQ:
		return "all except " + text
	case unix.NFT_CMP_GTE, unix.NFT_CMP_GT:
		return text + "-"
	case unix.NFT_CMP_LTE, unix.NFT_CMP_LT:
		return before + text
	}
	return text
}

// holds reports whether the outcome of a comparison satisfies an operator of nf_tables.
func holds(op uint32, order int) bool {
	switch op {
	case unix.NFT_CMP_EQ:
		return order == 0
	case unix.NFT_CMP_NEQ:
		return order != 0
	case unix.NFT_CMP_LT:
		return order < 0
	case unix.NFT_CMP_LTE:
		return order <= 0
	case unix.NFT_CMP_GT:
		return order > 0
	case unix.NFT_CMP_GTE:
		return order >= 0
	}
	return false
}

// A field is what a register holds of the source address.
type field struct {
	value []byte // its first bytes; nft loads only those that a prefix needs
	mask  []byte // nil: not masked
}

// sourceField reports whether a payload expression loads the source address, and what of it.
func sourceField(payload nested, addr netip.Addr) (field, bool) {
	offset := uint32(12) // in the IPv4 header
	if addr.Is6() {
		offset = 8
	}
	length := int(payload.number(unix.NFTA_PAYLOAD_LEN))
	if payload.number(unix.NFTA_PAYLOAD_BASE) != unix.NFT_PAYLOAD_NETWORK_HEADER || payload.number(unix.NFTA_PAYLOAD_OFFSET) != offset ||
		length < 1 || length > addr.BitLen()/8 {
		return field{}, false
	}
	return field{value: addr.AsSlice()[:length]}, true
}

func (f field) masked(mask []byte) field {
	value := bytes.Clone(f.value)
	for i := range value {
		value[i] &= mask[i]
	}
	return field{value, mask}
}

// text writes what the field is compared with: an address or a network.
func (f field) text(value []byte, addr netip.Addr) string {
	whole := make([]byte, addr.BitLen()/8)
	copy(whole, value)
	a, _ := netip.AddrFromSlice(whole)
	bits := len(value) * 8
	if f.mask != nil {
		bits = ones(f.mask)
	}
	if bits == addr.BitLen() {
		return a.String()
	}
	return netip.PrefixFrom(a, bits).String()
}

// ones counts the bits with which a mask begins.
func ones(mask []byte) (n int) {
	for _, b := range mask {
		for bit := byte(0x80); bit != 0; bit >>= 1 {
			if b&bit == 0 {
				return n
			}
			n++
		}
	}
	return n
}
