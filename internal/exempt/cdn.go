package exempt

import (
	_ "embed"
	"net/netip"
	"strings"
	"time"

	"mef/internal/prefixset"
)

// A CDN is a content delivery network: a ban of one of its addresses would shut out everybody who comes through it.
type CDN struct {
	Name     string
	Listed   time.Time // the day of the list
	Source   string    // where its operator publishes it
	Networks prefixset.Set
}

//go:embed cdn.txt
var cdnText string

// CDNs returns the content delivery networks that are built in.
func CDNs() []CDN { return parseCDNs(cdnText) }

// CDNNetworks returns the networks of all of them.
func CDNNetworks() (all prefixset.Set) {
	for _, c := range CDNs() {
		all = all.Union(c.Networks)
	}
	return all
}

// parseCDNs reads the format of cdn.txt; a test sees to it that there is nothing else in that file.
func parseCDNs(text string) (all []CDN) {
	var networks []netip.Prefix
	end := func() {
		if len(all) > 0 {
			all[len(all)-1].Networks = prefixset.New(networks...)
		}
		networks = nil
	}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		switch {
		case len(f) == 0 || strings.HasPrefix(f[0], "#"):
		case strings.HasPrefix(f[0], "[") && len(f) == 3:
			end()
			day, _ := time.Parse(time.DateOnly, f[1])
			all = append(all, CDN{Name: strings.Trim(f[0], "[]"), Listed: day, Source: f[2]})
		default:
			if p, err := netip.ParsePrefix(f[0]); err == nil {
				networks = append(networks, p)
			}
		}
	}
	end()
	return all
}

// cdn names the content delivery network that p overlaps, "" if there is none.
func (f *Facts) cdn(p netip.Prefix) string {
	for _, c := range f.CDNs {
		if c.Networks.Overlaps(p) {
			return c.Name + ", which many clients share (its list of " + c.Listed.Format(time.DateOnly) + ")"
		}
	}
	return ""
}
