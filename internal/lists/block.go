package lists

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/exempt"
	"mef/internal/prefixset"
)

// A Block is what the blacklist comes to: one list, all of whose packets are dropped.
type Block struct {
	Addrs   *prefixset.Packed
	LeftOut int      // entries that drop nothing, because something is wrong with them or their addresses must stay reachable
	Held    float64  // addresses left out because an administrator is or was logged in from there
	Notable []string // the first of the entries left out, with the reasons
}

// notable is how many of Block.Notable there are at most.
const notable = 10

// note appends an entry without effect to the first of them.
func note(all []string, e *conf.Entry, why string) []string {
	if len(all) < notable {
		all = append(all, fmt.Sprintf("%s: %s: %s", e.Pos, e.Text, why))
	}
	return all
}

// useless returns why an entry of a blacklist never has an effect, "" if it may have one.
func useless(prefixes []netip.Prefix) string {
	switch {
	case len(prefixes) == 0:
		return "names have no effect in a blacklist: their owner could make them point to any address"
	case slices.ContainsFunc(prefixes, exempt.TooWide):
		return "wider than /16 (IPv6: /32): ignored"
	}
	return ""
}

// Block returns what the blacklist comes to for a host of which facts are known. Addresses that must stay reachable, proxies, and
// addresses from which administrators log in are left out of the networks around them.
func (l *Lists) Block(facts *exempt.Facts) (out Block) {
	never := neverBlocked(facts)
	sets := make([]*prefixset.Packed, len(l.block.files))
	for i := range l.block.files {
		f := &l.block.files[i]
		n, some := f.inVain(never)
		out.LeftOut += f.useless + n
		out.Notable = slices.Concat(out.Notable, f.notable, some)
		sets[i] = f.addrs
	}
	out.Notable = out.Notable[:min(len(out.Notable), notable)]
	without := prefixset.Join(sets...).Subtract(never)
	out.Addrs = without.Subtract(admins(facts))
	for _, v6 := range []bool{false, true} {
		out.Held += without.Addresses(v6) - out.Addrs.Addresses(v6)
	}
	return out
}

// vain are the entries of a file all of whose addresses must stay reachable.
type vain struct {
	never   prefixset.Set // the addresses that must
	entries int
	notable []string
}

// inVain returns how many entries have no address that may be dropped, and the first of them. It reads the file if it has any address that
// must stay reachable, and only once for the same set of these.
func (f *listFile) inVain(never prefixset.Set) (entries int, notable []string) {
	if f.vain == nil || !f.vain.never.Equal(never) {
		v := &vain{never: never}
		if f.addrs.Subtract(never) != f.addrs {
			f.each(func(e conf.Entry, prefixes []netip.Prefix) bool {
				if why := inVain(prefixes, never); why != "" && useless(prefixes) == "" {
					v.entries++
					v.notable = note(v.notable, &e, why)
				}
				return true
			})
		}
		f.vain = v
	}
	return f.vain.entries, f.vain.notable
}

// inVain returns why none of an entry's addresses may be dropped, "" if one may.
func inVain(prefixes []netip.Prefix, never prefixset.Set) string {
	if slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return !never.Covers(p) }) {
		return ""
	}
	return "never banned: it is on the allow list, this host needs it, or it is not a public address"
}

// logNotable logs the first few entries that drop nothing, unless they are those of last time.
func (b *Block) logNotable(log *slog.Logger, last *string) {
	text := strings.Join(b.Notable, "\n")
	if text == *last {
		return
	}
	*last = text
	for _, entry := range b.Notable {
		log.Warn("blacklist entry has no effect", "entry", entry, "ignored in total", b.LeftOut)
	}
}

// neverBlocked returns the addresses that no blacklist bans.
func neverBlocked(facts *exempt.Facts) prefixset.Set {
	return facts.Reachable().Union(facts.Proxies).Union(exempt.Special())
}

// admins returns the addresses from which administrators are or were logged in.
func admins(facts *exempt.Facts) prefixset.Set { return facts.Sessions.Union(facts.Admins) }

// maxShown is how many entries of the blacklist are shown one by one.
const maxShown = 10_000

// showBlock appends the blacklist to an answer: its files, and of its entries the first maxShown, each with what is left out of it and why.
func (l *Lists) showBlock(out *control.Lists, facts *exempt.Facts) {
	l.block.showFiles(out, BlockList)
	never, shown := neverBlocked(facts), 0
	for i := range l.block.files {
		l.block.files[i].each(func(e conf.Entry, prefixes []netip.Prefix) bool {
			if shown == maxShown {
				return false
			}
			shown++
			entry := showEntry(BlockList, &e)
			if entry.Error = useless(prefixes); entry.Error == "" {
				entry.Error = inVain(prefixes, never)
			}
			if entry.Error == "" {
				entry.Error = heldBack(prefixes, facts)
			}
			out.Entries = append(out.Entries, entry)
			return true
		})
	}
	for i := range l.block.files {
		out.More += l.block.files[i].count
	}
	out.More = max(0, out.More-shown)
}

// heldBack returns which address of an entry is left out because of an administrator, "" if none is.
func heldBack(prefixes []netip.Prefix, facts *exempt.Facts) string {
	for _, p := range prefixes {
		if why := facts.HoldBack(p); why != "" {
			return fmt.Sprintf("that address is left out: %s; to ban it nevertheless, run mefctl bans add --force", why)
		}
	}
	return ""
}

// Listed reports whether the blacklist has an address and it is in force. It may be called from any goroutine.
func (l *Lists) Listed(addr netip.Addr) bool { return l.feeds.blacklisted(addr) }

// Place returns the place of the entry of the blacklist that has an address and is in force, "" if there is none. It may be called from
// any goroutine; it reads the file.
func (l *Lists) Place(addr netip.Addr) string {
	e, found := l.feeds.inBlacklist(addr)
	switch {
	case found:
		return e.Pos.String()
	case l.feeds.blacklisted(addr):
		return "the blacklist" // the entry is gone from the file by now
	}
	return ""
}
