package loader

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"mef/internal/conf"
	"mef/internal/firewall/policy"
	"mef/internal/geodb"
	"mef/internal/host"
	"mef/internal/lists/names"
)

// How long names are looked up at most. At boot there is no network yet, which most often is known at once.
const (
	lookUp       = 5 * time.Second
	lookUpAtBoot = time.Second
)

// facts gathers what a policy needs to know of this host. Notices report what could not be had, and what is taken instead. The error reports
// countries and autonomous systems without addresses, for which there is no substitute: what is dropped would be accepted, or the reverse.
func (l *Loader) facts(ctx context.Context, src *policy.Source, wait time.Duration) (f policy.Facts, notices []string, err error) {
	if src.Auto() {
		var notice string
		if f.Auto, notice = l.defaultLinks(); notice != "" {
			notices = append(notices, notice)
		}
	}
	if hosts := src.Hosts(); len(hosts) > 0 {
		var more []string
		f.Hosts, more = l.resolve(ctx, hosts, wait)
		notices = append(notices, more...)
	}
	if groups := src.Groups(); len(groups) > 0 {
		err = l.groups(groups, &f)
	}
	return f, notices, err
}

// groups sets the addresses of countries and autonomous systems. The error is a conf.Errors.
func (l *Loader) groups(wanted map[conf.GeoGroup]conf.Pos, f *policy.Facts) error {
	var errs conf.Errors
	var paths []string
	for _, path := range l.settings.GeoDatabases {
		if e := conf.CheckOwner(path); e != nil {
			errs = append(errs, e)
			continue
		}
		paths = append(paths, path)
	}
	db, err := geodb.Open(paths...)
	if err != nil {
		errs = append(errs, &conf.Error{Pos: conf.Pos{File: l.settings.Path}, Msg: "geo_databases: " + strings.ReplaceAll(err.Error(), "\n", "; ")})
	}
	defer db.Close()
	all := slices.SortedFunc(maps.Keys(wanted), conf.GeoGroup.Compare)
	f.Groups, err = db.Collect(all)
	for _, g := range all {
		if f.Groups[g].Len() == 0 {
			hint := strings.ReplaceAll(err.Error(), "\n", "; ")
			if len(l.settings.GeoDatabases) == 0 {
				hint = "name a database in mef.conf: geo_databases=PATH"
			}
			errs = append(errs, &conf.Error{Pos: wanted[g], Msg: "the addresses of " + g.String() + " are not known", Hint: hint})
		}
	}
	return errs.Err()
}

// defaultLinks returns the interfaces of the default routes: those that are there, else those that were there last.
func (l *Loader) defaultLinks() (auto []string, notice string) {
	links, err := host.Links()
	if err == nil {
		for _, link := range links {
			if link.Default {
				auto = append(auto, link.Name)
			}
		}
	}
	if len(auto) > 0 {
		var last []string
		if readJSON(l.state.path(linksFile), &last) != nil || !slices.Equal(last, auto) {
			_ = writeNote(l.state.path(linksFile), auto, 0o600) // the next boot does with what there is
		}
		return auto, ""
	}
	if readJSON(l.state.path(linksFile), &auto) == nil && len(auto) > 0 {
		return auto, "there is no default route: auto is " + strings.Join(auto, ", ") + ", the interface of the last one"
	}
	return nil, "there is no default route and never was one: auto is any interface"
}

// resolve looks names up, and takes the last good answers where that fails.
func (l *Loader) resolve(ctx context.Context, hosts []string, wait time.Duration) (map[string][]netip.Addr, []string) {
	known := map[string]names.Answer{}
	saved := map[string]answer{}
	_ = readJSON(l.state.path(namesFile), &saved) // none the first time
	for name, a := range saved {
		if slices.Contains(hosts, name) {
			known[name] = names.Answer{Addrs: a.Addrs, At: a.At}
		}
	}
	keeper := names.New(names.Options{Servers: l.nameServers, Timeout: wait / 2})
	keeper.Know(known)
	keeper.Want(hosts)
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	keeper.Once(ctx)
	known = keeper.Answers()
	found := map[string][]netip.Addr{}
	var notices []string
	for _, name := range hosts {
		a := known[name]
		switch {
		case len(a.Addrs) == 0 && a.Err != "":
			notices = append(notices, "the name "+name+" adds nothing to its set: "+a.Err)
		case len(a.Addrs) == 0:
			notices = append(notices, "the name "+name+" adds nothing to its set: no time was left to resolve it")
		case a.Err != "":
			notices = append(notices, "the name "+name+" has its addresses of "+a.At.Local().Format(time.DateTime)+": "+a.Err)
		}
		if len(a.Addrs) > 0 {
			found[name] = a.Addrs
			saved[name] = answer{a.Addrs, a.At}
		}
	}
	maps.DeleteFunc(saved, func(name string, _ answer) bool { return !slices.Contains(hosts, name) })
	_ = writeNote(l.state.path(namesFile), saved, 0o600) // what cannot be kept is looked up again
	return found, notices
}
