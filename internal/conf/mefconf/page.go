package mefconf

import (
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"mef/internal/conf"
	"mef/internal/conf/ini"
)

// address is the path of a unix socket or an address with a port, with local a loopback address only.
func address(local bool, field func(*conf.Config) *string) ini.Form[conf.Config] {
	syntax := "an absolute path, or an address and port such as 127.0.0.1:9180 or [::1]:9180"
	if local {
		syntax = "an absolute path, or a loopback address and port such as 127.0.0.1:9181"
	}
	return ini.Form[conf.Config]{Syntax: syntax, Empty: true, Set: func(c *conf.Config, s ini.Setting) *ini.Fault {
		*field(c) = s.Value
		if s.Value == "" {
			return nil
		}
		if filepath.IsAbs(s.Value) && len(s.Value) <= ini.MaxSocket {
			*field(c) = filepath.Clean(s.Value)
			return nil
		}
		a, err := netip.ParseAddrPort(s.Value)
		if err != nil || a.Port() == 0 || local && !a.Addr().IsLoopback() {
			return ini.Wrong(0, s.Value, syntax)
		}
		return nil
	}}
}

// optionalPath is an absolute path, or empty.
func optionalPath(field func(*conf.Config) *string) ini.Form[conf.Config] {
	form := ini.Path(ini.MaxPath, field)
	path := form.Set
	form.Empty = true
	form.Set = func(c *conf.Config, s ini.Setting) *ini.Fault {
		if s.Value == "" {
			*field(c) = ""
			return nil
		}
		return path(c, s)
	}
	return form
}

// pageGroups are groups with roles: GROUP:ROLE, with commas.
func pageGroups(field func(*conf.Config) *[]conf.PageGroup) ini.Form[conf.Config] {
	const syntax = "GROUP:ROLE, with commas; a role is read, support or operator"
	return ini.Form[conf.Config]{Syntax: syntax, Empty: true, Set: func(c *conf.Config, s ini.Setting) *ini.Fault {
		var all []conf.PageGroup
		for offset, word := range ini.Items(s.Value) {
			name, role, _ := strings.Cut(word, ":")
			if !ini.IsName(name) || !slices.Contains(conf.PageRoles[:], role) {
				return ini.Wrong(offset, word, syntax)
			}
			all = append(all, conf.PageGroup{Name: name, Role: role})
		}
		*field(c) = all
		return nil
	}}
}
