package conf

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"mef/internal/ban"
	"mef/internal/ordered"
)

// An Access closes ports of this host to countries and autonomous systems, or to all but these: a section [access NAME] of mef.conf.
type Access struct {
	Name    string
	Pos     Pos
	Enabled bool
	Only    bool       // allow_only: closed to all others
	Groups  []GeoGroup // of deny or allow_only, ascending, each once
	Ports   ban.Ports  // empty: all
}

// Equal reports whether two close the same ports to the same addresses.
func (a *Access) Equal(b *Access) bool {
	return a.Name == b.Name && a.Enabled == b.Enabled && a.Text() == b.Text() && a.Ports == b.Ports
}

// Text returns "deny=@country:CN,@as:64500" or "allow_only=@country:DE".
func (a *Access) Text() string {
	words := make([]string, len(a.Groups))
	for i, g := range a.Groups {
		words[i] = g.String()
	}
	key := "deny="
	if a.Only {
		key = "allow_only="
	}
	return key + strings.Join(words, ",")
}

// SetGroups sets of which countries and autonomous systems it is. It takes over the slice.
func (a *Access) SetGroups(groups []GeoGroup, only bool) {
	ordered.Sort(groups, GeoGroup.Compare)
	a.Groups, a.Only = slices.Compact(groups), only
}

// A GeoGroup is a country or an autonomous system.
type GeoGroup struct {
	Country string // two capital letters of ISO 3166-1; empty: AS counts
	AS      uint32
}

// GeoSyntax is how groups are written, in words.
const GeoSyntax = "@country:XX with a code of ISO 3166-1 such as @country:DE, or @as:NUMBER such as @as:64500"

// IsGeoGroup reports whether text is meant as a group, rightly written or not.
func IsGeoGroup(text string) bool {
	return strings.HasPrefix(text, "@country:") || strings.HasPrefix(text, "@as:")
}

// ParseGeoGroup reads "@country:DE" or "@as:64500". Otherwise wrong reports what is wrong, and hint what to write instead.
func ParseGeoGroup(text string) (g GeoGroup, wrong, hint string) {
	if code, ok := strings.CutPrefix(text, "@country:"); ok {
		code = strings.ToUpper(code)
		switch instead, known := usualCodes[code]; {
		case len(code) == 2 && strings.Contains(countryCodes, " "+code+" "):
			return GeoGroup{Country: code}, "", ""
		case known:
			return g, fmt.Sprintf("%+q is not the code of a country", code), "write @country:" + instead
		}
		return g, fmt.Sprintf("%+q is not the code of a country", code), "write two letters of ISO 3166-1, such as @country:DE"
	}
	number, ok := strings.CutPrefix(text, "@as:")
	if !ok {
		for _, meant := range []string{"@country:" + text, "@as:" + strings.TrimPrefix(strings.ToUpper(text), "AS")} {
			if g, wrong, _ := ParseGeoGroup(meant); wrong == "" {
				return GeoGroup{}, fmt.Sprintf("%+q is neither a country nor an autonomous system", text), "write " + g.String()
			}
		}
		return g, fmt.Sprintf("%+q is neither a country nor an autonomous system", text), "write " + GeoSyntax
	}
	digits := strings.TrimPrefix(strings.ToUpper(number), "AS")
	n, err := strconv.ParseUint(digits, 10, 32)
	switch {
	case err != nil || n == 0:
		return g, fmt.Sprintf("%+q is not the number of an autonomous system", number), "write a number from 1 to 4294967295, such as @as:64500"
	case digits != number || digits[0] == '0' || digits[0] == '+':
		return g, fmt.Sprintf("%+q is not the number alone", number), fmt.Sprintf("write @as:%d", n)
	}
	return GeoGroup{AS: uint32(n)}, "", ""
}

// String returns "@country:DE" or "@as:64500".
func (g GeoGroup) String() string {
	if g.Country != "" {
		return "@country:" + g.Country
	}
	return "@as:" + strconv.FormatUint(uint64(g.AS), 10)
}

// Compare orders groups: autonomous systems by number, then countries.
func (g GeoGroup) Compare(o GeoGroup) int {
	return cmp.Or(cmp.Compare(g.Country, o.Country), cmp.Compare(g.AS, o.AS))
}

// usualCodes are codes that people write for those of ISO 3166-1.
var usualCodes = map[string]string{
	"UK": "GB", "EN": "GB", "ENG": "GB", "GBR": "GB", "EL": "GR", "GRC": "GR", "USA": "US", "DEU": "DE", "GER": "DE", "CHN": "CN", "RUS": "RU", "SU": "RU", "FRA": "FR",
	"AUT": "AT", "CHE": "CH", "SUI": "CH", "NLD": "NL", "ESP": "ES", "ITA": "IT", "POL": "PL", "JAP": "JP", "JPN": "JP", "KOR": "KR", "PRK": "KP", "IND": "IN", "BRA": "BR",
	"IRN": "IR", "UKR": "UA", "TP": "TL", "ZR": "CD", "BU": "MM", "YU": "RS", "KO": "KR", "CS": "CZ", "JA": "JP", "KOS": "XK",
}

// countryCodes are those of ISO 3166-1, and XK, which databases have for Kosovo.
const countryCodes = " AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX " +
	"CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO " +
	"JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM " +
	"PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG " +
	"UM US UY UZ VA VC VE VG VI VN VU WF WS XK YE YT ZA ZM ZW "
