package policy

import (
	"cmp"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"mef/internal/conf"
	"mef/internal/conf/diag"
	"mef/internal/prefixset"
)

// What a file says of addresses, ports and interfaces, before sets and the host's interfaces are known.
type (
	addrsText struct {
		given    bool
		not      bool // all except these
		prefixes []netip.Prefix
		sets     []string
	}
	portsText struct {
		given  bool
		ranges []PortRange
		sets   []string
	}
	interfacesText struct {
		auto bool // the interfaces of the default routes
		sets []string
		Interfaces
	}
)

// A reference is where a set is named, which may stand behind that place.
type reference struct {
	at   conf.Pos
	set  string
	kind SetType // that is meant
}

// references returns the sets that a list names.
func references(f *Field, kind SetType) []reference {
	var all []reference
	for offset, word := range items(f.Value) {
		if bare, not := strings.CutPrefix(word, "!"); not {
			word, offset = bare, offset+1
		}
		name, ok := strings.CutPrefix(word, "@")
		if g, wrong, _ := conf.ParseGeoGroup(word); wrong == "" && kind == AddrSet {
			name = groupSet(g)
		} else if !ok || !isSetName(name) {
			continue
		}
		at := f.At
		at.Col += offset
		all = append(all, reference{at, name, kind})
	}
	return all
}

// wrong is the usual mistake: the value, or the word in it that begins at offset, is not what syntax says.
func wrong(at conf.Pos, offset int, word, syntax string) *conf.Error {
	at.Col += offset
	return &conf.Error{Pos: at, Msg: "wrong value " + diag.Quote(word), Hint: "write " + syntax}
}

// choice returns the index of the value among names.
func choice(f *Field, names []string) (int, *conf.Error) {
	if i := slices.Index(names, f.Value); i >= 0 && f.Value != "" {
		return i, nil
	}
	known := slices.DeleteFunc(slices.Clone(names), func(s string) bool { return s == "" })
	err := wrong(f.At, 0, f.Value, strings.Join(known, " or "))
	if hint := instead(f.Value, known); hint != "" {
		err.Hint = hint
	}
	return 0, err
}

// items yields what stands between the commas of a value, and where it begins. An empty item is yielded too.
func items(value string) iter.Seq2[int, string] {
	return func(yield func(int, string) bool) {
		offset := 0
		for part := range strings.SplitSeq(value, ",") {
			if !yield(offset, part) {
				return
			}
			offset += len(part) + 1
		}
	}
}

const (
	addrsSyntax = "any, or addresses, prefixes such as 192.0.2.0/24, ranges a-b, sets such as @office and @country:DE, or all except those such as !@office"
	portsSyntax = "any, or ports and ranges from 1 to 65535 such as 22,8000-8010, services of /etc/services such as https, and sets such as @web"
	namesSyntax = "any, auto, interfaces and patterns such as eth0,wg*, sets such as @lan, or excluded interfaces such as !eth0"
	stateSyntax = "any, or new, established, related, invalid, untracked, separated by commas"
	logSyntax   = "none, or prefix:TEXT"
	rateSyntax  = "any, or a number per second, minute or hour such as 5/s, 30/m or 100/h"
	setSyntax   = "a letter, followed by letters, digits, _ and -, at most 20 characters"
)

// addrs reads a list of addresses.
func addrs(f *Field) (a addrsText, err *conf.Error) {
	if f.Value == "any" {
		return a, nil
	}
	a.given, a.not = true, strings.HasPrefix(f.Value, "!")
	for offset, word := range items(f.Value) {
		if bare, not := strings.CutPrefix(word, "!"); not && a.not {
			word, offset = bare, offset+1 // ! may stand before each
		}
		at := f.At
		at.Col += offset
		if conf.IsGeoGroup(word) {
			g, why, hint := conf.ParseGeoGroup(word)
			if why != "" {
				return a, &conf.Error{Pos: at, Msg: why, Hint: hint}
			}
			a.sets = append(a.sets, groupSet(g))
			continue
		}
		if name, ok := strings.CutPrefix(word, "@"); ok {
			if !isSetName(name) {
				return a, wrong(at, 0, word, addrsSyntax)
			}
			a.sets = append(a.sets, name)
			continue
		}
		prefixes, err := conf.EntryPrefixes(at, word)
		switch {
		case err != nil:
			err.Hint = "write " + addrsSyntax
			return a, err
		case prefixes == nil:
			return a, &conf.Error{Pos: at, Msg: diag.Quote(word) + " is a name, not an address",
				Hint: fmt.Sprintf("put it into a set: set name=NAME elements=%s, and write @NAME here", word)}
		}
		a.prefixes = append(a.prefixes, prefixes...)
	}
	return a, nil
}

// families returns the families of the addresses that are written out.
func (a *addrsText) families() (f Family) {
	for _, p := range a.prefixes {
		f |= familyOf(p.Addr())
	}
	return f
}

// resolve looks the sets up.
func (a *addrsText) resolve(sets map[string]*Set) Addrs {
	if !a.given {
		return Addrs{}
	}
	out := Addrs{Given: true, Not: a.not, In: prefixset.New(a.prefixes...)}
	if len(a.sets) == 1 && len(a.prefixes) == 0 {
		out.Set = a.sets[0]
	}
	for _, name := range a.sets {
		out.In = out.In.Union(sets[name].Addrs)
	}
	if a.not {
		out.In = Everything(V4).Union(Everything(V6)).Subtract(out.In)
	}
	return out
}

// ports reads a list of ports.
func ports(f *Field) (p portsText, err *conf.Error) {
	if f.Value == "any" {
		return p, nil
	}
	p.given = true
	for offset, word := range items(f.Value) {
		if name, ok := strings.CutPrefix(word, "@"); ok && isSetName(name) {
			p.sets = append(p.sets, name)
			continue
		}
		r, why := portOrService(word)
		if why != "" {
			at := f.At
			at.Col += offset
			return p, &conf.Error{Pos: at, Msg: why, Hint: cmp.Or(portHint(word), "write "+portsSyntax)}
		}
		p.ranges = append(p.ranges, r)
	}
	return p, nil
}

// portOrService reads a port, a range of ports, or the name of a service. why reports what is wrong with it.
func portOrService(word string) (r PortRange, why string) {
	if r, ok := portRange(word); ok {
		return r, ""
	}
	if !isService(word) {
		return r, "wrong value " + diag.Quote(word)
	}
	tcp, errTCP := net.LookupPort("tcp", word)
	udp, errUDP := net.LookupPort("udp", word)
	switch {
	case errTCP != nil && errUDP != nil:
		return r, "/etc/services has no service " + diag.Quote(word)
	case errTCP == nil && errUDP == nil && tcp != udp:
		return r, fmt.Sprintf("service %s is port %d of TCP and port %d of UDP", diag.Quote(word), tcp, udp)
	}
	port := uint16(max(tcp, udp))
	return PortRange{port, port}, ""
}

// isService reports whether s can be the name of a service.
func isService(s string) bool {
	return len(s) <= 64 && strings.ContainsFunc(s, func(r rune) bool { return 'a' <= r && r <= 'z' }) &&
		!strings.ContainsFunc(s, func(r rune) bool { return !isWord(r) && !strings.ContainsRune(".+", r) }) && isWord(rune(s[0])) && s[0] != '-'
}

// portNumbers returns a list of ports with numbers in place of names of services.
func portNumbers(value string) string {
	words := strings.Split(value, ",")
	for i, word := range words {
		if r, why := portOrService(word); why == "" {
			words[i] = r.String()
		}
	}
	return strings.Join(words, ",")
}

func portRange(word string) (PortRange, bool) {
	first, last, isRange := strings.Cut(word, "-")
	if !isRange {
		last = first
	}
	a, errA := strconv.ParseUint(first, 10, 16)
	b, errB := strconv.ParseUint(last, 10, 16)
	return PortRange{uint16(a), uint16(b)}, errA == nil && errB == nil && a > 0 && a <= b
}

func (p *portsText) resolve(sets map[string]*Set) Ports {
	if !p.given {
		return Ports{}
	}
	if len(p.sets) == 1 && len(p.ranges) == 0 {
		return Ports{Given: true, Set: p.sets[0], In: sets[p.sets[0]].In}
	}
	ranges := slices.Clone(p.ranges)
	for _, name := range p.sets {
		ranges = append(ranges, sets[name].In...)
	}
	return Ports{Given: true, In: MergePorts(ranges)}
}

// interfaces reads what is reported of an interface.
func interfaces(f *Field) (i interfacesText, err *conf.Error) {
	switch f.Value {
	case "any":
		return i, nil
	case "auto":
		i.auto = true
		return i, nil
	}
	value, not := strings.CutPrefix(f.Value, "!")
	i.Not = not
	for offset, word := range items(value) {
		if not {
			offset++
			word = strings.TrimPrefix(word, "!") // which others write before each
		}
		prefix, pattern := strings.CutSuffix(word, "*")
		if name, ok := strings.CutPrefix(word, "@"); ok && isSetName(name) {
			i.sets = append(i.sets, name)
			continue
		}
		switch {
		case pattern && strings.HasPrefix(Loopback, prefix):
			at := f.At
			at.Col += offset
			return i, &conf.Error{Pos: at, Msg: "pattern " + diag.Quote(word) + " fits lo, which has to be named", Hint: "write any for all interfaces but lo, lo for that one, or a longer pattern"}
		case !NamesInterface(word):
			return i, wrong(f.At, offset, word, namesSyntax)
		}
		if !slices.Contains(i.Names, word) {
			i.Names = append(i.Names, word)
		}
	}
	return i, nil
}

// Any reports whether every interface but loopback fits.
func (i *interfacesText) Any() bool { return i.Interfaces.Any() && len(i.sets) == 0 }

func (i *interfacesText) resolve(auto []string, sets map[string]*Set) Interfaces {
	if i.auto {
		return Interfaces{Names: auto}
	}
	out := Interfaces{Names: slices.Clone(i.Names), Not: i.Not}
	for _, name := range i.sets {
		out.Names = appendNew(out.Names, sets[name].Links)
	}
	return out
}

// appendNew appends the words that a list does not have.
func appendNew(list, words []string) []string {
	for _, word := range words {
		if !slices.Contains(list, word) {
			list = append(list, word)
		}
	}
	return list
}

// maxInterface is how long the kernel lets names of interfaces be.
const maxInterface = 15

// isInterface reports whether the kernel would take s for the name of an interface, and we can quote it everywhere.
func isInterface(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) <= maxInterface && !strings.ContainsFunc(s, func(r rune) bool {
		return !isWord(r) && !strings.ContainsRune(".:@+", r)
	})
}

// NamesInterface reports whether word is how a rule names an interface, or a pattern of interfaces.
func NamesInterface(word string) bool {
	prefix, pattern := strings.CutSuffix(word, "*")
	if pattern && (len(prefix) == maxInterface || strings.HasPrefix(Loopback, prefix)) {
		return false
	}
	return isInterface(prefix) && word != "any" && word != "auto"
}

func isWord(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '_' || r == '-'
}

// isSetName reports whether s can name a set. The kernel gives ipset 31 characters, of which we need some.
func isSetName(s string) bool {
	return s != "" && len(s) <= 20 && !strings.ContainsFunc(s, func(r rune) bool { return !isWord(r) }) &&
		!strings.ContainsAny(s[:1], "0123456789_-")
}

// groupSet returns the name of the set that a country or an autonomous system is, which no set statement can give, and groupOf the opposite.
func groupSet(g conf.GeoGroup) string {
	return strings.Replace(strings.TrimPrefix(g.String(), "@"), ":", ".", 1)
}

func groupOf(name string) (g conf.GeoGroup, ok bool) {
	g, wrong, _ := conf.ParseGeoGroup("@" + strings.Replace(name, ".", ":", 1))
	return g, wrong == "" && groupSet(g) == name
}

// states reads a list of states.
func states(f *Field) (s States, err *conf.Error) {
	if f.Value == "any" {
		return AnyState, nil
	}
	for offset, word := range items(f.Value) {
		one, ok := StateOf(word)
		if !ok {
			err := wrong(f.At, offset, word, stateSyntax)
			if hint := instead(word, stateNames); hint != "" {
				err.Hint = hint
			}
			return 0, err
		}
		s |= one
	}
	return s, nil
}

// maxPrefix is how long the text of log lines may be: iptables takes 29 characters, and a blank follows.
const maxPrefix = 28

// logPrefix reads the text that log lines begin with, "" for none. A $ would begin the name of a variable of nft's.
func logPrefix(f *Field) (string, *conf.Error) {
	if f.Value == "none" {
		return "", nil
	}
	text, ok := strings.CutPrefix(f.Value, "prefix:")
	if !ok || text == "" {
		return "", wrong(f.At, 0, f.Value, logSyntax)
	}
	if len(text) > maxPrefix || strings.ContainsFunc(text, func(r rune) bool { return r > '~' || strings.ContainsRune("\"\\\t$", r) }) {
		return "", wrong(f.At, len("prefix:"), text, fmt.Sprintf("up to %d characters of ASCII without quotes, backslashes and $", maxPrefix))
	}
	return text, nil
}

var rateUnits = map[string]string{"s": "second", "m": "minute", "h": "hour"}

// maxRate is the most that iptables can count a second.
const maxRate = 10_000

// rate reads how often may be logged.
func rate(f *Field) (Rate, *conf.Error) {
	if f.Value == "any" {
		return Rate{}, nil
	}
	number, unit, _ := strings.Cut(f.Value, "/")
	n, err := strconv.Atoi(number)
	if r := (Rate{n, rateUnits[unit]}); err == nil && r.Valid() {
		return r, nil
	}
	return Rate{}, wrong(f.At, 0, f.Value, rateSyntax)
}

// An Owner is the process that sends a packet. The zero value is none: a packet that the kernel sends by itself.
type Owner struct {
	Process     bool
	User, Group uint32
}

// String returns "user 33, group 33".
func (o Owner) String() string { return fmt.Sprintf("user %d, group %d", o.User, o.Group) }

// Owners is what a rule says of the process that sends a packet. The zero value fits any packet, also one that no process sends.
type Owners struct {
	Groups bool     // IDs are those of groups, otherwise of users
	IDs    []uint32 // sorted
}

// groupMark stands before the name of a group.
const groupMark = "group:"

// Words returns the owners as a value of owner=, "any" for the zero value.
func (o Owners) Words() string {
	if len(o.IDs) == 0 {
		return "any"
	}
	words := make([]string, len(o.IDs))
	for i, id := range o.IDs {
		if words[i] = strconv.FormatUint(uint64(id), 10); o.Groups {
			words[i] = groupMark + words[i]
		}
	}
	return strings.Join(words, ",")
}

func (o Owners) fits(p Owner) bool {
	id := p.User
	if o.Groups {
		id = p.Group
	}
	return len(o.IDs) == 0 || p.Process && slices.Contains(o.IDs, id)
}

// sets returns the users and groups that fit, as sets of numbers in words; "" stands for packets that no process sends.
func (o Owners) sets() (users, groups Links) {
	users, groups = AllLinks(), AllLinks()
	if len(o.IDs) == 0 {
		return users, groups
	}
	words := make([]string, len(o.IDs))
	for i, id := range o.IDs {
		words[i] = strconv.FormatUint(uint64(id), 10)
	}
	if o.Groups {
		return users, LinksOf(words...)
	}
	return LinksOf(words...), groups
}

// sampleOwner returns the owner of a packet by the sets of users and groups that it may have: none, if that is possible.
func sampleOwner(users, groups Links) (o Owner) {
	if users.Has("") && groups.Has("") {
		return Owner{}
	}
	id := func(of Links) uint32 {
		names := []string{"0", "1", "2", "33", "1000"}
		for _, s := range of.in {
			names = append(names, s.first)
		}
		for n := range 1000 {
			names = append(names, strconv.Itoa(n))
		}
		for _, name := range names {
			if n, err := strconv.ParseUint(name, 10, 32); err == nil && of.Has(name) {
				return uint32(n)
			}
		}
		return 0
	}
	return Owner{true, id(users), id(groups)}
}

const ownerSyntax = "any, or users by name or number such as www-data,1000, or groups such as group:mail"

// owners reads a list of users or of groups.
func owners(f *Field) (o Owners, err *conf.Error) {
	if f.Value == "any" {
		return o, nil
	}
	for offset, word := range items(f.Value) {
		at := f.At
		at.Col += offset
		name, isGroup := strings.CutPrefix(word, groupMark)
		if strings.HasPrefix(name, "!") || name == "" {
			return o, wrong(at, 0, word, ownerSyntax)
		}
		if len(o.IDs) > 0 && isGroup != o.Groups {
			return o, &conf.Error{Pos: at, Msg: "users and groups in one rule", Hint: "write a rule for the users, and one for the groups"}
		}
		o.Groups = isGroup
		id, ok := OwnerID(name, isGroup)
		if !ok {
			kind := map[bool]string{false: "user", true: "group"}[isGroup]
			return o, &conf.Error{Pos: at, Msg: fmt.Sprintf("there is no %s %s", kind, diag.Quote(name)), Hint: "create it, or write its number"}
		}
		o.IDs = append(o.IDs, id)
	}
	slices.Sort(o.IDs)
	o.IDs = slices.Compact(o.IDs)
	return o, nil
}

// noID is the number that no user and no group has.
const noID = 1<<32 - 1

// OwnerID returns the number of a user or group, by name or number.
func OwnerID(name string, isGroup bool) (uint32, bool) {
	text := name
	if strings.Trim(name, "0123456789") != "" {
		if isGroup {
			g, err := user.LookupGroup(name)
			if err != nil {
				return 0, false
			}
			text = g.Gid
		} else {
			u, err := user.Lookup(name)
			if err != nil {
				return 0, false
			}
			text = u.Uid
		}
	}
	id, err := strconv.ParseUint(text, 10, 32)
	return uint32(id), err == nil && id != noID
}
