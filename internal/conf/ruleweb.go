package conf

import (
	"regexp"
	"strings"
	"time"
)

// A Web reports what a rule with engine=webscan counts in access logs.
type Web struct {
	Patterns []Pattern // of lines, with the groups ip, method, uri, status and ua; none: the usual formats of web servers

	MaxSources int           // sources that are followed at a time
	Idle       time.Duration // a source without a request for so long is forgotten

	Thresholds []Threshold // at least one

	// Requests that do not count: globs of the path and of the agent, in lower case, and extensions of the path without dot.
	AllowURIs, AllowAgents, AllowExtensions []string

	Set []Origin // where keys are set, by us or the operator
}

// A Threshold is reached when all that it asks for holds of one source within Window. A number of 0 asks for nothing.
type Threshold struct {
	Number   int    // in the file
	Name     string // unique in the rule
	Requests int
	URIs     int // different paths
	Agents   int // different user agents
	Refused  int // requests with a status of Status
	Status   Statuses
	Codes    string // Status as it is written; empty: all
	Window   time.Duration
	Action   Action
	BanTime  time.Duration // 0: that of the rule

	// URI and Agent are globs in lower case, of the path with its query and of the agent. With any, only requests that match one of them,
	// and have a status of Status, count at all.
	URI, Agent []string

	// FalseCrawler asks that the agent is that of a search engine's crawler, which the address is not.
	FalseCrawler bool

	Pos Pos // of the first key about it
}

// Narrow reports whether only some requests count for the threshold.
func (t *Threshold) Narrow() bool { return len(t.URI)+len(t.Agent) > 0 }

// Most is how many URIs or agents of a source can be told apart, and how long a list of globs may be.
const Most = 1024

// Statuses is a set of HTTP status codes from 100 to 599.
type Statuses [8]uint64

// Has reports whether the set has a code.
func (s *Statuses) Has(code int) bool {
	return code >= 100 && code < 600 && s[(code-100)/64]>>((code-100)%64)&1 != 0
}

// Add adds the codes from first to last, both within 100 to 599.
func (s *Statuses) Add(first, last int) {
	for code := first; code <= last; code++ {
		s[(code-100)/64] |= 1 << ((code - 100) % 64)
	}
}

// GlobPattern returns the regular expression of whole texts that a glob stands for, in which * and ? are wildcards.
func GlobPattern(glob string) string {
	return "(?s)^" + strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(regexp.QuoteMeta(glob)) + "$"
}
