package lists

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/enforce"
	"mef/internal/geodb"
	"mef/internal/lists/feeds"
	"mef/internal/prefixset"
)

// access are the networks of countries and autonomous systems to which ports are closed (sections [access NAME]). They are read from the
// operator's databases, again whenever these are replaced. Each has a copy on disk, which counts where the databases cannot be read.
//
// "Only from these" is kept as all other public addresses, so that it is a list like any other: what must stay reachable is subtracted,
// and where it was not loaded the ports are open, not closed to everybody.
type access struct {
	dir   string // of the copies
	log   *slog.Logger
	watch *watch
	wake  chan struct{} // the databases may be others

	reading    sync.Mutex  // held while databases are read
	files      []fileState // of databases, as they were last read
	configured bool        // configure was called before

	mu        sync.Mutex // databases and sections change with reading held, too
	databases []string
	sections  []section // that are enabled, ordered by name
	problem   string    // why the databases were not read; empty: they were
}

// A section is one of access with its networks.
type section struct {
	conf.Access
	addrs *prefixset.Packed // to which the ports are closed; nil: not known
	at    time.Time         // when addrs were read from the databases
	err   string            // why there are no newer ones
}

// A fileState reports which file is at a path.
type fileState struct {
	path string
	info fs.FileInfo // nil if there is none
}

// is reports whether it is the same file as before, unchanged.
func (s fileState) is(o fileState) bool {
	if s.info == nil || o.info == nil {
		return s.path == o.path && s.info == o.info
	}
	return s.path == o.path && os.SameFile(s.info, o.info) && s.info.Size() == o.info.Size() && s.info.ModTime().Equal(o.info.ModTime())
}

func newAccess(dir string, log *slog.Logger) *access {
	return &access{dir: dir, log: log, watch: newWatch(log), wake: make(chan struct{}, 1)}
}

// lookAgain is how often databases are looked at in case a change was missed.
const lookAgain = 10 * time.Minute

// run follows the databases until ctx is done. changed is called when networks are others than before.
func (a *access) run(ctx context.Context, changed func()) error {
	done := make(chan error, 1)
	go func() { done <- a.watch.run(ctx) }()
	a.follow(ctx)
	for {
		select {
		case <-ctx.Done():
			return <-done
		case <-a.wake:
			a.follow(ctx)
		case <-a.watch.changed:
		}
		if a.reread() {
			changed()
		}
	}
}

// follow watches the directories of the databases.
func (a *access) follow(ctx context.Context) {
	a.mu.Lock()
	var dirs []string
	for _, path := range a.databases {
		dirs = append(dirs, filepath.Dir(path))
	}
	used := len(a.sections) > 0
	a.mu.Unlock()
	if !used {
		a.watch.at(ctx, nil, 24*time.Hour)
		return
	}
	slices.Sort(dirs)
	a.watch.at(ctx, slices.Compact(dirs), lookAgain)
}

// states returns the databases as they are now.
func states(paths []string) (all []fileState) {
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			info = nil
		}
		all = append(all, fileState{path, info})
	}
	return all
}

// configure replaces the sections, and reads the networks of those that are new.
func (a *access) configure(cfg *conf.Config) {
	a.reading.Lock()
	defer a.reading.Unlock()
	before, first := a.enabled(), !a.configured
	a.configured = true
	same := slices.Equal(a.databases, cfg.GeoDatabases)
	var next []section
	for _, c := range cfg.Access {
		if !c.Enabled {
			continue
		}
		s := section{Access: c}
		if i := slices.IndexFunc(before, func(old section) bool { return old.Name == c.Name && old.Text() == c.Text() }); i >= 0 {
			s.addrs, s.at, s.err = before[i].addrs, before[i].at, before[i].err
		} else if first {
			a.load(&s)
		}
		same = same && s.addrs != nil && s.err == ""
		next = append(next, s)
	}
	if now := states(cfg.GeoDatabases); len(next) > 0 && (!same || !slices.EqualFunc(now, a.files, fileState.is)) {
		a.read(next, now, !first) // a restart accepts no wrong database either
	}
	a.mu.Lock()
	a.databases, a.sections = cfg.GeoDatabases, next
	a.mu.Unlock()
	a.removeCopies(next)
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// reread reads the databases if they are others than before, and reports whether networks have changed.
func (a *access) reread() (changed bool) {
	a.reading.Lock()
	defer a.reading.Unlock()
	next, now := a.enabled(), states(a.databases)
	if len(next) == 0 || slices.EqualFunc(now, a.files, fileState.is) {
		return false
	}
	changed = a.read(next, now, false)
	a.mu.Lock()
	a.sections = next
	a.mu.Unlock()
	return changed
}

// read reads the networks of sections from databases. Where that fails, those of before stay. Unless trusted, so they do where few are left of
// them: a database that was replaced by the wrong one would close the ports to nearly everybody. a.reading is held, and a.mu is not: it may
// take a while.
func (a *access) read(sections []section, now []fileState, trusted bool) (changed bool) {
	a.files = now
	paths := make([]string, len(now))
	for i := range now {
		paths[i] = now[i].path
	}
	found, err := networksOf(paths, sections)
	problem := ""
	if err != nil {
		problem = oneLine(err)
	}
	a.mu.Lock()
	last := a.problem
	a.problem = problem
	a.mu.Unlock()
	if problem != last && problem != "" {
		a.log.Warn("databases of countries not read as they should be; what was known stays", "err", problem)
	}
	for i := range sections {
		s := &sections[i]
		addrs, err := s.of(found)
		if err == nil && !trusted {
			err = s.shrunk(addrs)
		}
		switch {
		case err != nil:
			if s.err = err.Error(); s.addrs == nil {
				a.load(s)
			}
			changed = changed || s.addrs != nil
			continue
		case !addrs.Equal(s.addrs):
			s.addrs, changed = addrs, true
		}
		s.at, s.err = time.Now(), ""
		if changed {
			if err := a.save(s); err != nil {
				a.log.Warn("no copy of the networks of countries", "section", s.Name, "err", err)
			}
			a.log.Info("networks of countries read", "section", s.Name, "entries", s.addrs.Len())
		}
	}
	return changed
}

// oneLine returns an error whose parts stand in lines of their own as one line.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// networksOf reads the networks of all groups of sections. A group that cannot be read is missing.
func networksOf(databases []string, sections []section) (found map[conf.GeoGroup]*prefixset.Packed, err error) {
	var errs []error
	var paths []string
	for _, path := range databases {
		if e := conf.CheckOwner(path); e != nil {
			errs = append(errs, e)
			continue
		}
		paths = append(paths, path)
	}
	db, err := geodb.Open(paths...)
	errs = append(errs, err)
	defer db.Close()
	var groups []conf.GeoGroup
	for _, s := range sections {
		groups = append(groups, s.Groups...)
	}
	found, err = db.Collect(groups)
	return found, errors.Join(append(errs, err)...)
}

// of returns the addresses to which the ports of a section are closed.
func (s *section) of(found map[conf.GeoGroup]*prefixset.Packed) (*prefixset.Packed, error) {
	all := make([]*prefixset.Packed, 0, len(s.Groups))
	var missing []string
	for _, g := range s.Groups {
		if found[g].Len() == 0 {
			missing = append(missing, g.String())
		}
		all = append(all, found[g])
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("the networks of %s are not known", strings.Join(missing, ", "))
	}
	closed := prefixset.Join(all...)
	if s.Only {
		closed = closed.Complement()
	}
	return closed.Subtract(feeds.Special()), nil
}

// manyAddresses is how many IPv4 addresses countries have for their number to mean anything.
const manyAddresses = 1 << 16

// shrunk returns an error if the countries and autonomous systems of a section have less than a tenth of the IPv4 addresses of before.
func (s *section) shrunk(next *prefixset.Packed) error {
	before, now := s.addrs, next
	if s.Only {
		before, now = before.Complement().Subtract(feeds.Special()), now.Complement().Subtract(feeds.Special())
	}
	b, n := before.Addresses(false), now.Addresses(false)
	if s.addrs == nil || b < manyAddresses || n*10 >= b {
		return nil
	}
	return fmt.Errorf("it has shrunk from %.0f IPv4 addresses to %.0f, less than a tenth; mefctl reload accepts that", b, n)
}

// copyPath returns the file with the copy of a section.
func (a *access) copyPath(name string) string { return filepath.Join(a.dir, name) }

// save writes the copy of a section: what it is about, then a range of addresses a line.
func (a *access) save(s *section) error {
	if err := os.MkdirAll(a.dir, 0o750); err != nil {
		return err
	}
	file, err := os.CreateTemp(a.dir, ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name()) // of no effect once it is renamed
	defer file.Close()
	out := bufio.NewWriter(file)
	fmt.Fprintf(out, "# %s\n", s.Text())
	for _, v6 := range []bool{false, true} {
		for h := range s.addrs.Hosts(v6) {
			fmt.Fprintln(out, h)
		}
		for r := range s.addrs.Nets(v6) {
			fmt.Fprintf(out, "%s-%s\n", r.First, r.Last)
		}
	}
	if err := errors.Join(out.Flush(), file.Sync()); err != nil {
		return err
	}
	return os.Rename(file.Name(), a.copyPath(s.Name))
}

// load reads the copy of a section, if there is one of the same countries.
func (a *access) load(s *section) {
	file, err := os.Open(a.copyPath(s.Name))
	if err != nil {
		return
	}
	defer file.Close()
	in := bufio.NewReader(file)
	if first, err := in.ReadString('\n'); err != nil || first != "# "+s.Text()+"\n" {
		return
	}
	info, err := file.Stat()
	if err != nil {
		return
	}
	if parsed, err := feeds.Parse(in, conf.Feed{}); err == nil {
		s.addrs, s.at = parsed.List, info.ModTime()
	}
}

// removeCopies removes the copies of all but some sections.
func (a *access) removeCopies(sections []section) {
	names, _ := os.ReadDir(a.dir)
	for _, e := range names {
		if !slices.ContainsFunc(sections, func(s section) bool { return s.Name == e.Name() }) {
			_ = os.Remove(a.copyPath(e.Name()))
		}
	}
}

// enabled returns the sections that are enabled.
func (a *access) enabled() []section {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.sections)
}

// problems returns what an operator should know.
func (a *access) problems() (all []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.sections) == 0 {
		return nil
	}
	if a.problem != "" {
		all = append(all, "geo_databases: "+a.problem)
	}
	for _, s := range a.sections {
		switch {
		case s.err == "":
		case s.addrs == nil:
			all = append(all, fmt.Sprintf("[access %s] is not in force: %s", s.Name, s.err))
		default:
			all = append(all, fmt.Sprintf("[access %s]: %s; those of %s stay in force", s.Name, s.err, s.at.Local().Format(time.DateTime)))
		}
	}
	return all
}

// accessPrefix begins the names of the lists of sections in the kernel. No feed has such a name.
const accessPrefix = "access."

// listName returns the name of the list of a section in the kernel.
func (s *section) listName() string { return accessPrefix + s.Name }

// closes reports whether a section closes ports, of which empty is all.
func (s *section) closes(ports ban.Ports) bool { return s.Ports == "" || s.Ports.Overlaps(ports) }

// text returns "[access ssh] (allow_only=@country:DE)".
func (s *section) text() string { return fmt.Sprintf("[access %s] (%s)", s.Name, s.Text()) }

// onPorts returns the ports of a section in words.
func (s *section) onPorts() string {
	if s.Ports == "" {
		return "all ports"
	}
	return "ports " + string(s.Ports)
}

// why returns what sections mean for an address, a sentence for each that has it. held are the lists of the kernel that have it.
func (a *access) why(addr netip.Addr, held []string) (all []string) {
	for _, s := range a.enabled() {
		switch {
		case !s.addrs.Contains(addr):
		case slices.Contains(held, s.listName()):
			all = append(all, s.text()+": its packets that open a connection are dropped, "+s.onPorts())
		default:
			all = append(all, s.text()+": not dropped, because it must stay reachable or bans are not applied")
		}
	}
	return all
}

// sectionsOf returns the enabled sections of a configuration.
func sectionsOf(cfg *conf.Config) (all []section) {
	for _, c := range cfg.Access {
		if c.Enabled {
			all = append(all, section{Access: c})
		}
	}
	return all
}

// CheckAccess reads the databases as a configuration names them, and returns what is wrong with these and with its sections, a sentence for
// each.
func CheckAccess(cfg *conf.Config) (wrong []string) {
	if len(cfg.GeoDatabases) == 0 {
		return nil
	}
	sections := sectionsOf(cfg)
	found, err := networksOf(cfg.GeoDatabases, sections)
	if err != nil {
		wrong = strings.Split(err.Error(), "\n")
	}
	for _, s := range sections {
		if _, err := s.of(found); err != nil {
			wrong = append(wrong, fmt.Sprintf("[access %s] will not be in force: %v", s.Name, err))
		}
	}
	return wrong
}

// LockOut returns why sections of a configuration would close ports to one of some addresses, "" if none would. Sections that are in force as
// they are do not count, nor do those whose networks cannot be read.
func LockOut(cfg *conf.Config, inForce []conf.Access, addrs prefixset.Set, ports ban.Ports) string {
	fresh := slices.DeleteFunc(sectionsOf(cfg), func(s section) bool {
		return !s.closes(ports) || slices.ContainsFunc(inForce, func(old conf.Access) bool { return old.Equal(&s.Access) })
	})
	if len(fresh) == 0 || addrs.Len() == 0 {
		return ""
	}
	found, _ := networksOf(cfg.GeoDatabases, fresh)
	for _, s := range fresh {
		closed, _ := s.of(found)
		for _, r := range addrs.Ranges() {
			if !closed.Contains(r.First) {
				continue
			}
			where := "its country is not known"
			db, _ := geodb.Open(cfg.GeoDatabases...)
			if p, _ := db.Lookup(r.First); p.Country != "" {
				where = "@country:" + p.Country
			}
			db.Close()
			return fmt.Sprintf("%s: %s would close port %s to %s (%s), from which an administrator is logged in; change the section, or run mefctl allow add %s",
				s.Pos, s.text(), ports, r.First, where, r.First)
		}
	}
	return ""
}

// show describes the sections. held are the lists in the kernel, spared what of each must stay reachable.
func (a *access) show(held []enforce.HeldList, left map[string]spared) (all []control.Access) {
	for _, s := range a.enabled() {
		shown := control.Access{Name: s.Name, Rule: s.Text(), Ports: control.ShowPorts(s.Ports), Entries: s.addrs.Len(), Read: moment(s.at), Error: s.err,
			Spared: left[s.listName()].needed, Admins: left[s.listName()].admins}
		for _, h := range held {
			if h.Name == s.listName() {
				shown.InForce, shown.Packets = true, h.Packets
			}
		}
		all = append(all, shown)
	}
	return all
}
