//go:build linux

package host

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// maxForeignRules is how many rules of other tables are looked at. There may be tens of thousands where containers run.
const maxForeignRules = 10_000

// foreignWithin is how long that may take.
const foreignWithin = 80 * time.Millisecond

// A Dropper is a rule, or the policy of a chain, of somebody else's nftables table that drops or rejects packets of an address, or
// some of them.
type Dropper struct {
	Family string // "ip", "ip6" or "inet"
	Table  string
	Chain  string
	Rule   int    // its place in the chain, from 1; 0 for the chain's policy
	Match  string // what the rule has that covers the address: a network, a range, or "@set"
	Some   bool   // the rule has other conditions too, such as ports
}

// String names the dropper as nft does.
func (d Dropper) String() string {
	at := fmt.Sprintf("table %s %s chain %s", d.Family, d.Table, d.Chain)
	switch {
	case d.Rule == 0:
		return at + ": policy drop, for what no rule of it accepts"
	case d.Some:
		return fmt.Sprintf("%s rule %d: drops %s, with further conditions", at, d.Rule, d.Match)
	}
	return fmt.Sprintf("%s rule %d: drops %s", at, d.Rule, d.Match)
}

// Droppers returns what drops packets of addr on their way in, other than the tables named own: policies of base chains, and rules
// of the tables that have such chains, whose source address is addr by a comparison, a range or a set. It does not follow jumps,
// nor does it know extensions of iptables such as ipset: what it does not find may still drop. The error wraps
// context.DeadlineExceeded if there was more than could be read in time; what was found so far comes with it.
func Droppers(ctx context.Context, addr netip.Addr, own ...string) ([]Dropper, error) {
	ctx, cancel := context.WithTimeout(ctx, foreignWithin)
	defer cancel()
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{MessageBufferSize: 64 << 10})
	if err != nil {
		return nil, fmt.Errorf("read nf_tables: %w", err)
	}
	defer nl.Close()
	deadline, _ := ctx.Deadline()
	nl.SetReadDeadline(deadline)
	f := &foreign{nl: nl, addr: addr, own: own}
	if err = f.readChains(); err == nil {
		err = f.readRules()
	}
	if err == nil {
		err = f.resolve()
	}
	if err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil, nil
		}
		err = fmt.Errorf("read nf_tables: %w", err)
	}
	return f.found, err
}

// A foreign is one look at other programs' tables for one address.
type foreign struct {
	nl   *netlink.Conn
	addr netip.Addr
	own  []string

	filtering map[tableID]bool   // tables with a base chain on the way in
	elsewhere map[[3]string]bool // base chains that are not, by family, table and name
	found     []Dropper
	waiting   []lookup // rules that drop if a set has the address, or has it not
	rules     int
}

type tableID struct {
	family byte
	name   string
}

// A lookup is a rule whose source address is looked up in a set.
type lookup struct {
	dropper Dropper
	family  byte
	set     string
	not     bool
}

// tableFamilies are those whose chains see packets on their way in, by the kernel's numbers.
var tableFamilies = map[byte]string{unix.NFPROTO_INET: "inet", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6"}

// concerns reports whether packets of the address pass tables of a family.
func (f *foreign) concerns(family byte) bool {
	switch family {
	case unix.NFPROTO_INET:
		return true
	case unix.NFPROTO_IPV4:
		return f.addr.Is4()
	case unix.NFPROTO_IPV6:
		return f.addr.Is6()
	}
	return false
}

// readChains finds the tables with base chains on the way in, and their policies.
func (f *foreign) readChains() error {
	f.filtering, f.elsewhere = map[tableID]bool{}, map[[3]string]bool{}
	return f.dump(unix.NFT_MSG_GETCHAIN, func(family byte, attrs nested) error {
		table, chain := attrs.text(unix.NFTA_CHAIN_TABLE), attrs.text(unix.NFTA_CHAIN_NAME)
		hook := attrs.nest(unix.NFTA_CHAIN_HOOK)
		if !f.concerns(family) || slices.Contains(f.own, table) || hook == nil {
			return nil
		}
		switch hook.number(unix.NFTA_HOOK_HOOKNUM) {
		case unix.NF_INET_PRE_ROUTING, unix.NF_INET_LOCAL_IN, unix.NF_INET_FORWARD:
		default:
			f.elsewhere[[3]string{tableFamilies[family], table, chain}] = true
			return nil
		}
		f.filtering[tableID{family, table}] = true
		isInput := hook.number(unix.NFTA_HOOK_HOOKNUM) != unix.NF_INET_FORWARD
		if policy := attrs.get(unix.NFTA_CHAIN_POLICY); isInput && len(policy) == 4 && binary.BigEndian.Uint32(policy) == verdictDrop {
			f.found = append(f.found, Dropper{Family: tableFamilies[family], Table: table, Chain: chain})
		}
		return nil
	})
}

// readRules finds the rules that drop the address.
func (f *foreign) readRules() error {
	place := map[[3]string]int{}
	return f.dump(unix.NFT_MSG_GETRULE, func(family byte, attrs nested) error {
		table, chain := attrs.text(unix.NFTA_RULE_TABLE), attrs.text(unix.NFTA_RULE_CHAIN)
		if !f.filtering[tableID{family, table}] {
			return nil
		}
		if f.rules++; f.rules > maxForeignRules {
			return fmt.Errorf("more than %d rules: %w", maxForeignRules, context.DeadlineExceeded)
		}
		at := [3]string{tableFamilies[family], table, chain}
		if f.elsewhere[at] {
			return nil
		}
		place[at]++
		r := readRule(attrs.get(unix.NFTA_RULE_EXPRESSIONS), f.addr)
		if !r.drops || !r.matches {
			return nil
		}
		d := Dropper{Family: at[0], Table: table, Chain: chain, Rule: place[at], Match: r.match, Some: r.some}
		if r.set == "" {
			f.found = append(f.found, d)
		} else {
			f.waiting = append(f.waiting, lookup{d, family, r.set, r.not})
		}
		return nil
	})
}

// resolve asks the sets that rules look the address up in. The kernel answers for one element, also of a set of ranges.
func (f *foreign) resolve() error {
	for _, l := range f.waiting {
		has, err := f.contains(l.family, l.dropper.Table, l.set)
		if err != nil {
			return err
		}
		if has != l.not {
			f.found = append(f.found, l.dropper)
		}
	}
	return nil
}

func (f *foreign) contains(family byte, table, set string) (bool, error) {
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	ae.String(unix.NFTA_SET_ELEM_LIST_TABLE, table)
	ae.String(unix.NFTA_SET_ELEM_LIST_SET, set)
	ae.Nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(elements *netlink.AttributeEncoder) error {
		elements.Nested(unix.NFTA_LIST_ELEM, func(element *netlink.AttributeEncoder) error {
			element.Nested(unix.NFTA_SET_ELEM_KEY, func(key *netlink.AttributeEncoder) error {
				key.Bytes(unix.NFTA_DATA_VALUE, f.addr.AsSlice())
				return nil
			})
			return nil
		})
		return nil
	})
	data, err := ae.Encode()
	if err != nil {
		return false, err
	}
	_, err = f.nl.Send(nftMessage(unix.NFT_MSG_GETSETELEM, 0, family, data))
	if err != nil {
		return false, err
	}
	msgs, err := f.nl.Receive()
	// EINVAL: the set's key is not an address alone.
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return false, nil
	}
	return len(msgs) > 0, err
}

func nftMessage(typ int, flags netlink.HeaderFlags, family byte, attrs []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | typ), Flags: netlink.Request | flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attrs...),
	}
}

// dump calls fn for the family and the attributes of each object of a kind, of all families. After an error of fn it reads no more.
func (f *foreign) dump(typ int, fn func(family byte, attrs nested) error) error {
	if _, err := f.nl.Send(nftMessage(typ, netlink.Dump, unix.NFPROTO_UNSPEC, nil)); err != nil {
		return err
	}
	for m, err := range f.nl.ReceiveIter() {
		if errors.Is(err, unix.EINTR) {
			return nil // it changed meanwhile: what was read will do
		}
		if err != nil {
			return err
		}
		if len(m.Data) < 4 {
			continue
		}
		if err := fn(m.Data[0], nested(m.Data[4:])); err != nil {
			return err
		}
	}
	return nil
}

// nested are the attributes of an object.
type nested []byte

// get returns an attribute, nil if it is missing.
func (n nested) get(typ uint16) []byte {
	for t, data := range eachAttribute(n) {
		if t == typ {
			return data
		}
	}
	return nil
}

// eachAttribute walks attributes in order. Those that are cut off end the walk.
func eachAttribute(b []byte) func(yield func(uint16, []byte) bool) {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= 4 {
			length := int(binary.NativeEndian.Uint16(b))
			typ := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if length < 4 || length > len(b) || !yield(typ, b[4:length]) {
				return
			}
			b = b[min(len(b), (length+3)&^3):]
		}
	}
}

func (n nested) text(typ uint16) string { return string(bytes.TrimRight(n.get(typ), "\x00")) }

func (n nested) nest(typ uint16) nested { return n.get(typ) }

// number is a big-endian attribute of four bytes, as nf_tables has them; 0 if it is missing.
func (n nested) number(typ uint16) uint32 {
	b := n.get(typ)
	if len(b) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}
