package cli

import (
	"fmt"
	"net/netip"
	"strings"

	"mef/internal/geodb"
)

// Places looks up where addresses are, in the databases of mef.conf. It belongs to one goroutine.
type Places struct{ db *geodb.DB }

// Places opens the databases of mef.conf. What cannot be read is not shown; mefctl config check reports why.
func (g *Global) Places() *Places {
	cfg, _ := g.Settings()
	db, _ := geodb.Open(cfg.GeoDatabases...)
	return &Places{db}
}

// Close closes the databases.
func (p *Places) Close() { p.db.Close() }

// Any reports whether there is a database.
func (p *Places) Any() bool { return len(p.db.Sources()) > 0 }

// Of returns what the databases have about an address, or the first one of a network. Any other text has nothing.
func (p *Places) Of(text string) geodb.Place {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return geodb.Place{}
		}
		addr = prefix.Addr()
	}
	place, _ := p.db.Lookup(addr)
	return place
}

// PlaceText returns "DE, AS64500" or what of it is known.
func PlaceText(p geodb.Place) string {
	var words []string
	if p.Country != "" {
		words = append(words, p.Country)
	}
	if p.AS != 0 {
		words = append(words, fmt.Sprintf("AS%d", p.AS))
	}
	return strings.Join(words, ", ")
}
