package geodb

import (
	"errors"
	"fmt"
	"net/netip"

	"mef/internal/conf"
	"mef/internal/prefixset"
)

// MaxNetworks bounds the networks of all countries, or autonomous systems, that are collected at a time.
const MaxNetworks = 4 << 20

// Collect returns the networks of groups, in one pass over each file that is needed. The error joins what is wrong; groups that it concerns
// are missing: all countries where the file of countries is damaged, so that half a country never counts, and a group without networks, of which
// most likely the number is mistyped or the file is the wrong one.
func (db *DB) Collect(groups []conf.GeoGroup) (found map[conf.GeoGroup]*prefixset.Packed, err error) {
	found = make(map[conf.GeoGroup]*prefixset.Packed, len(groups))
	var errs []error
	for _, kind := range []int{countries, networks} {
		wanted := make(map[conf.GeoGroup]*prefixset.Packer)
		for _, g := range groups {
			if (g.Country != "") == (kind == countries) {
				wanted[g] = &prefixset.Packer{}
			}
		}
		if len(wanted) == 0 {
			continue
		}
		f := db.with(kind)
		if f == nil {
			errs = append(errs, fmt.Errorf("no database has %s", map[int]string{countries: "countries", networks: "autonomous systems"}[kind]))
			continue
		}
		if err := f.collect(kind, wanted); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", f.path, err))
			continue
		}
		for _, g := range groups {
			b := wanted[g]
			if b == nil {
				continue // of the other kind, or named twice
			}
			delete(wanted, g)
			if p := b.Pack(); p.Len() > 0 {
				found[g] = p
			} else {
				errs = append(errs, fmt.Errorf("%s: it has no network of %s", f.path, g))
			}
		}
	}
	return found, errors.Join(errs...)
}

// collect adds to each group its networks.
func (f *file) collect(kind int, wanted map[conf.GeoGroup]*prefixset.Packer) error {
	n := 0
	return f.walk(func(p netip.Prefix, at Place) error {
		g := conf.GeoGroup{Country: at.Country}
		if kind == networks {
			g = conf.GeoGroup{AS: at.AS}
		}
		b := wanted[g]
		if b == nil {
			return nil
		}
		if n++; n > MaxNetworks {
			return fmt.Errorf("more than %d networks", MaxNetworks)
		}
		b.Add(p)
		return nil
	})
}
