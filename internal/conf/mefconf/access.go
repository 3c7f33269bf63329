package mefconf

import (
	"fmt"
	"path/filepath"
	"strings"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/conf/diag"
	"mef/internal/conf/ini"
	"mef/internal/ordered"
)

// accessKeys are the keys of a section [access NAME], in the order of the documentation.
var accessKeys = ini.Table[conf.Access]{
	{Name: "enabled", Value: "true", Form: ini.Bool(func(a *conf.Access) *bool { return &a.Enabled }), Doc: "use the section"},
	{Name: "deny", Form: groups(false), Doc: "countries and autonomous systems that cannot open connections to the ports"},
	{Name: "allow_only", Form: groups(true), Doc: "countries and autonomous systems that can open connections to the ports; all other public addresses cannot"},
	{Name: "ports", Value: "all", Form: ini.BanPorts(func(a *conf.Access) *ban.Ports { return &a.Ports }), Doc: "ports of this host that are meant, of TCP and UDP"},
}

// maxGroups bounds the countries and autonomous systems of a section.
const maxGroups = 256

// groups are countries and autonomous systems.
func groups(only bool) ini.Form[conf.Access] {
	const syntax = conf.GeoSyntax + ", with commas"
	return ini.Form[conf.Access]{Syntax: syntax, Set: func(a *conf.Access, s ini.Setting) *ini.Fault {
		var all []conf.GeoGroup
		for offset, word := range ini.Items(s.Value) {
			g, wrong, hint := conf.ParseGeoGroup(word)
			if wrong != "" {
				return &ini.Fault{Offset: offset, Msg: wrong, Hint: hint}
			}
			all = append(all, g)
		}
		if len(all) == 0 || len(all) > maxGroups {
			return &ini.Fault{Msg: fmt.Sprintf("%d countries and autonomous systems", len(all)), Hint: fmt.Sprintf("write 1 to %d", maxGroups)}
		}
		a.SetGroups(all, only)
		return nil
	}}
}

// maxAccess bounds the sections about countries.
const maxAccess = 16

// access reads the sections about countries and autonomous systems.
func (r *reader) access(sc ini.File) {
	begin := func(name string, at diag.Pos) conf.Access {
		a := conf.Access{Name: name, Pos: at}
		accessKeys.SetDefaults(&a)
		return a
	}
	sections(r, sc, "access", maxAccess, accessKeys, begin, func(a conf.Access, at diag.Pos, d ini.Decoded) {
		_, deny := d.Set["deny"]
		_, only := d.Set["allow_only"]
		switch {
		case deny && only:
			r.errs = append(r.errs, &diag.Error{Pos: d.Set["allow_only"].KeyPos, Msg: fmt.Sprintf("[access %s]: deny and allow_only together", a.Name), Hint: "remove one: allow_only denies everything else"})
		case !deny && !only:
			r.errs = append(r.errs, &diag.Error{Pos: at, Msg: fmt.Sprintf("[access %s]: nothing is denied", a.Name), Hint: "add deny=@country:XX, or allow_only=@country:XX"})
		case len(d.Errs) == 0 && len(r.cfg.GeoDatabases) == 0 && r.set["geo_databases"].Key == "":
			r.errs = append(r.errs, &diag.Error{Pos: at, Msg: fmt.Sprintf("[access %s]: no database has its addresses", a.Name),
				Hint: "add geo_databases=PATH to [global], such as /usr/share/GeoIP/GeoLite2-Country.mmdb or /var/lib/GeoIP/GeoLite2-Country.mmdb"})
		}
		r.cfg.Access = append(r.cfg.Access, a)
	})
	ordered.Sort(r.cfg.Access, func(a, b conf.Access) int { return strings.Compare(a.Name, b.Name) })
}

// isDatabase reports whether s can be the path of a database.
func isDatabase(s string) bool { return filepath.IsAbs(s) && len(s) <= ini.MaxPath }
