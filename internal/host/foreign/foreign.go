//go:build linux

// Package foreign finds what other nftables tables of this host drop, so that an address can be explained that nothing of ours bans.
package foreign

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"mef/internal/netlink/nfnl"
)

// maxRules is how many rules of other tables are looked at. There may be tens of thousands where containers run.
const maxRules = 10_000

// within is how long that may take.
const within = 80 * time.Millisecond

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
		return at + ": policy drop, for packets that none of its rules accepts"
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
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	c, err := nfnl.Dial(0)
	if err != nil {
		return nil, fmt.Errorf("read nf_tables: %w", err)
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return nil, fmt.Errorf("read nf_tables: %w", err)
	}
	f := &search{conn: c, addr: addr, own: own}
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

// A search is one look at other programs' tables for one address.
type search struct {
	conn *nfnl.Conn
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
func (f *search) concerns(family byte) bool {
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
func (f *search) readChains() error {
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
func (f *search) readRules() error {
	place := map[[3]string]int{}
	return f.dump(unix.NFT_MSG_GETRULE, func(family byte, attrs nested) error {
		table, chain := attrs.text(unix.NFTA_RULE_TABLE), attrs.text(unix.NFTA_RULE_CHAIN)
		if !f.filtering[tableID{family, table}] {
			return nil
		}
		if f.rules++; f.rules > maxRules {
			return fmt.Errorf("more than %d rules: %w", maxRules, context.DeadlineExceeded)
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
func (f *search) resolve() error {
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

func (f *search) contains(family byte, table, set string) (bool, error) {
	var a nfnl.Attrs
	a.Text(unix.NFTA_SET_ELEM_LIST_TABLE, table)
	a.Text(unix.NFTA_SET_ELEM_LIST_SET, set)
	elements := a.Begin(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	element := a.Begin(unix.NFTA_LIST_ELEM)
	key := a.Begin(unix.NFTA_SET_ELEM_KEY)
	a.Bytes(unix.NFTA_DATA_VALUE, f.addr.AsSlice())
	a.End(key)
	a.End(element)
	a.End(elements)
	_, err := f.conn.Get(nfnl.Tables(unix.NFT_MSG_GETSETELEM, family, a))
	// EINVAL: the set's key is not an address alone.
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return false, nil
	}
	return err == nil, err
}

// dump calls fn for the family and the attributes of each object of a kind, of all families. After an error of fn it is not called again.
// What changes meanwhile ends the reading: what was read will do.
func (f *search) dump(typ int, fn func(family byte, attrs nested) error) error {
	var failed error
	_, err := f.conn.DumpOnce(nfnl.Tables(typ, unix.NFPROTO_UNSPEC, nil), func(family byte, attrs []byte) {
		if failed == nil {
			failed = fn(family, attrs)
		}
	})
	return cmp.Or(failed, err)
}

// nested are the attributes of an object.
type nested []byte

// get returns an attribute, nil if it is missing.
func (n nested) get(typ uint16) []byte { return nfnl.Find(n, typ) }

func (n nested) text(typ uint16) string { return nfnl.Text(n.get(typ)) }

func (n nested) nest(typ uint16) nested { return n.get(typ) }

// number is a big-endian attribute of four bytes, as nf_tables has them; 0 if it is missing.
func (n nested) number(typ uint16) uint32 {
	b := n.get(typ)
	if len(b) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}
