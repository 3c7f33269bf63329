package conf

import (
	"fmt"
	"slices"
)

// KeepPaths replaces the paths that a running daemon cannot change by those of its configuration, each with a notice.
func (c *Config) KeepPaths(running *Config) {
	for _, p := range []struct {
		key        string
		path, kept *string
	}{
		{"control_socket", &c.Paths.ControlSocket, &running.Paths.ControlSocket},
		{"cache_dir", &c.Paths.StateDir, &running.Paths.StateDir},
	} {
		if *p.path == *p.kept {
			continue
		}
		c.Notices = append(c.Notices, Notice{Pos: c.placeOf(p.key),
			Text: fmt.Sprintf("%s: %q takes effect when mefdaemon is restarted; until then it is %q", p.key, *p.path, *p.kept)})
		*p.path = *p.kept
	}
}

// placeOf returns where a key is set, the file as a whole if it is not.
func (c *Config) placeOf(key string) Pos {
	i := slices.IndexFunc(c.Origins, func(o Origin) bool { return o.Key == key })
	if i < 0 || c.Origins[i].Pos.File == "" {
		return Pos{File: c.Path}
	}
	return c.Origins[i].Pos
}
