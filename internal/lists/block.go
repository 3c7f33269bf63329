package lists

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/exempt"
	"mef/internal/prefixset"
)

// MaxBanned bounds the networks of all blacklist files that are bans of their own, each with a record; the others are one list in the
// kernel, which takes a small part of the memory.
const MaxBanned = 10_000

// A Block is what the blacklist comes to: networks that are banned without end, on all ports.
type Block struct {
	Prefixes []netip.Prefix    // ascending, each once
	Rest     *prefixset.Packed // networks beyond MaxBanned
	LeftOut  int               // entries that ban nobody, because something is wrong with them or there are too many
	Held     int               // entries that ban nobody, because an administrator is or was logged in from there
	Notable  []string          // what was left out and held back, with the reasons; the first few
}

// notable is how many of Block.Notable there are at most.
const notable = 10

// Block returns what the blacklist comes to for a host of which facts are known. Addresses that must stay reachable, and proxies, are
// left out of the networks around them.
func (l *Lists) Block(facts *exempt.Facts) Block {
	var out Block
	never := neverBlocked(facts)
	var rest prefixset.Packer
	l.block.judge(facts, never, func(e *conf.Entry, prefixes []netip.Prefix, why string, held bool) {
		switch {
		case held:
			out.Held++
		case why != "" && len(prefixes) == 0:
			out.LeftOut++
		}
		if why != "" && len(out.Notable) < notable {
			out.Notable = append(out.Notable, fmt.Sprintf("%s: %s: %s", e.Pos, e.Text, why))
		}
		if len(out.Prefixes)+len(prefixes) > MaxBanned {
			for _, p := range prefixes {
				rest.Add(p)
			}
			return
		}
		out.Prefixes = append(out.Prefixes, prefixes...)
	})
	slices.SortFunc(out.Prefixes, compare)
	out.Prefixes = slices.Compact(out.Prefixes)
	all := []*prefixset.Packed{rest.Pack()}
	for _, f := range l.block.files {
		all = append(all, f.rest)
		out.LeftOut += f.useless
	}
	out.Rest = prefixset.Join(all...).Subtract(never).Subtract(facts.Sessions.Union(facts.Admins))
	l.feeds.setBlacklist(out.Rest, l.block.files)
	return out
}

// LogNotable logs the first few entries that ban nobody, unless they are those of last time.
func (b *Block) LogNotable(log *slog.Logger, last *string) {
	text := strings.Join(b.Notable, "\n")
	if text == *last {
		return
	}
	*last = text
	for _, entry := range b.Notable {
		log.Warn("blacklist entry has no effect", "entry", entry, "ignored in total", b.LeftOut, "suspended in total", b.Held)
	}
}

// neverBlocked returns the addresses that no blacklist bans.
func neverBlocked(facts *exempt.Facts) prefixset.Set {
	return facts.Reachable().Union(facts.Proxies).Union(exempt.Special())
}

// judge calls do for every entry of the files, in order, with the networks that it bans. If it bans none, why reports it; held reports
// that this is for an administrator's sake.
func (d *directory) judge(facts *exempt.Facts, never prefixset.Set, do func(e *conf.Entry, prefixes []netip.Prefix, why string, held bool)) {
	d.entries(func(_ *listFile, e *conf.Entry) bool {
		prefixes, ok := e.Prefixes()
		why, held := "", false
		switch {
		case !ok:
			why = "names have no effect in a blacklist: their owner could make them point to any address"
		case slices.ContainsFunc(prefixes, exempt.TooWide):
			why = "wider than /16 (IPv6: /32): ignored"
		default:
			i := slices.IndexFunc(prefixes, func(p netip.Prefix) bool { return facts.HoldBack(p) != "" })
			if held = i >= 0; held {
				why = fmt.Sprintf("suspended: %s; to ban it nevertheless, run mefctl bans add --force", facts.HoldBack(prefixes[i]))
			}
		}
		if why != "" {
			do(e, nil, why, held)
			return true
		}
		if len(prefixes) > 1 || never.Overlaps(prefixes[0]) {
			prefixes = prefixset.New(prefixes...).Subtract(never).Prefixes()
		}
		if len(prefixes) == 0 {
			why = "never banned: it is on the allow list, this host needs it, or it is not a public address"
		}
		do(e, prefixes, why, false)
		return true
	})
}

// ShowBlock appends the blacklist to an answer, with the reason for every entry that bans nobody.
func (l *Lists) ShowBlock(out *control.Lists, facts *exempt.Facts) {
	begin := len(out.Entries)
	l.block.show(out, BlockList, func(*conf.Entry, *control.Entry) {})
	i := begin
	l.block.judge(facts, neverBlocked(facts), func(_ *conf.Entry, _ []netip.Prefix, why string, _ bool) {
		out.Entries[i].Error = why
		i++
	})
}

// listedIn begins the reason of a ban by the blacklist; the place of the entry follows.
const listedIn = "listed in "

// Records returns the bans of those keys that the blacklist asks for, with the place of the entry in the reason.
func (l *Lists) Records(keys []ban.Key) map[ban.Key]ban.Ban {
	records := make(map[ban.Key]ban.Ban)
	wanted := make([]netip.Prefix, 0, len(keys))
	for _, k := range keys {
		if k.Ports == "" && k.Class == ban.Verified {
			wanted = append(wanted, k.Prefix)
		}
	}
	slices.SortFunc(wanted, compare)
	l.block.entries(func(f *listFile, e *conf.Entry) bool {
		prefixes, _ := e.Prefixes()
		if slices.ContainsFunc(prefixes, exempt.TooWide) {
			return true
		}
		for _, p := range prefixes {
			// What is wanted in p follows the first address of p.
			i, _ := slices.BinarySearchFunc(wanted, p, compare)
			for ; i < len(wanted) && p.Contains(wanted[i].Addr()); i++ {
				k := ban.Key{Prefix: wanted[i]}
				if _, twice := records[k]; !twice && p.Bits() <= k.Prefix.Bits() {
					records[k] = ban.Ban{Key: k, Start: f.Modified, Rule: ban.ByList, Count: 1, Note: e.Note, Reason: listedIn + e.Pos.String()}
				}
			}
		}
		return len(records) < len(wanted)
	})
	return records
}

// compare orders prefixes by address, the wider ones first.
func compare(a, b netip.Prefix) int { return ban.Key{Prefix: a}.Compare(ban.Key{Prefix: b}) }

// Has reports whether sorted prefixes, such as those of a Block, have p.
func Has(sorted []netip.Prefix, p netip.Prefix) bool {
	_, ok := slices.BinarySearchFunc(sorted, p, compare)
	return ok
}

// Diff compares two sorted lists of prefixes: what of after is new, and what of before no longer exists.
func Diff(before, after []netip.Prefix) (began, gone []netip.Prefix) {
	i, j := 0, 0
	for i < len(before) || j < len(after) {
		switch {
		case j == len(after) || i < len(before) && compare(before[i], after[j]) < 0:
			gone = append(gone, before[i])
			i++
		case i == len(before) || compare(before[i], after[j]) > 0:
			began = append(began, after[j])
			j++
		default:
			i++
			j++
		}
	}
	return began, gone
}

// Pack writes prefixes as text for the saved state, and Unpack reads it. Text that Pack did not write has no prefixes.
func Pack(prefixes []netip.Prefix) string {
	var buf []byte
	for _, p := range prefixes {
		one, err := p.MarshalBinary()
		if err != nil {
			continue
		}
		buf = append(binary.AppendUvarint(buf, uint64(len(one))), one...)
	}
	return string(buf)
}

// Unpack reads what Pack wrote.
func Unpack(text string) (prefixes []netip.Prefix) {
	for buf := []byte(text); len(buf) > 0; {
		n, used := binary.Uvarint(buf)
		var p netip.Prefix
		if used <= 0 || n > uint64(len(buf)-used) || p.UnmarshalBinary(buf[used:used+int(n)]) != nil {
			return nil
		}
		buf = buf[used+int(n):]
		prefixes = append(prefixes, p)
	}
	return prefixes
}
