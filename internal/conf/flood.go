package conf

import (
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"

	"mef/internal/ban"
)

// A FloodGroup is a list of ports with the same limits.
type FloodGroup struct {
	Ports  ban.Ports // empty: all ports that no group before it has
	Limits FloodLimits
}

// Groups returns the guarded ports, those with limits of their own first. A packet belongs to the first group that has its port.
func (f Flood) Groups() (groups []FloodGroup) {
	by := make(map[FloodLimits][]string)
	rest, some := f.Ports, true
	for _, port := range slices.Sorted(maps.Keys(f.Of)) {
		limits, text := f.Of[port].Or(f.FloodLimits), strconv.Itoa(int(port))
		by[limits] = append(by[limits], text)
		if some {
			rest, some = rest.Without(ban.Ports(text))
		}
	}
	for limits, ports := range by {
		if list, err := ban.ParsePorts(strings.Join(ports, ",")); err == nil {
			groups = append(groups, FloodGroup{list, limits})
		}
	}
	sort.Slice(groups, func(i, j int) bool { return groups[i].Ports < groups[j].Ports })
	if some {
		groups = append(groups, FloodGroup{rest, f.FloodLimits})
	}
	return groups
}
