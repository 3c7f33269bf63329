// Package mefconf reads mef.conf and the rules and lists that it names. The result, a conf.Config, is checked: no stage checks it again.
package mefconf

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"mef/internal/conf"
	"mef/internal/conf/diag"
	"mef/internal/conf/ini"
	"mef/internal/conf/rulefile"
	"mef/internal/duration"
	"mef/internal/ordered"
)

// A Loader reads a configuration.
type Loader struct {
	// Shipped holds the compiled-in rules, files *.conf of the same format.
	Shipped fs.FS
	// Optional allows mef.conf to be missing; it is then empty.
	Optional bool
	// Writable reports whether the daemon can write a file, or files in a directory, that need not exist yet. Nil asks the kernel.
	Writable func(path string) bool
	// SkipLists leaves the whitelist and blacklist files unread: package lists reads them for a daemon.
	SkipLists bool
}

// Load reads the mef.conf at path and all that it names. Only the one at DefaultPath may be missing. The error is Errors: all
// mistakes in order of place.
func Load(path string, shipped fs.FS) (*conf.Config, error) {
	return Loader{Shipped: shipped, Optional: path == conf.DefaultPath}.Load(path)
}

// Load reads the mef.conf at path and all that it names. The error is Errors: all mistakes in order of place.
func (l Loader) Load(path string) (*conf.Config, error) {
	text, err := conf.ReadOwned(path, conf.MaxConfig)
	if err != nil && !(l.Optional && errors.Is(err, fs.ErrNotExist)) {
		return nil, diag.Errors{conf.FileError(path, err)}
	}
	r := reader{Loader: l, cfg: &conf.Config{Path: path}}
	if r.Writable == nil {
		r.Writable = writable
	}
	r.global(ini.Scan(path, text, "global"))
	r.rules()
	r.lists()
	ordered.Sort(r.cfg.Notices, func(a, b diag.Notice) int { return a.Pos.Compare(b.Pos) })
	if err := r.errs.Err(); err != nil {
		return nil, err
	}
	return r.cfg, nil
}

// Settings reads the keys of mef.conf, and nothing that they name. Where there are mistakes, which the error lists, the keys
// concerned have their defaults: a firewall must not stay open because of them. Cfg is never nil.
func Settings(path string) (cfg *conf.Config, err error) {
	r := reader{Loader: Loader{Writable: func(string) bool { return true }}, cfg: &conf.Config{Path: path}}
	text, err := conf.ReadOwned(path, conf.MaxConfig)
	if err != nil && !(path == conf.DefaultPath && errors.Is(err, fs.ErrNotExist)) {
		r.errs = append(r.errs, conf.FileError(path, err))
	}
	r.global(ini.Scan(path, text, "global"))
	return r.cfg, r.errs.Err()
}

// ControlSocket returns the control socket that the mef.conf at path names, even if there are other mistakes in it or in the files it
// names: a running daemon keeps its previous configuration and answers there. Only the file at DefaultPath may be missing. The error
// is Errors.
func ControlSocket(path string) (string, error) {
	text, err := conf.ReadFile(path, conf.MaxConfig)
	if err != nil && !(path == conf.DefaultPath && errors.Is(err, fs.ErrNotExist)) {
		return "", diag.Errors{conf.FileError(path, err)}
	}
	settings := slices.DeleteFunc(ini.Scan(path, text, "global").Settings, func(s ini.Setting) bool {
		return s.Section != "global" || s.Key != "control_socket"
	})
	var cfg conf.Config
	keys.SetDefaults(&cfg)
	d := keys.Decode(&cfg, settings)
	return cfg.Paths.ControlSocket, d.Errs.Err()
}

// A reader is a configuration being read.
type reader struct {
	Loader
	cfg  *conf.Config
	set  map[string]ini.Setting // keys of mef.conf that are set
	errs diag.Errors
}

// global reads mef.conf itself.
func (r *reader) global(sc ini.File) {
	r.errs = append(r.errs, sc.Errs...)
	for _, h := range sc.Headers {
		if kind, _, _ := strings.Cut(h.Name, " "); h.Name != "global" && kind != "feed" && kind != "notify" && kind != "access" {
			r.errs = append(r.errs, ini.UnknownSection(h, []string{"global"}))
		}
	}
	settings := slices.DeleteFunc(slices.Clone(sc.Settings), func(s ini.Setting) bool { return s.Section != "global" })
	keys.SetDefaults(r.cfg)
	d := keys.Decode(r.cfg, settings)
	r.set = d.Set
	r.errs = append(r.errs, d.Errs...)
	r.cfg.Notices = append(r.cfg.Notices, d.Notices...)
	r.feeds(sc)
	r.notify(sc)
	r.access(sc)
	r.replaceStateDir()
	r.replaceEventLog()
	r.checkBanTimes()
	r.checkSyslog()
	r.checkRBL()
	r.checkCommunity()
	r.checkReport()
	r.origins()
}

func (r *reader) notice(at diag.Pos, text string) {
	r.cfg.Notices = append(r.cfg.Notices, diag.Notice{Pos: at, Text: text})
}

// replaceStateDir takes the default for a state directory that the daemon cannot write. What is below /etc is the
// operator's, never a program's to write.
func (r *reader) replaceStateDir() {
	dir := r.cfg.Paths.StateDir
	if dir == conf.DefaultStateDir || !strings.HasPrefix(dir+"/", "/etc/") && fits(dir, true) && r.Writable(dir) {
		return
	}
	r.cfg.Paths.StateDir = conf.DefaultStateDir
	r.notice(r.set["cache_dir"].KeyPos, fmt.Sprintf("cache_dir: the daemon cannot write %s, its state is in %s", diag.Quote(dir), conf.DefaultStateDir))
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
		r.errs = append(r.errs, &diag.Error{Pos: r.set["ban_log_path"].Pos, Msg: fmt.Sprintf("ban_log_path: %s is %s, not a regular file", diag.Quote(path), kindOf(info.Mode())),
			Hint: "write the path of a regular file, or one where no file is yet; for no event log, ban_log_enabled=false"})
		return
	}
	if !r.cfg.EventLog || path == conf.DefaultEventLog || fits(path, false) && r.Writable(path) {
		return
	}
	r.cfg.EventLogPath = conf.DefaultEventLog
	r.notice(r.set["ban_log_path"].KeyPos, fmt.Sprintf("ban_log_path: the daemon cannot write %s, its event log is %s", diag.Quote(path), conf.DefaultEventLog))
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
	r.errs = append(r.errs, &diag.Error{Pos: s.Pos, Msg: s.Key + ": bantime_cap is shorter than bantime",
		Hint: fmt.Sprintf("write at least bantime_cap=%s", duration.Format(b.First))})
}

// checkSyslog finds sockets that other hosts reach and that no host may send to.
func (r *reader) checkSyslog() {
	for offset, word := range ini.Items(r.set["syslog_listen"].Value) {
		network, address, _ := strings.Cut(word, ":")
		at, err := netip.ParseAddrPort(address)
		if network != "unix" && err == nil && !at.Addr().IsLoopback() && len(r.cfg.Syslog.Senders) == 0 {
			pos := r.set["syslog_listen"].Pos
			pos.Col += offset
			r.errs = append(r.errs, &diag.Error{Pos: pos, Msg: "syslog_listen: other hosts reach " + diag.Quote(word) + ", and none of them is trusted",
				Hint: "listen on 127.0.0.1 or [::1], or name the hosts in syslog_senders"})
		}
	}
}

// origins lists where the value of every key comes from: keys in the order of the documentation, indexed ones where they
// are set.
func (r *reader) origins() {
	for _, k := range keys {
		if _, _, indexed := k.Cut(); indexed {
			for _, name := range slices.Sorted(maps.Keys(r.set)) {
				if k.Is(name) && !slices.Contains(keys.Names(), name) {
					r.origin(k, name)
				}
			}
			continue
		}
		r.origin(k, k.Name)
	}
}

func (r *reader) origin(k ini.Key[conf.Config], name string) {
	o := conf.Origin{Key: name, Value: k.Value}
	if s, ok := r.set[name]; ok {
		o.Value, o.Pos = s.Value, s.Pos
		if k.Secret {
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

// rules reads the compiled-in rules and the operator's, which change or add to them.
func (r *reader) rules() {
	shipped, errs := rulefile.ReadShipped(r.Shipped)
	r.errs = append(r.errs, errs...)
	if e := conf.CheckDirOwner(r.cfg.Paths.RulesDir); e != nil {
		r.errs = append(r.errs, e)
		return
	}
	own := make(map[string]conf.Rule)
	web := r.webscanFiles()
	for _, path := range slices.Concat(r.files("rules_dir", r.cfg.Paths.RulesDir), web) {
		text, err := conf.ReadOwned(path, conf.MaxConfig)
		if err != nil {
			r.errs = append(r.errs, conf.FileError(path, err))
			continue
		}
		f := rulefile.ReadOwn(path, text, shipped, slices.Contains(web, path))
		r.errs = append(r.errs, f.Errs...)
		r.cfg.Notices = append(r.cfg.Notices, f.Notices...)
		if first, again := own[f.Rule.Name]; again {
			r.errs = append(r.errs, &diag.Error{Pos: f.NamePos, Msg: fmt.Sprintf("rule %q is defined twice", f.Rule.Name), Hint: "first at " + first.Pos.String()})
		} else if f.Rule.Name != "" {
			own[f.Rule.Name] = f.Rule
		}
	}
	r.cfg.Rules = rulefile.Merge(own, shipped, r.cfg.Ban.First)
}

// lists reads the whitelist and blacklist files.
func (r *reader) lists() {
	r.cfg.Whitelist = r.list("whitelist_dir", r.cfg.Paths.WhitelistDir)
	r.cfg.Blacklist = r.list("blacklist_dir", r.cfg.Paths.BlacklistDir)
}

func (r *reader) list(key, dir string) []conf.Entry {
	if e := conf.CheckDirOwner(dir); e != nil {
		r.cfg.ListErrors = append(r.cfg.ListErrors, e)
		return nil
	}
	var all []conf.Entry
	files := r.files(key, dir)
	if r.SkipLists {
		return nil
	}
	for _, path := range files {
		text, err := conf.ReadOwned(path, conf.MaxList)
		if err != nil {
			r.cfg.ListErrors = append(r.cfg.ListErrors, conf.FileError(path, err))
			continue
		}
		entries, errs := conf.ParseList(path, text)
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
		at := s.Pos
		if !chosen {
			at = diag.Pos{File: dir}
		}
		k, _ := keys.Find(key)
		if !errors.Is(err, fs.ErrNotExist) || chosen && dir != k.Value {
			r.errs = append(r.errs, &diag.Error{Pos: at, Msg: key + ": " + conf.PathError(err)})
		}
		return nil
	}
	var paths []string
	for _, e := range entries {
		if conf.IsConfFile(e.Name()) {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths
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

const defaultWebscanDir = "/etc/mef/webscan.d"

// webscanFiles returns the files of the directory in which MEF 1.0 keeps its rules about web requests.
func (r *reader) webscanFiles() []string {
	dir := r.cfg.Paths.WebscanDir
	if dir == defaultWebscanDir {
		dir = filepath.Join(filepath.Dir(r.cfg.Paths.RulesDir), "webscan.d")
	}
	if e := conf.CheckDirOwner(dir); e != nil {
		r.errs = append(r.errs, e)
		return nil
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*.conf"))
	return files
}
