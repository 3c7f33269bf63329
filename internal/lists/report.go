package lists

import (
	"fmt"
	"net/netip"
	"time"

	"mef/internal/control"
)

// A report is what status and why show of the lists, without waiting for their owner. It is never changed once it is published.
type report struct {
	allowed      []Item // what the allow list is made of
	mistakes     []string
	leftOut      int     // entries of blacklist files that drop nothing
	held         float64 // addresses in it that are left out because administrators log in from them
	leftOutNames int     // DNS names of the allow list that are not looked up
}

// publish replaces the report that others see.
func (l *Lists) publish(r report) { l.report.Store(&r) }

// Explain adds to never, why an address is never banned, the entry by which the operator allowed it. It may be called from any goroutine.
func (l *Lists) Explain(addr netip.Addr, never string) string {
	return l.report.Load().explain(addr, never)
}

// Warn adds to a status what is wrong with lists. It may be called from any goroutine.
func (l *Lists) Warn(s *control.Status, now time.Time) {
	l.report.Load().warn(s, l.warnings(now))
	s.Warnings = append(s.Warnings, l.feeds.problems()...)
}

func (r *report) explain(addr netip.Addr, never string) string {
	if r == nil || never == "" {
		return never
	}
	for _, item := range r.allowed {
		if item.Set.Contains(addr) {
			return fmt.Sprintf("%s (%s, %s)", never, item.Text, item.Source)
		}
	}
	return never
}

// warn is Warn without feeds. names are names without an address.
func (r *report) warn(s *control.Status, names []string) {
	some := func(all []string, what string) {
		const most = 5
		s.Warnings = append(s.Warnings, all[:min(len(all), most)]...)
		if more := len(all) - most; more > 0 {
			s.Warnings = append(s.Warnings, fmt.Sprintf("%d more %s; mefctl lists shows them", more, what))
		}
	}
	some(r.mistakes, "mistakes in lists")
	if r.leftOut > 0 {
		s.Warnings = append(s.Warnings, fmt.Sprintf("%d entries of blacklist files are ignored; mefctl lists blacklist shows why", r.leftOut))
	}
	if r.held > 0 {
		s.Warnings = append(s.Warnings, fmt.Sprintf("%.0f addresses of blacklist files are left out, because an administrator logged in from there; "+
			"mefctl lists blacklist shows them", r.held))
	}
	if r.leftOutNames > 0 {
		s.Warnings = append(s.Warnings, fmt.Sprintf("%d DNS names of the allow list are ignored: there are more than %d", r.leftOutNames, MaxNames))
	}
	some(names, "names without an address")
}
