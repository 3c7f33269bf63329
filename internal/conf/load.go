package conf

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// A Loader reads a configuration.
type Loader struct {
	// Shipped holds the compiled-in rules, files *.conf of the same format.
	Shipped fs.FS
	// Optional says that a missing mef.conf is an empty one.
	Optional bool
	// Writable reports whether the daemon can write a file, or files in a directory, that need not exist yet. Nil asks the kernel.
	Writable func(path string) bool
	// SkipLists leaves the whitelist and blacklist files unread: package lists reads them for a daemon.
	SkipLists bool
}

// Load reads the mef.conf at path and all that it names. Only the one at DefaultPath may be missing. The error is Errors: all
// mistakes in order of place.
func Load(path string, shipped fs.FS) (*Config, error) {
	return Loader{Shipped: shipped, Optional: path == DefaultPath}.Load(path)
}

// Load reads the mef.conf at path and all that it names. The error is Errors: all mistakes in order of place.
func (l Loader) Load(path string) (*Config, error) {
	text, err := readOwned(path, maxConfig)
	if err != nil && !(l.Optional && errors.Is(err, fs.ErrNotExist)) {
		return nil, Errors{fileError(path, err)}
	}
	r := reader{Loader: l, cfg: &Config{Path: path}}
	if r.Writable == nil {
		r.Writable = writable
	}
	r.global(scan(path, text, "global"))
	r.rules()
	r.lists()
	slices.SortStableFunc(r.cfg.Notices, func(a, b Notice) int { return a.Pos.compare(b.Pos) })
	if err := r.errs.Err(); err != nil {
		return nil, err
	}
	return r.cfg, nil
}

// LoadSettings reads the keys of mef.conf, and nothing that they name. Where there are mistakes, which the error lists, the keys
// concerned have their defaults: a firewall must not stay open because of them. Cfg is never nil.
func LoadSettings(path string) (cfg *Config, err error) {
	r := reader{Loader: Loader{Writable: func(string) bool { return true }}, cfg: &Config{Path: path}}
	text, err := readOwned(path, maxConfig)
	if err != nil && !(path == DefaultPath && errors.Is(err, fs.ErrNotExist)) {
		r.errs = append(r.errs, fileError(path, err))
	}
	r.global(scan(path, text, "global"))
	return r.cfg, r.errs.Err()
}

// ControlSocket returns the control socket that the mef.conf at path names, whatever else is wrong in it and in the files it names:
// a daemon that runs goes on with what they said before, and answers there. Only the file at DefaultPath may be missing. The error
// is Errors.
func ControlSocket(path string) (string, error) {
	text, err := readFile(path, maxConfig)
	if err != nil && !(path == DefaultPath && errors.Is(err, fs.ErrNotExist)) {
		return "", Errors{fileError(path, err)}
	}
	settings := slices.DeleteFunc(scan(path, text, "global").settings, func(s setting) bool {
		return s.section != "global" || s.key != "control_socket"
	})
	var cfg Config
	keys.defaults(&cfg)
	d := keys.decode(&cfg, settings)
	return cfg.Paths.ControlSocket, d.errs.Err()
}

// A reader is a configuration being read.
type reader struct {
	Loader
	cfg  *Config
	set  map[string]setting // keys of mef.conf that are set
	errs Errors
}

// global reads mef.conf itself.
func (r *reader) global(sc scanner) {
	r.errs = append(r.errs, sc.errs...)
	for _, h := range sc.headers {
		if kind, _, _ := strings.Cut(h.name, " "); kind == "feed" || kind == "notify" {
			r.notice(h.pos, fmt.Sprintf("[%s]: feeds and notifications are not built yet: ignored", h.name))
		} else if h.name != "global" {
			r.errs = append(r.errs, unknownSection(h, []string{"global"}))
		}
	}
	settings := slices.DeleteFunc(sc.settings, func(s setting) bool { return s.section != "global" })
	keys.defaults(r.cfg)
	d := keys.decode(r.cfg, settings)
	r.set = d.set
	r.errs = append(r.errs, d.errs...)
	r.cfg.Notices = append(r.cfg.Notices, d.notices...)
	r.replaceStateDir()
	r.replaceEventLog()
	r.checkBanTimes()
	r.checkSyslog()
	r.origins()
}

func (r *reader) notice(at Pos, text string) {
	r.cfg.Notices = append(r.cfg.Notices, Notice{at, text})
}

// replaceStateDir takes the default for a state directory that the daemon cannot write. What is below /etc is the
// operator's, never a program's to write.
func (r *reader) replaceStateDir() {
	dir := r.cfg.Paths.StateDir
	if dir == DefaultStateDir || !strings.HasPrefix(dir+"/", "/etc/") && fits(dir, true) && r.Writable(dir) {
		return
	}
	r.cfg.Paths.StateDir = DefaultStateDir
	r.notice(r.set["cache_dir"].keyPos, fmt.Sprintf("cache_dir: the daemon cannot write %s, its state is in %s", Quote(dir), DefaultStateDir))
}

// fits reports whether path is a directory, or a file, as wanted; or is nothing yet and can be made. Of a file the directory is not made.
func fits(path string, directory bool) bool {
	info, err := os.Stat(path)
	if err != nil && !directory {
		info, err = os.Stat(filepath.Dir(path))
		return err == nil && info.IsDir()
	}
	return err != nil || info.IsDir() == directory
}

// replaceEventLog takes the default for an event log that the daemon cannot write.
func (r *reader) replaceEventLog() {
	path := r.cfg.EventLogPath
	if info, err := os.Stat(path); r.cfg.EventLog && err == nil && !info.Mode().IsRegular() {
		r.errs = append(r.errs, &Error{r.set["ban_log_path"].pos, fmt.Sprintf("ban_log_path: %s is %s, not a regular file", Quote(path), kindOf(info.Mode())),
			"write the path of a regular file, or one where no file is yet; for no event log, ban_log_enabled=false"})
		return
	}
	if !r.cfg.EventLog || path == DefaultEventLog || fits(path, false) && r.Writable(path) {
		return
	}
	r.cfg.EventLogPath = DefaultEventLog
	r.notice(r.set["ban_log_path"].keyPos, fmt.Sprintf("ban_log_path: the daemon cannot write %s, its event log is %s", Quote(path), DefaultEventLog))
}

// kindOf names what is not a regular file.
func kindOf(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "a directory"
	case m&fs.ModeNamedPipe != 0:
		return "a named pipe"
	case m&fs.ModeSocket != 0:
		return "a socket"
	}
	return "a device"
}

// checkBanTimes finds ban times that contradict each other.
func (r *reader) checkBanTimes() {
	b := r.cfg.Ban
	if b.Cap >= b.First {
		return
	}
	s, ok := r.set["bantime_cap"]
	if !ok {
		s = r.set["bantime"]
	}
	r.errs = append(r.errs, &Error{s.pos, s.key + ": bantime_cap is shorter than bantime",
		fmt.Sprintf("write at least bantime_cap=%s", FormatDuration(b.First))})
}

// checkSyslog finds sockets that other hosts reach and that no host may send to.
func (r *reader) checkSyslog() {
	for offset, word := range items(r.set["syslog_listen"].value) {
		network, address, _ := strings.Cut(word, ":")
		at, err := netip.ParseAddrPort(address)
		if network != "unix" && err == nil && !at.Addr().IsLoopback() && len(r.cfg.Syslog.Senders) == 0 {
			pos := r.set["syslog_listen"].pos
			pos.Col += offset
			r.errs = append(r.errs, &Error{pos, "syslog_listen: other hosts reach " + Quote(word) + ", and none of them is trusted",
				"listen on 127.0.0.1 or [::1], or name the hosts in syslog_senders"})
		}
	}
}

// origins lists where the value of every key comes from: keys in the order of the documentation, indexed ones where they
// are set.
func (r *reader) origins() {
	for _, k := range keys {
		if _, _, indexed := k.cut(); indexed {
			for _, name := range slices.Sorted(maps.Keys(r.set)) {
				if k.is(name) && !slices.Contains(keys.names(), name) {
					r.origin(k, name)
				}
			}
			continue
		}
		r.origin(k, k.name)
	}
}

func (r *reader) origin(k spec[Config], name string) {
	o := Origin{Key: name, Value: k.value}
	if s, ok := r.set[name]; ok {
		o.Value, o.Pos = s.value, s.pos
		if k.secret {
			o.Value = "(not shown)"
		}
	}
	switch name {
	case "cache_dir":
		o.Value = r.cfg.Paths.StateDir
	case "ban_log_path":
		o.Value = r.cfg.EventLogPath
	}
	r.cfg.Origins = append(r.cfg.Origins, o)
}

// ShippedRules reads the compiled-in rules by themselves, ordered by name behind those that are disabled. The error is Errors.
func ShippedRules(shipped fs.FS) ([]Rule, error) {
	rules, errs := readShipped(shipped)
	for i := range rules {
		if rules[i].BanTime == 0 {
			rules[i].BanTime = defaultBanTime
		}
	}
	return rules, errs.Err()
}

// readShipped reads the compiled-in rules, ordered by name behind those that are disabled. BanTime is 0 where a rule names none.
func readShipped(shipped fs.FS) ([]Rule, Errors) {
	var rules []Rule
	var errs Errors
	if shipped == nil {
		return nil, nil
	}
	names, err := fs.Glob(shipped, "*.conf")
	if err != nil {
		return nil, Errors{{Pos{File: "shipped rules"}, err.Error(), ""}}
	}
	for _, name := range names {
		text, err := fs.ReadFile(shipped, name)
		if err != nil {
			errs = append(errs, fileError("shipped/"+name, err))
			continue
		}
		f := readRule("shipped/"+name, text)
		f.decode(nil, true)
		errs = append(errs, f.errs...)
		rules = append(rules, f.rule.Rule)
	}
	optionalFirst(rules, rules)
	return rules, errs
}

// optionalFirst moves the rules that are shipped disabled to the front. They tell lines apart that another rule of their service knows as
// well, and the first rule that knows a line decides: once enabled, that has to be they.
func optionalFirst(rules, shipped []Rule) {
	optional := make(map[string]bool)
	for _, rule := range shipped {
		optional[rule.Name] = !rule.Enabled
	}
	slices.SortStableFunc(rules, func(a, b Rule) int {
		switch {
		case optional[a.Name] == optional[b.Name]:
			return 0
		case optional[a.Name]:
			return -1
		}
		return 1
	})
}

// rules reads the compiled-in rules and the operator's, which change or add to them.
func (r *reader) rules() {
	shipped, errs := readShipped(r.Shipped)
	r.errs = append(r.errs, errs...)
	own := make(map[string]Rule)
	if e := CheckDirOwner(r.cfg.Paths.RulesDir); e != nil {
		r.errs = append(r.errs, e)
		return
	}
	web := r.webscanFiles()
	for _, path := range slices.Concat(r.files("rules_dir", r.cfg.Paths.RulesDir), web) {
		text, err := readOwned(path, maxConfig)
		if err != nil {
			r.errs = append(r.errs, fileError(path, err))
			continue
		}
		f := readRule(path, text)
		if !f.rule.webscan && slices.Contains(web, path) {
			r.errs = append(r.errs, &Error{f.rule.Pos, "no engine=webscan in a file of webscan_dir", "write it under [rule], with the keys that mefdaemon.rules(5) lists for it"})
			continue
		}
		r.rule(f, shipped, own)
	}
	for _, rule := range shipped {
		if _, changed := own[rule.Name]; !changed {
			own[rule.Name] = rule
		}
	}
	for _, name := range slices.Sorted(maps.Keys(own)) {
		rule := own[name]
		if rule.BanTime == 0 {
			rule.BanTime = r.cfg.Ban.First
		}
		r.cfg.Rules = append(r.cfg.Rules, rule)
	}
	optionalFirst(r.cfg.Rules, shipped)
}

// rule reads one rule file of the operator into own.
func (r *reader) rule(f *ruleFile, shipped []Rule, own map[string]Rule) {
	var base *Rule
	for i := range shipped {
		f.shipped = append(f.shipped, shipped[i].Name)
		if shipped[i].Name == f.rule.Name {
			base = &shipped[i]
		}
	}
	f.decode(base, false)
	f.refuse(base != nil)
	r.errs = append(r.errs, f.errs...)
	r.cfg.Notices = append(r.cfg.Notices, f.rule.notices...)
	if first, again := own[f.rule.Name]; again {
		r.errs = append(r.errs, &Error{f.namePos(), fmt.Sprintf("rule %q is defined twice", f.rule.Name), "first at " + first.Pos.String()})
		return
	}
	own[f.rule.Name] = f.rule.Rule
}

// namePos is where the rule gets its name.
func (f *ruleFile) namePos() Pos {
	if s, ok := f.set["name"]; ok {
		return s.pos
	}
	return f.rule.Pos
}

// lists reads the whitelist and blacklist files.
func (r *reader) lists() {
	r.cfg.Whitelist = r.list("whitelist_dir", r.cfg.Paths.WhitelistDir)
	r.cfg.Blacklist = r.list("blacklist_dir", r.cfg.Paths.BlacklistDir)
}

func (r *reader) list(key, dir string) []Entry {
	if e := CheckDirOwner(dir); e != nil {
		r.cfg.ListErrors = append(r.cfg.ListErrors, e)
		return nil
	}
	var all []Entry
	files := r.files(key, dir)
	if r.SkipLists {
		return nil
	}
	for _, path := range files {
		text, err := readOwned(path, maxList)
		if err != nil {
			r.cfg.ListErrors = append(r.cfg.ListErrors, fileError(path, err))
			continue
		}
		entries, errs := ParseList(path, text)
		all = append(all, entries...)
		r.cfg.ListErrors = append(r.cfg.ListErrors, errs...)
	}
	return all
}

// files returns the paths of the *.conf files of dir, which key names, in order. A directory that does not exist is a mistake
// if the operator chose it.
func (r *reader) files(key, dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		s, chosen := r.set[key]
		at := s.pos
		if !chosen {
			at = Pos{File: dir}
		}
		k, _ := keys.find(key)
		if !errors.Is(err, fs.ErrNotExist) || chosen && dir != k.value {
			r.errs = append(r.errs, &Error{at, key + ": " + pathError(err), ""})
		}
		return nil
	}
	var paths []string
	for _, e := range entries {
		if isConfFile(e.Name()) {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths
}

const (
	maxConfig = 1 << 20  // mef.conf and rule files are written by hand
	maxList   = 64 << 20 // lists are not
)

// readOwned is readFile for what only root may write; see CheckOwner.
func readOwned(path string, limit int64) ([]byte, error) {
	if e := CheckOwner(path); e != nil {
		return nil, e
	}
	return readFile(path, limit)
}

// readFile reads a regular file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file") // reading a pipe would block for ever
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("larger than %d MiB", limit>>20)
	}
	return text, err
}

// fileError is err as a mistake of the file as a whole.
func fileError(path string, err error) *Error {
	if refused := new(Error); errors.As(err, &refused) {
		return refused
	}
	var at *fs.PathError
	if errors.As(err, &at) {
		return &Error{Pos{File: path}, at.Err.Error(), ""}
	}
	return &Error{Pos{File: path}, err.Error(), ""}
}

// pathError returns err with the path in quotes.
func pathError(err error) string {
	var at *fs.PathError
	if errors.As(err, &at) {
		return Quote(at.Path) + ": " + at.Err.Error()
	}
	return err.Error()
}

// writable asks the kernel whether this process can write at path, a file or a directory, or create it if it does not exist.
func writable(path string) bool {
	const write = 2 // W_OK of access(2)
	for {
		err := syscall.Access(path, write)
		if !errors.Is(err, syscall.ENOENT) || path == "/" {
			return err == nil
		}
		path = filepath.Dir(path)
	}
}
