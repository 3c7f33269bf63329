package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"mef/internal/conf"
	"mef/internal/conf/diag"
	"mef/internal/prefixset"
)

const (
	maxFile       = 16 << 20 // bytes of one file
	maxStatements = 100_000  // of all files
	maxFiles      = 1000     // of a policy; one that is included twice is two
	maxSet        = 1 << 20  // elements of one set
)

// A Source is what a file and the files that it includes say, before anything is known of the host.
type Source struct {
	Path       string
	Statements []Statement // in order, includes replaced by what they include
	Files      []string    // with statements, in the order in which they were read; those of sets are not among them
	Digest     string      // of the text of all files that were read, those of sets included; not of where they are

	defaults [len(Dirs)]*Default
	rules    []clause
	nats     []clause
	expects  []clause
	sets     map[string]*setText
}

// A clause is what rules and expectations have in common.
type clause struct {
	Rule     // what needs nothing from outside
	iif, oif interfacesText
	src, dst addrsText
	sport    portsText
	dport    portsText
	named    []reference
}

// A setText is a set as it is written.
type setText struct {
	Set
	family Family
	addrs  addrsText
	ports  portsText
	links  interfacesText
	names  []string // of hosts
	named  []reference
	group  conf.GeoGroup // the set is this country or autonomous system, if Facts has it
}

// Read reads the policy at path. The error is a conf.Errors, all mistakes of all files, or reports why path cannot be read.
func Read(path string) (*Source, error) {
	text, err := ReadFile(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, text)
}

// Parse is Read for a text that came from path. Other files are looked for beside it.
func Parse(path string, text []byte) (*Source, error) { return parse(path, text, false) }

// Thaw is Parse for a text that Freeze made, whose lines are as long as sets are large, and whose statements report where they came
// from.
func Thaw(path string, text []byte) (*Source, error) { return parse(path, text, true) }

func parse(path string, text []byte, frozen bool) (*Source, error) {
	r := newReader(&Source{Path: path, sets: map[string]*setText{}})
	if frozen {
		r.longest, r.frozen = len(text), true
	}
	r.text(conf.Pos{}, path, text)
	r.check()
	if err := r.errs.Err(); err != nil {
		return nil, err
	}
	r.src.Digest = hex.EncodeToString(r.digest.Sum(nil))
	return r.src, nil
}

// Expect adds the expectations of another file, which may hold nothing else. The error is a conf.Errors.
func (s *Source) Expect(path string, text []byte) error {
	r := newReader(s)
	all, errs := scan(path, text, maxLine)
	r.errs = errs
	for i := range all {
		st := &all[i]
		if st.Kind != "" && st.Kind != "expect" {
			r.fail(st.At, diag.Quote(st.Kind)+" is not an expectation", "write "+example("expect"))
		} else if st.Kind != "" {
			r.statement(st)
		}
	}
	for i := range s.expects {
		s.addGroups(s.expects[i].named)
		r.expectation(&s.expects[i])
	}
	return r.errs.Err()
}

// Describe reads the words of an expectation without its action: a description of packets, for Model.Ask. What it names in files
// and on this host is looked up in the facts. The error is a conf.Errors, whose places are in the words joined by blanks.
func (s *Source) Describe(name string, words []string) (func(Facts) *Rule, error) {
	r := newReader(s)
	const kind = "expect "
	st, scanErr := scanLine(conf.Pos{File: name, Line: 1, Col: 1}, kind+strings.Join(words, " "))
	if scanErr != nil {
		return nil, conf.Errors{moved(scanErr, -len(kind))}
	}
	known := slices.DeleteFunc(slices.Clone(kinds["expect"].keys), func(key string) bool { return key == "action" || key == "comment" })
	var c clause
	if r.keys(&st, known, []string{"dir", "proto"}) {
		c = r.expected(&st)
		s.addGroups(c.named)
		r.expectation(&c)
	}
	for i := range r.errs {
		r.errs[i] = moved(r.errs[i], -len(kind))
	}
	return func(f Facts) *Rule {
		sets := map[string]*Set{}
		for name := range s.sets {
			s.resolve(name, f, sets)
		}
		rule := s.rule(c, f, sets)
		return &rule
	}, r.errs.Err()
}

// moved returns a mistake at another column.
func moved(e *conf.Error, by int) *conf.Error {
	m := *e
	m.Col = max(1, m.Col+by)
	return &m
}

// ReadFile returns the text of a file. It must be a regular one, and no larger than a policy may be.
func ReadFile(path string) ([]byte, error) {
	text, err := conf.ReadFile(path, maxFile)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", conf.Name(path), unwrapped(err))
	}
	return text, nil
}

// unwrapped returns the reason alone of an error that names a file and a system call.
func unwrapped(err error) error {
	if e := (*fs.PathError)(nil); errors.As(err, &e) {
		return e.Err
	}
	return err
}

// ReadAll returns the text that comes from in, which is called name. It must be no larger than a policy may be.
func ReadAll(name string, in io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s has more than %d MB: it is not a policy", name, maxFile>>20)
	}
	if err != nil {
		return nil, err
	}
	return text, nil
}

// A reader gathers a Source and the mistakes in it.
type reader struct {
	src    *Source
	errs   conf.Errors
	files  int       // that were read, as often as they were
	digest hash.Hash // of their texts
	stack  []string  // files that are being read, the one that includes the next last

	longest int // bytes of a line
	frozen  bool
}

func newReader(src *Source) *reader {
	return &reader{src: src, digest: sha256.New(), longest: maxLine}
}

func (r *reader) fail(at conf.Pos, msg, hint string) {
	r.errs = append(r.errs, &conf.Error{Pos: at, Msg: msg, Hint: hint})
}

// fault notes a mistake, if there is one, and reports whether there is none.
func (r *reader) fault(err *conf.Error) bool {
	if err != nil {
		r.errs = append(r.errs, err)
	}
	return err == nil
}

// another reports whether one more file may be read, for the statement at a place.
func (r *reader) another(at conf.Pos) bool {
	if r.files == maxFiles {
		r.fail(at, fmt.Sprintf("more than %d files", maxFiles), "combine them")
		r.files++ // which is reported once
	}
	return r.files < maxFiles
}

// taken notes the text of a file that the statement at a place names. Texts in the order in which they are read, each with that
// place, are all that a policy is made of: the same texts somewhere else are the same policy.
func (r *reader) taken(at conf.Pos, text []byte) {
	r.files++
	fmt.Fprintf(r.digest, "%d %d %d\n", len(r.stack), at.Line, len(text))
	r.digest.Write(text)
}

// text reads the text of a file that the statement at a place includes.
func (r *reader) text(at conf.Pos, path string, text []byte) {
	r.taken(at, text)
	r.src.Files = append(r.src.Files, path)
	r.stack = append(r.stack, path)
	defer func() { r.stack = r.stack[:len(r.stack)-1] }()
	all, errs := scan(path, text, r.longest)
	r.errs = append(r.errs, errs...)
	r.src.Statements = slices.Grow(r.src.Statements, len(all))
	r.src.rules = slices.Grow(r.src.rules, len(all))
	for i := range all {
		if len(r.src.Statements) >= maxStatements {
			r.fail(all[i].At, fmt.Sprintf("more than %d statements", maxStatements), "put addresses and ports in sets")
			return
		}
		if len(r.errs) >= maxMistakes {
			if len(errs) < maxMistakes {
				r.fault(tooMany(all[i].At))
			}
			return
		}
		if r.frozen {
			all[i].placed()
		}
		if all[i].Kind != "" {
			r.statement(&all[i])
		}
	}
}

// kinds are the statements and the keys that each may have, in the order in which they are written. Those of the second list must
// be there.
var kinds = map[string]struct{ keys, needed []string }{
	"policy": {[]string{"dir", "action", "mss"}, []string{"dir", "action"}},
	"rule": {[]string{"dir", "family", "action", "log", "ratelimit", "proto", "icmp-type", "tcp-flags", "iif", "oif", "src", "dst", "sport", "dport", "owner", "ct", "limit", "helper", "comment"},
		[]string{"dir", "action", "proto"}},
	"nat": {[]string{"dir", "family", "action", "to", "proto", "iif", "oif", "src", "dst", "dport", "comment"}, []string{"dir", "action"}},
	"set": {[]string{"name", "family", "type", "elements", "file", "source"}, []string{"name"}},
	"expect": {[]string{"dir", "family", "proto", "icmp-type", "tcp-flags", "iif", "oif", "src", "dst", "sport", "dport", "owner", "ct", "action", "comment"},
		[]string{"dir", "action", "proto"}},
	"include": {[]string{"include"}, []string{"include"}},
}

var kindNames = []string{"policy", "rule", "nat", "set", "expect", "include"}

// statement checks the form of a statement and takes it in.
func (r *reader) statement(st *Statement) {
	kind, ok := kinds[st.Kind]
	if !ok {
		r.fault(unknownStatement(st.At, st.Kind))
		return
	}
	if !r.keys(st, kind.keys, kind.needed) {
		return
	}
	switch st.Kind {
	case "include":
		r.include(st)
		return
	case "policy":
		r.policy(st)
	case "set":
		r.set(st)
	case "rule":
		r.src.rules = append(r.src.rules, r.clause(st))
	case "nat":
		r.src.nats = append(r.src.nats, r.clause(st))
	case "expect":
		r.src.expects = append(r.src.expects, r.expected(st))
	}
	r.src.Statements = append(r.src.Statements, *st)
}

// keys checks which keys a statement has.
func (r *reader) keys(st *Statement, known, needed []string) bool {
	good := true
	for i, f := range st.Fields {
		switch {
		case !slices.Contains(known, f.Key):
			hint := tried[strings.ToLower(f.Key)]
			if hint == "" {
				hint = diag.DidYouMean(f.Key, known)
			}
			if hint == "" {
				hint = st.Kind + " has " + strings.Join(known, ", ")
			}
			r.fail(f.key, "unknown key "+diag.Quote(f.Key), hint)
			good = false
		case st.field(f.Key) != &st.Fields[i]:
			r.fail(f.key, diag.Quote(f.Key)+" occurs twice", "write it once, with commas between values")
			good = false
		case f.Value == "" && f.Key != "comment":
			r.fail(f.At, diag.Quote(f.Key)+" has no value", "write one after =, or remove the key")
			good = false
		}
	}
	for _, key := range needed {
		if st.field(key) == nil {
			if st.Kind == key {
				key = "a file"
			}
			r.fail(st.At, fmt.Sprintf("%s without %s", st.Kind, key), "write "+example(st.Kind))
			good = false
		}
	}
	return good
}

// example returns a statement to follow.
func example(kind string) string {
	return map[string]string{
		"policy":  "policy dir=in action=drop",
		"rule":    "rule dir=in action=accept proto=tcp dport=22",
		"nat":     "nat dir=out oif=eth0 src=192.168.0.0/16 action=masquerade",
		"set":     "set name=office type=addr elements=192.0.2.0/24,2001:db8::/32",
		"expect":  "expect dir=in proto=tcp dport=22 action=accept",
		"include": "include=/etc/mef/rules.d/*.rules",
	}[kind]
}

func (r *reader) policy(st *Statement) {
	d, err := choice(st.field("dir"), dirNames)
	good := r.fault(err)
	a, err := choice(st.field("action"), actionNames)
	if !r.fault(err) || !good {
		return
	}
	mss := st.field("mss")
	if mss != nil {
		if _, err := choice(mss, []string{"auto"}); !r.fault(err) {
			return
		}
		if Dir(d) != Forward {
			r.fail(mss.key, "mss is for connections that are forwarded", "write it at policy dir=fwd, or remove it")
			return
		}
	}
	if first := r.src.defaults[d]; first != nil {
		r.fail(st.At, fmt.Sprintf("a second policy for dir=%s", Dir(d)), "keep one; the first is at "+first.At.String())
		return
	}
	r.src.defaults[d] = &Default{st.At, Action(a), mss != nil}
}

// include reads the files that a pattern, or a folder, stands for.
func (r *reader) include(st *Statement) {
	f := st.field("include")
	pattern := f.Value
	if !filepath.IsAbs(pattern) {
		pattern = filepath.Join(filepath.Dir(r.stack[len(r.stack)-1]), pattern)
	}
	if info, err := os.Stat(pattern); err == nil && info.IsDir() {
		pattern = filepath.Join(pattern, "*.rules")
	}
	paths, err := filepath.Glob(pattern)
	if err != nil {
		r.fail(f.At, "wrong pattern "+diag.Quote(f.Value), "write a file, a directory, or a pattern such as /etc/mef/rules.d/*.rules")
		return
	}
	if len(paths) == 0 && !strings.ContainsAny(pattern, "*?[") {
		r.fail(f.At, "no such file: "+diag.Quote(pattern), "create it, or write a pattern such as *.rules, which may match nothing")
	}
	for _, path := range paths {
		switch {
		case slices.Contains(r.stack, path):
			r.fail(f.At, diag.Quote(path)+" includes itself", "remove this line")
			continue
		case !r.another(f.At):
			return
		}
		text, err := ReadFile(path)
		if err != nil {
			r.fail(f.At, err.Error(), "")
			continue
		}
		r.text(f.At, path, text)
	}
}

// set takes a named set in.
func (r *reader) set(st *Statement) {
	s := &setText{Set: Set{At: st.At}, family: Any}
	nameField := st.field("name")
	if _, group := groupOf(nameField.Value); !isSetName(nameField.Value) && !(group && r.frozen) {
		r.fault(wrong(nameField.At, 0, nameField.Value, setSyntax))
		return
	}
	s.Name = nameField.Value
	if first := r.src.sets[s.Name]; first != nil {
		r.fail(nameField.At, "a second set "+diag.Quote(s.Name), "choose another name; the first is at "+first.At.String())
		return
	}
	r.src.sets[s.Name] = s
	if f := st.field("type"); f != nil {
		i, err := choice(f, setTypeNames)
		r.fault(err)
		s.Type = SetType(i)
	}
	if f := st.field("family"); f != nil {
		i, err := choice(f, familyNames)
		r.fault(err)
		if s.family = Family(i); s.Type != AddrSet && s.family != Any {
			r.fail(f.At, setTypeWords[s.Type]+" have no family", "remove family")
		}
	}
	r.elements(st, s)
}

// nothing is the value of elements in a set that is empty.
const nothing = "none"

// elements reads what is in a set.
func (r *reader) elements(st *Statement, s *setText) {
	elements, file, source := st.field("elements"), st.field("file"), st.field("source")
	if elements == nil && file == nil && source == nil {
		r.fail(st.At, "set without elements", "write "+example("set")+", or file=PATH")
	}
	if elements != nil && elements.Value == nothing {
		elements = nil
	}
	if elements != nil {
		s.named = references(elements, s.Type)
	}
	if s.Type == InterfaceSet {
		r.interfaceSet(st, s)
		return
	}
	if elements != nil && s.Type == PortSet {
		p, err := ports(elements)
		r.fault(err)
		s.ports = p
	} else if elements != nil {
		r.fault(s.hosts(elements))
	}
	if file != nil {
		r.setFile(file, s)
	}
	if source != nil {
		name, ok := strings.CutPrefix(source.Value, "ipset:")
		switch {
		case !ok || !isIPSet(name):
			r.fault(wrong(source.At, 0, source.Value, "ipset:NAME"))
		case elements != nil || file != nil || s.Type != AddrSet || s.family == Any:
			r.fail(source.At, "a set of ipset has one family and no other keys", fmt.Sprintf("write set name=%s family=ip type=addr source=%s", s.Name, source.Value))
		default:
			s.IPSet = name
		}
	}
}

// interfaceSet reads the elements of a set of interfaces, which cannot be empty: a rule without interfaces fits any.
func (r *reader) interfaceSet(st *Statement, s *setText) {
	f := st.field("elements")
	switch {
	case f == nil || len(st.Fields) > 3:
		r.fail(st.At, "a set of interfaces has elements= and nothing else", "write set name="+s.Name+" type=interface elements=eth1,wg*")
	case f.Value == nothing || f.Value == "any" || f.Value == "auto" || strings.HasPrefix(f.Value, "!"):
		r.fault(wrong(f.At, 0, f.Value, "interfaces, patterns such as wg*, and other sets of interfaces"))
	default:
		var err *conf.Error
		s.links, err = interfaces(f)
		r.fault(err)
	}
}

// isIPSet reports whether s can be the name of a set of ipset(8).
func isIPSet(s string) bool {
	return s != "" && len(s) <= 31 && !strings.ContainsFunc(s, func(r rune) bool { return !isWord(r) && !strings.ContainsRune(".:", r) })
}

// hosts reads a list of addresses and names of hosts.
func (s *setText) hosts(f *Field) *conf.Error {
	if f.Value == "any" {
		return wrong(f.At, 0, f.Value, "0.0.0.0/0 and ::/0 if you mean all addresses")
	}
	s.addrs.given = true
	for offset, word := range items(f.Value) {
		at := f.At
		at.Col += offset
		if strings.HasPrefix(word, "@") {
			one, err := addrs(&Field{Value: word, At: at})
			if err != nil {
				return err
			}
			s.addrs.sets = append(s.addrs.sets, one.sets...)
			continue
		}
		if err := s.entry(at, word); err != nil {
			return err
		}
	}
	return nil
}

// entry takes an address, a prefix, a range or a name into the set.
func (s *setText) entry(at conf.Pos, word string) *conf.Error {
	prefixes, err := conf.EntryPrefixes(at, word)
	if err != nil {
		return err
	}
	if prefixes == nil {
		s.names = append(s.names, strings.ToLower(strings.TrimSuffix(word, ".")))
	}
	for _, p := range prefixes {
		if f := familyOf(p.Addr()); s.family&f == 0 {
			return &conf.Error{Pos: at, Msg: fmt.Sprintf("%s is not in family=%s", diag.Quote(word), s.family), Hint: "write family=any, or another address"}
		}
	}
	s.addrs.prefixes = append(s.addrs.prefixes, prefixes...)
	return nil
}

// setFile reads the file of a set: an entry a line, as in the lists of mefdaemon.
func (r *reader) setFile(f *Field, s *setText) {
	path := f.Value
	if !filepath.IsAbs(path) {
		path = filepath.Join(filepath.Dir(f.At.File), path)
	}
	if !r.another(f.At) {
		return
	}
	text, err := ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		r.fail(f.At, "no such file: "+diag.Quote(path), "create it; it may be empty")
		return
	}
	if err != nil {
		r.fail(f.At, err.Error(), "")
		return
	}
	r.taken(f.At, text)
	if s.Type == PortSet {
		r.portsFile(path, text, s)
		return
	}
	entries, errs := conf.ParseList(path, text)
	r.errs = append(r.errs, errs...)
	if len(entries) > maxSet {
		r.fail(f.At, fmt.Sprintf("more than %d entries in %s", maxSet, diag.Quote(path)), "")
		return
	}
	s.addrs.given = true
	for _, e := range entries {
		if !r.fault(s.entry(e.Pos, e.Text)) {
			return
		}
	}
}

// portsFile reads ports, some on a line.
func (r *reader) portsFile(path string, text []byte, s *setText) {
	number := 0
	s.ports.given = true
	for line := range strings.Lines(string(text)) {
		number++
		words, _, _ := strings.Cut(line, "#")
		for _, word := range strings.FieldsFunc(words, func(r rune) bool { return strings.ContainsRune(", \t\r\n", r) }) {
			p, why := portOrService(word)
			if why != "" {
				at := conf.Pos{File: path, Line: number, Col: 1 + strings.Index(line, word)}
				r.fail(at, why, "write ports and ranges from 1 to 65535 such as 22,8000-8010, or services of /etc/services such as https")
				return
			}
			s.ports.ranges = append(s.ports.ranges, p)
		}
	}
}

// clause reads the fields that rules and expectations have.
func (r *reader) clause(st *Statement) clause {
	c := clause{Rule: Rule{At: st.At, Family: Any, States: AnyState}}
	if st.Kind == "nat" {
		c.NAT = &Translation{}
	}
	for i := range st.Fields {
		r.fault(c.take(&st.Fields[i]))
	}
	r.consistent(st, &c)
	return c
}

// expected reads an expectation: unless it names states, it is about packets that open a connection, which of TCP are those with SYN.
func (r *reader) expected(st *Statement) clause {
	c := r.clause(st)
	if st.field("ct") == nil {
		c.States = New
	}
	if c.States == New && st.field("tcp-flags") == nil {
		c.Flags = Syn
	}
	return c
}

// take reads one field.
func (c *clause) take(f *Field) (err *conf.Error) {
	var i int
	switch f.Key {
	case "dir":
		i, err = choice(f, dirNames)
		c.Dir = Dir(i)
	case "action":
		if c.NAT != nil {
			i, err = choice(f, natNames)
			c.NAT.Action = NATAction(i)
			break
		}
		i, err = choice(f, actionNames)
		c.Action = Action(i)
	case "to":
		err = c.NAT.target(f)
	case "family":
		i, err = choice(f, familyNames)
		c.Family = Family(i)
	case "proto":
		c.Protos, err = protocols(f)
	case "log":
		c.Log, err = logPrefix(f)
	case "ratelimit":
		c.LogRate, err = rate(f)
	case "limit":
		c.Limit, err = rate(f)
	case "iif":
		c.iif, err = interfaces(f)
		c.named = append(c.named, references(f, InterfaceSet)...)
	case "oif":
		c.oif, err = interfaces(f)
		c.named = append(c.named, references(f, InterfaceSet)...)
	case "src":
		c.src, err = addrs(f)
		c.named = append(c.named, references(f, AddrSet)...)
	case "dst":
		c.dst, err = addrs(f)
		c.named = append(c.named, references(f, AddrSet)...)
	case "sport":
		c.sport, err = ports(f)
		c.named = append(c.named, references(f, PortSet)...)
	case "dport":
		c.dport, err = ports(f)
		c.named = append(c.named, references(f, PortSet)...)
	case "ct":
		c.States, err = states(f)
	case "tcp-flags":
		i, err = choice(f, flagNames)
		c.Flags = TCPFlags(i)
	case "owner":
		c.Owners, err = owners(f)
	case "helper":
		c.Helper, err = helper(f)
	case "comment":
		c.Comment = f.Value
	}
	return err
}

// consistent finds fields that do not go together.
func (r *reader) consistent(st *Statement, c *clause) {
	at := func(key string) conf.Pos {
		if f := st.field(key); f != nil {
			return f.At
		}
		return st.At
	}
	for _, p := range c.Protos {
		if c.Family != 0 && c.Family&p.Families() == 0 {
			r.fail(at("proto"), fmt.Sprintf("proto=%s is not in family=%s", p, c.Family), "write family=any, or another protocol")
		}
	}
	c.Family &= c.Protos.Families()
	if f := st.field("icmp-type"); f != nil {
		r.types(f, c)
	}
	if c.Flags != 0 && (len(c.Protos) != 1 || c.Protos[0] != TCP) {
		r.fail(at("tcp-flags"), fmt.Sprintf("proto=%s has no flags of TCP", c.Protos), "write proto=tcp")
	}
	if (c.sport.given || c.dport.given) && !c.Protos.HavePorts() {
		key := "dport"
		if c.sport.given {
			key = "sport"
		}
		r.fail(at(key), fmt.Sprintf("proto=%s has no ports", c.Protos), "write proto=tcp, proto=udp or proto=tcp,udp")
	}
	if c.LogRate != (Rate{}) && c.Log == "" {
		r.fail(at("ratelimit"), "ratelimit without log does nothing: it limits log lines, not packets", "add log=prefix:TEXT, or write limit= to limit what is accepted from each source")
	}
	if c.Limit != (Rate{}) && c.Action != Accept {
		r.fail(at("limit"), fmt.Sprintf("limit with action=%s: it limits how much is accepted, and what is over it is dropped", c.Action), "write action=accept, or remove limit")
	}
	if c.Limit != (Rate{}) && c.Dir == Out {
		r.fail(at("limit"), "limit counts by source, which is this host for dir=out", "write it in a rule with dir=in or dir=fwd")
	}
	if len(c.Owners.IDs) > 0 && c.Dir != Out {
		r.fail(at("owner"), fmt.Sprintf("owner with dir=%s: only packets from this host have an owner here", c.Dir), "write it in a rule with dir=out, or remove it")
	}
	if c.Helper != "" {
		r.helped(at, c)
	}
	if c.Dir == In && (c.oif.auto || !c.oif.Any()) {
		msg, hint := "packets to this host do not leave by an interface", "write iif, or dir=fwd"
		if c.NAT != nil {
			msg, hint = "destinations are translated before it is known by which interface packets leave", "write iif"
		}
		r.fail(at("oif"), msg, hint)
	}
	if c.Dir == Out && (c.iif.auto || !c.iif.Any()) {
		msg, hint := "packets from this host do not arrive by an interface", "write oif, or dir=fwd"
		if c.NAT != nil {
			msg, hint = "sources are translated when it is no longer known by which interface packets arrived", "write oif, and src with the addresses behind that interface"
		}
		r.fail(at("iif"), msg, hint)
	}
	if c.NAT != nil {
		r.translation(st, c, at)
	}
	r.families(st, c, at)
}

// types reads the types of ICMP messages, once the protocol is known.
func (r *reader) types(f *Field, c *clause) {
	if f.Value == "any" {
		return
	}
	if len(c.Protos) != 1 || c.Protos[0] != ICMP && c.Protos[0] != ICMP6 {
		r.fail(f.At, fmt.Sprintf("proto=%s has no types of ICMP messages", c.Protos), "write proto=icmp or proto=icmp6, a rule for each if you mean both")
		return
	}
	types, err := icmpTypes(f, c.Protos[0])
	r.fault(err)
	c.Types = types
}

// families finds addresses that cannot meet in one packet.
func (r *reader) families(st *Statement, c *clause, at func(string) conf.Pos) {
	left := c.Family
	for _, side := range []struct {
		key   string
		addrs *addrsText
	}{{"src", &c.src}, {"dst", &c.dst}} {
		if len(side.addrs.prefixes) == 0 || len(side.addrs.sets) > 0 || side.addrs.not {
			continue
		}
		f := side.addrs.families()
		if left&f == 0 && left != 0 {
			f := st.field(side.key)
			r.fail(at(side.key), fmt.Sprintf("no packet matches: %s is not of the family of the other fields, which is %s", diag.Quote(f.Value), left),
				"write addresses of one family, or family=any")
		}
		left &= f
	}
}

// check looks at the file as a whole, once all of it is read.
func (r *reader) check() {
	whole, good := conf.Pos{File: r.src.Path}, len(r.errs) == 0
	if len(r.src.Statements) == 0 && good {
		r.fail(whole, "no statement in this file", "begin with "+example("policy"))
		return
	}
	if r.src.defaults[In] == nil && good {
		r.fail(whole, "no policy for dir=in", "write the verdict on packets that no rule matches: "+example("policy"))
	}
	for _, c := range slices.Concat(r.src.rules, r.src.nats, r.src.expects) {
		r.src.addGroups(c.named)
	}
	for _, name := range slices.Collect(maps.Keys(r.src.sets)) {
		r.src.addGroups(r.src.sets[name].named)
	}
	for i := range r.src.rules {
		c := &r.src.rules[i]
		if r.src.defaults[c.Dir] == nil && c.Dir != In && good {
			r.fail(c.At, fmt.Sprintf("a rule for dir=%s, but no policy for it", c.Dir), fmt.Sprintf("write policy dir=%s action=accept, or drop", c.Dir))
		}
		r.references(c)
	}
	for i := range r.src.nats {
		r.references(&r.src.nats[i])
	}
	for i := range r.src.expects {
		r.expectation(&r.src.expects[i])
	}
	done := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(r.src.sets)) {
		s := r.src.sets[name]
		r.known(s.named)
		if inner, ok := r.ipset(s.addrs.sets); ok {
			r.alone(s.At, inner)
		}
		if ring := r.ring(name, nil, done); ring != nil {
			if n := len(ring); n > fewWords {
				ring = slices.Concat(ring[:fewWords-2], []string{"…"}, ring[n-1:])
			}
			r.fail(s.At, "the set contains itself: "+strings.Join(ring, " → "), "remove one of them")
		}
	}
	r.translations()
}

// addGroups adds the countries and autonomous systems that are named to the sets, unless a frozen policy has them already.
func (s *Source) addGroups(named []reference) {
	for _, ref := range named {
		if g, ok := groupOf(ref.set); ok && s.sets[ref.set] == nil {
			s.sets[ref.set] = &setText{Set: Set{At: ref.at, Name: ref.set}, family: Any, group: g}
		}
	}
}

// Groups returns the countries and autonomous systems whose addresses the policy needs, each with a place that names it.
func (s *Source) Groups() map[conf.GeoGroup]conf.Pos {
	all := map[conf.GeoGroup]conf.Pos{}
	for _, set := range s.sets {
		if set.group != (conf.GeoGroup{}) {
			all[set.group] = set.At
		}
	}
	return all
}

// references finds sets that are not there, or hold something else.
func (r *reader) references(c *clause) {
	r.known(c.named)
	for _, a := range []*addrsText{&c.src, &c.dst} {
		if name, ok := r.ipset(a.sets); ok && len(a.sets)+len(a.prefixes) > 1 {
			r.alone(c.At, name)
		} else if ok && a.not {
			r.fail(c.At, fmt.Sprintf("%s is a set of ipset, of which it is not known what is not in it", diag.Quote("@"+name)), "write a rule for those that are in it, and behind it one for the others")
		}
	}
}

// expectation is references for a clause of which it has to be known which packets fit.
func (r *reader) expectation(c *clause) {
	r.references(c)
	if name, ok := r.ipset(slices.Concat(c.src.sets, c.dst.sets)); ok {
		r.fail(c.At, fmt.Sprintf("the elements of %s, a set of ipset, are not known", diag.Quote("@"+name)), "write addresses")
	}
}

// ipset returns the first of some sets that is one of ipset.
func (r *reader) ipset(names []string) (name string, ok bool) {
	i := slices.IndexFunc(names, func(name string) bool { return r.src.sets[name] != nil && r.src.sets[name].IPSet != "" })
	if i < 0 {
		return "", false
	}
	return names[i], true
}

func (r *reader) alone(at conf.Pos, name string) {
	r.fail(at, fmt.Sprintf("%s is a set of ipset, which must be the only value", diag.Quote("@"+name)), fmt.Sprintf("write a rule for @%s, and another for the rest", name))
}

// known finds names of sets that are not there, or hold something else.
func (r *reader) known(named []reference) {
	for _, ref := range named {
		s := r.src.sets[ref.set]
		switch {
		case s == nil:
			hint := diag.DidYouMean(ref.set, slices.Collect(maps.Keys(r.src.sets)))
			if hint == "" {
				hint = "write set name=" + ref.set + " elements=..."
			}
			r.fail(ref.at, "there is no set "+diag.Quote("@"+ref.set), hint)
		case s.Type != ref.kind:
			r.fail(ref.at, fmt.Sprintf("set %s holds %s", diag.Quote("@"+ref.set), setTypeWords[s.Type]),
				"write type=addr for src and dst, type=port for sport and dport, type=interface for iif and oif")
		}
	}
}

// ring returns the way by which a set contains itself, nil if it does not. Sets that were looked at before are done.
func (r *reader) ring(name string, way []string, done map[string]bool) []string {
	if i := slices.Index(way, name); i >= 0 {
		return append(slices.Clone(way[i:]), name)
	}
	s := r.src.sets[name]
	if s == nil || done[name] {
		return nil
	}
	done[name] = true
	for _, inner := range slices.Concat(s.addrs.sets, s.ports.sets, s.links.sets) {
		if ring := r.ring(inner, append(way, name), done); ring != nil {
			return ring
		}
	}
	return nil
}

// Hosts returns the names of hosts whose addresses the policy needs, sorted.
func (s *Source) Hosts() []string {
	var names []string
	for _, set := range s.sets {
		names = append(names, set.names...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Auto reports whether the policy needs to know the interfaces of the default routes.
func (s *Source) Auto() bool {
	return slices.ContainsFunc(slices.Concat(s.rules, s.nats, s.expects), func(c clause) bool { return c.iif.auto || c.oif.auto })
}

// Facts are what a policy needs to know of the host.
type Facts struct {
	Auto  []string                // interfaces of the default routes; none: auto fits any
	Hosts map[string][]netip.Addr // addresses of the names that sets have; those that are missing add nothing to their sets
	// Groups are the addresses of countries and autonomous systems; without those that are missing the policy means something else.
	Groups map[conf.GeoGroup]*prefixset.Packed
}

// Policy resolves names, interfaces and sets.
func (s *Source) Policy(facts Facts) *Policy {
	p := &Policy{Defaults: s.defaults, Rules: make([]Rule, 0, len(s.rules))}
	sets := map[string]*Set{}
	for name := range s.sets {
		s.resolve(name, facts, sets)
	}
	for _, c := range s.rules {
		p.Rules = append(p.Rules, s.rule(c, facts, sets))
	}
	for _, c := range s.nats {
		p.NAT = append(p.NAT, s.rule(c, facts, sets))
	}
	for _, c := range s.expects {
		p.Expects = append(p.Expects, Expectation{s.rule(c, facts, sets)})
	}
	for _, name := range slices.Sorted(maps.Keys(sets)) {
		if p.uses(name) {
			p.Sets = append(p.Sets, *sets[name])
		}
	}
	return p
}

// rule resolves one clause.
func (s *Source) rule(c clause, facts Facts, sets map[string]*Set) Rule {
	r := c.Rule
	r.In, r.Out = c.iif.resolve(facts.Auto, sets), c.oif.resolve(facts.Auto, sets)
	r.Src, r.Dst = c.src.resolve(sets), c.dst.resolve(sets)
	r.Sport, r.Dport = c.sport.resolve(sets), c.dport.resolve(sets)
	r.Family &= s.families(c.src, r.Src) & s.families(c.dst, r.Dst)
	return r
}

// families returns which families have addresses that fit. What is in a set of ipset is not known, but of which family it is.
func (s *Source) families(text addrsText, a Addrs) Family {
	if len(text.sets) == 1 && s.sets[text.sets[0]].IPSet != "" {
		return s.sets[text.sets[0]].family
	}
	return a.Families()
}

// resolve finds what is in a set and in those it names.
func (s *Source) resolve(name string, facts Facts, sets map[string]*Set) *Set {
	if done := sets[name]; done != nil {
		return done
	}
	text := s.sets[name]
	set := text.Set
	prefixes := slices.Clone(text.addrs.prefixes)
	for _, host := range text.names {
		for _, a := range facts.Hosts[host] {
			if a = a.Unmap(); text.family&familyOf(a) != 0 {
				prefixes = append(prefixes, netip.PrefixFrom(a, a.BitLen()))
			}
		}
	}
	set.Addrs = prefixset.New(prefixes...)
	if text.group != (conf.GeoGroup{}) {
		set.Addrs = facts.Groups[text.group].Set()
	}
	set.In = slices.Clone(text.ports.ranges)
	for _, inner := range text.addrs.sets {
		set.Addrs = set.Addrs.Union(s.resolve(inner, facts, sets).Addrs)
	}
	for _, inner := range text.ports.sets {
		set.In = append(set.In, s.resolve(inner, facts, sets).In...)
	}
	set.In = MergePorts(set.In)
	set.Links = slices.Clone(text.links.Names)
	for _, inner := range text.links.sets {
		set.Links = appendNew(set.Links, s.resolve(inner, facts, sets).Links)
	}
	if text.family != Any {
		set.Addrs = set.Addrs.Intersect(Everything(text.family))
	}
	sets[name] = &set
	return &set
}

// uses reports whether a rule names a set.
func (p *Policy) uses(name string) bool {
	names := func(r Rule) bool {
		return r.Src.Set == name || r.Dst.Set == name || r.Sport.Set == name || r.Dport.Set == name
	}
	return slices.ContainsFunc(p.Rules, names) || slices.ContainsFunc(p.NAT, names)
}
