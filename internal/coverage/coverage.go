// Package coverage decides which sources a rule reads, and why, and names the services that no rule covers.
//
// # Whose word counts
//
// A line counts by who wrote it. journald records who sent an entry. A file that a service writes itself (vsftpd.log, Dovecot's
// log_path, Exim's mainlog) can be written by that service alone. A file that a syslog daemon fills from /dev/log (auth.log, secure,
// mail.log, messages) can be written by every local user and every web application, under the name of any program. So where journald
// runs, which then receives everything that such a file has, a rule with source=auto reads the journal and the files that its service
// writes itself, and never a syslog daemon's file, whatever the journal has or lacks. Only source=file makes a rule read those.
// Without journald (containers, Alpine Linux) there is nothing better, and all files of a rule are read.
//
// # Several sources of one rule
//
// A service may write its own log while PAM modules report in the journal what happens in it. The rule reads both. A record that
// comes from two sources in the same words is one record: see Reader.Accept. That several lines report one attempt in different words
// is for the tracker to find out, as it is within one source.
//
// A rule that moves between the journal and files, by its source= or because journald came or went, begins at that moment: the new
// place has the same records once more, and they have been counted.
//
// # Services that are not there
//
// A rule is off if its service is neither installed nor listening and has no log of its own. Nothing is lost by that: it is on as
// soon as a source has a line that it believes.
//
// The package does no I/O: a Host has the facts.
package coverage

import (
	"cmp"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"mef/internal/conf"
	"mef/internal/host"
	"mef/internal/host/docker"
	"mef/internal/ordered"
)

// A Host is what is known about logs and services of this host.
type Host struct {
	Journald  bool                       // journald runs
	Shared    func(path string) bool     // a syslog daemon fills the file
	Files     func(glob string) []string // the files that there are
	Units     []string                   // services that are installed: "ssh.service"
	Logged    []string                   // system units that the journal has entries of
	Program   func(name string) bool     // whether a program is installed
	Listeners []host.Listener            // what waits for connections
	Forwards  []host.Forward             // ports that the kernel leads elsewhere

	Containers      []docker.Container // of Docker
	ContainersError error              // why they are not known
}

// Services knows which services the rules are about. filter.Set does.
type Services interface {
	Serves(rule, unit string) bool    // lines of the systemd unit count for the rule
	Covers(rule, program string) bool // lines of the program do
}

// A Reader is one rule with the sources that it reads.
type Reader struct {
	Rule    *conf.Rule
	Journal bool     // it reads the journal
	Globs   []string // of files that it reads, those that do not exist included
	Shared  []string // files of the rule that it does not read, because a syslog daemon fills them
	Off     bool     // its service is not on this host

	// Own are the files of Globs that are there, and Logged is a unit of the service that the journal has entries of, "" for none.
	Own    []string
	Logged string

	// Containers are Docker's containers whose output it reads; the files of that are in Globs and Own.
	Containers []docker.Container

	// Streams are syslog sockets and the standard input, as far as they had a record of the rule.
	Streams []string

	unread   []docker.Container // whose output is in no file
	disguise *disguise          // the latest; nil: none

	trusted bool // a syslog daemon's files are read: without journald, or by source=file
	doubted bool // logins in them are not trusted
	shared  func(path string) bool
	recent  recent
	begins  time.Time // of reading here, after the rule was read elsewhere; zero: it never was
}

// Read returns the readers of the rules that are enabled, by name. services are theirs.
func Read(rules []conf.Rule, services Services, h *Host) map[string]*Reader {
	readers := make(map[string]*Reader)
	for i := range rules {
		if rules[i].Enabled {
			readers[rules[i].Name] = newReader(&rules[i], services, h)
		}
	}
	return readers
}

func newReader(rule *conf.Rule, services Services, h *Host) *Reader {
	r := &Reader{Rule: rule, shared: h.Shared}
	r.trusted = rule.Source == conf.SourceFile || rule.Source == conf.SourceAuto && !h.Journald
	r.doubted = h.Journald
	r.Journal = rule.Source == conf.SourceJournal || rule.Source == conf.SourceAuto && h.Journald
	for _, glob := range rule.Files {
		switch {
		case !r.files():
		case !r.trusted && h.Shared(glob):
			if len(h.Files(glob)) > 0 {
				r.Shared = append(r.Shared, glob)
			}
		default:
			r.Globs = append(r.Globs, glob)
			r.Own = append(r.Own, slices.DeleteFunc(h.Files(glob), func(path string) bool { return !r.ReadsFile(path) })...)
		}
	}
	r.addContainers(h)
	if r.Journal {
		i := slices.IndexFunc(h.Logged, func(unit string) bool { return services.Serves(rule.Name, unit) })
		if i >= 0 {
			r.Logged = h.Logged[i]
		}
	}
	optional := rule.Source == conf.SourceAuto || slices.ContainsFunc(slices.Concat(rule.Fail, rule.Echo, rule.Probe), func(p conf.Pattern) bool { return p.Shipped })
	r.Off = optional && r.files() && r.Logged == "" && len(r.Own) == 0 && !present(rule, services, h)
	return r
}

// present reports whether the service of a rule is installed or listens.
func present(rule *conf.Rule, services Services, h *Host) bool {
	serves := func(unit string) bool { return services.Serves(rule.Name, unit) }
	return slices.ContainsFunc(h.Units, serves) || len(rule.Programs) > 0 && h.Program(strings.TrimSuffix(rule.Programs[0], "*")) ||
		slices.ContainsFunc(h.Listeners, func(l host.Listener) bool { return covers(services, rule, l) })
}

// files reports whether the rule reads files at all.
func (r *Reader) files() bool {
	return r.Rule.Source == conf.SourceAuto || r.Rule.Source == conf.SourceFile
}

// ReadsStream reports whether the rule reads syslog sockets, or the standard input.
func (r *Reader) ReadsStream(kind conf.SourceKind) bool {
	return r.Rule.Source == conf.SourceAuto || r.Rule.Source == kind
}

// ReadsFile reports whether the rule reads the file at path.
func (r *Reader) ReadsFile(path string) bool {
	if !r.files() || !r.trusted && r.shared(path) {
		return false
	}
	return r.container(path) != nil || slices.ContainsFunc(r.Rule.Files, func(glob string) bool {
		ok, err := filepath.Match(glob, path)
		return err == nil && ok
	})
}

// Live names the sources that have lines of the rule: "journal", "files", "journal+files", "syslog", "stdin", "journal+syslog"; "none" if none
// has, and "off".
func (r *Reader) Live() string {
	files, journal := len(r.Own) > 0, r.Journal
	if len(r.Streams) > 0 || !r.Off && !r.files() && !journal {
		return r.withStreams()
	}
	switch {
	case r.Off:
		return "off"
	case journal && files:
		return "journal+files"
	case journal:
		return "journal"
	case files || r.Rule.Source == conf.SourceFile:
		return "files"
	}
	return "none"
}

// withStreams names the sources where a stream is among them.
func (r *Reader) withStreams() string {
	var names []string
	if r.Journal {
		names = append(names, "journal")
	}
	if len(r.Own) > 0 {
		names = append(names, "files")
	}
	for _, s := range r.Streams {
		if kind, _, _ := strings.Cut(s, " "); !slices.Contains(names, kind) {
			names = append(names, kind)
		}
	}
	if len(names) == 0 {
		return r.Rule.Source.String()
	}
	return strings.Join(names, "+")
}

// Heard reports whether any source is known to have lines of the rule's service.
func (r *Reader) Heard() bool { return r.Logged != "" || len(r.Own)+len(r.Streams) > 0 }

// Reason reports why the rule reads what it reads.
func (r *Reader) Reason() string {
	switch {
	case r.Off:
		return r.Rule.Service + " is not installed on this host and does not listen"
	case r.Rule.Source != conf.SourceAuto:
		return "source=" + r.Rule.Source.String()
	}
	var reasons []string
	switch {
	case r.Logged != "":
		reasons = append(reasons, "the journal has entries of "+r.Logged)
	case r.Journal && len(r.Own) == 0:
		reasons = append(reasons, fmt.Sprintf("the journal is read, but has no entries of %s yet", r.Rule.Service))
	case !r.Journal && len(r.Own) == 0:
		reasons = append(reasons, "journald does not run, and there is no "+strings.Join(r.Rule.Files, ", no "))
	}
	if i := slices.IndexFunc(r.Own, func(path string) bool { return r.container(path) == nil }); i >= 0 && r.Journal {
		reasons = append(reasons, "the service itself writes "+r.Own[i])
	} else if i >= 0 {
		reasons = append(reasons, fmt.Sprintf("journald does not run, and %s exists", r.Own[i]))
	}
	if len(r.Containers) > 0 {
		reasons = append(reasons, described(r.Containers))
	}
	if len(r.Streams) > 0 {
		reasons = append(reasons, r.Streams[0]+" has lines of "+r.Rule.Service)
	}
	if len(r.Shared) > 0 {
		reasons = append(reasons, r.Shared[0]+" is not read, because local users can write to it with logger(1)")
	}
	return strings.Join(reasons, "; ")
}

// Forgeable returns a file that source=file makes the rule read although a syslog daemon fills it and journald runs; "" if there is
// none. Failures in it count, logins do not.
func (r *Reader) Forgeable() string {
	i := slices.IndexFunc(r.Own, r.shared)
	if r.Rule.Source != conf.SourceFile || !r.doubted || i < 0 {
		return ""
	}
	return r.Own[i]
}

// A Want is what must be followed.
type Want struct {
	Journal bool
	Globs   []string // sorted
	Owners  []Owner  // whose files at Globs are believed, sorted
	UIDs    []uint32 // accounts besides root whose journal entries rules believe, sorted
}

// SameFiles reports whether the same files must be followed.
func (w Want) SameFiles(o Want) bool {
	return slices.EqualFunc(w.Owners, o.Owners, func(a, b Owner) bool { return compareOwners(a, b) == 0 })
}

// SameJournal reports whether the same entries of the journal must be followed.
func (w Want) SameJournal(o Want) bool { return w.Journal == o.Journal && slices.Equal(w.UIDs, o.UIDs) }

// Wanted returns what must be followed for readers. userID returns the number of an account.
func Wanted(readers map[string]*Reader, userID func(name string) (uint32, bool)) Want {
	var w Want
	for _, r := range readers {
		w.Globs = append(w.Globs, r.Globs...)
		w.Owners = append(w.Owners, r.owners(userID)...)
		if r.Journal {
			w.Journal = true
			w.UIDs = append(w.UIDs, uids(r.Rule, userID)...)
		}
	}
	slices.Sort(w.Globs)
	slices.Sort(w.UIDs)
	ordered.Sort(w.Owners, compareOwners)
	w.Globs, w.UIDs = slices.Compact(w.Globs), slices.Compact(w.UIDs)
	return w
}

// uids returns the numbers of the accounts that a rule names, sorted. One that does not exist has neither entries nor files.
func uids(rule *conf.Rule, userID func(name string) (uint32, bool)) (all []uint32) {
	for _, name := range rule.UIDs {
		if n, err := strconv.ParseUint(name, 10, 32); err == nil {
			all = append(all, uint32(n))
		} else if uid, ok := userID(name); ok {
			all = append(all, uid)
		}
	}
	slices.Sort(all)
	return all
}

// covers reports whether a rule is about what listens.
func covers(services Services, rule *conf.Rule, l host.Listener) bool {
	if l.Container != nil {
		return selects(rule, l.Container)
	}
	return services.Serves(rule.Name, serviceOf(l)) || len(rule.Programs) > 0 && l.Program != "" && l.Program != "systemd" && services.Covers(rule.Name, l.Program)
}

// serviceOf returns the unit that a listener belongs to; systemd listens for it where there is a .socket.
func serviceOf(l host.Listener) string {
	if name, socket := strings.CutSuffix(l.Unit, ".socket"); socket {
		return name + ".service"
	}
	return l.Unit
}

// Silent names the services that others can reach and that a rule covers, of which no source has had a line yet.
func Silent(readers map[string]*Reader, services Services, listeners []host.Listener) (all []string) {
	seen := make(map[string]bool)
	for _, l := range listeners {
		unit := serviceOf(l)
		if l.Local() || seen[unit] {
			continue
		}
		var silent *Reader
		for _, name := range slices.Sorted(maps.Keys(readers)) {
			if r := readers[name]; covers(services, r.Rule, l) {
				if silent = r; r.Heard() {
					silent = nil
					break
				}
			}
		}
		if silent != nil {
			seen[unit] = true
			all = append(all, fmt.Sprintf("%s listens on %s port %d, but nothing that rule %s reads has been logged: %s",
				show(l), l.Protocol, l.Port, silent.Rule.Name, silent.Reason()))
		}
	}
	return all
}

// Uncovered names the services of other programs that others can reach over TCP and that no rule covers, each with its ports: "nginx (80, 443)".
func Uncovered(rules []conf.Rule, services Services, listeners []host.Listener) (all []string) {
	ports := make(map[string][]string)
	for _, l := range listeners {
		if l.Local() || l.Protocol != "tcp" || ours(l) || slices.ContainsFunc(rules, func(r conf.Rule) bool { return r.Enabled && covers(services, &r, l) || serves(&r, l) }) {
			continue
		}
		name, port := show(l), fmt.Sprint(l.Port)
		if !slices.Contains(ports[name], port) {
			ports[name] = append(ports[name], port)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(ports)) {
		all = append(all, fmt.Sprintf("%s (%s)", name, strings.Join(ports[name], ", ")))
	}
	return all
}

// ours reports whether a program of mef listens, such as the block page. They limit guesses themselves.
func ours(l host.Listener) bool {
	switch cmp.Or(l.Unit, l.Program) {
	case "mefdaemon.service", "mefcloud.service", "mefdaemon", "mefpage", "mefcloud":
		return l.Container == nil
	}
	return false
}

// serves reports whether a listener of which nothing but the port is known has a port of the rule's service.
func serves(r *conf.Rule, l host.Listener) bool {
	if !r.Enabled || l.Container != nil || l.To.IsValid() || l.Unit != "" || l.Program != "" {
		return false
	}
	return r.ServicePorts.Lists(l.Port) || r.Ports.Lists(l.Port)
}

// show names what listens.
func show(l host.Listener) string {
	switch {
	case l.Container != nil:
		return "container " + l.Container.Name
	case l.To.IsValid():
		return "forwarded to " + l.To.Addr().String()
	case l.Unit != "":
		return serviceOf(l)
	case l.Program != "":
		return l.Program
	}
	return "an unknown service"
}
