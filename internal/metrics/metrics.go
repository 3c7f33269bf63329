// Package metrics writes what the daemon counts in the text format of Prometheus.
//
// A metric has labels that the configuration bounds, services, and never one that an attacker chooses: no address, no user name. So the number of
// series is at most MaxSeries, whatever happens.
package metrics

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"mef/internal/control"
)

// ContentType is that of Text in HTTP.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

const (
	// MaxSeries is how many series there are at most.
	MaxSeries = 150
	// maxServices is how many services have series of their own, those with the most failures; the others are added up as other.
	maxServices = 24
	other       = "other"
)

// A page is a text that is being written.
type page struct{ bytes.Buffer }

// family begins a metric.
func (p *page) family(name, kind, help string) {
	fmt.Fprintf(p, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

// sample writes a value. labels are names, each with its value.
func (p *page) sample(name string, value float64, labels ...string) {
	p.WriteString(name)
	for i := 0; i < len(labels); i += 2 {
		p.WriteString(string("{,"[min(i, 1)]) + labels[i] + `="` + escape(labels[i+1]) + `"`)
	}
	if len(labels) > 0 {
		p.WriteByte('}')
	}
	p.WriteString(" " + strconv.FormatFloat(value, 'f', -1, 64) + "\n")
}

// escape returns a value of a label.
func escape(text string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(strings.ToValidUTF8(text, "?"))
}

// one writes a metric of one series.
func (p *page) one(name, kind, help string, value float64) {
	p.family(name, kind, help)
	p.sample(name, value)
}

// Text returns the metrics of a picture.
func Text(pic *control.Picture) []byte {
	p := new(page)
	p.family("mef_build_info", "gauge", "The version of mefdaemon; always 1.")
	p.sample("mef_build_info", 1, "version", pic.Version)
	p.one("mef_start_time_seconds", "gauge", "When mefdaemon started, in seconds since 1970.", seconds(pic.Since))
	p.one("mef_status_time_seconds", "gauge", "When the status was last looked at, in seconds since 1970.", seconds(pic.Judged))
	p.one("mef_protected", "gauge", "1 if this host is protected, otherwise 0; mefctl status shows why.", truth(pic.Level != control.Red))
	p.one("mef_enforcing", "gauge", "1 if bans are applied, 0 if they are only logged.", truth(pic.Mode == "enforce"))
	p.one("mef_status_problems", "gauge", "What keeps this host from being protected, as mefctl status lists it.", float64(len(pic.Missing)))
	p.one("mef_status_warnings", "gauge", "The warnings of mefctl status.", float64(len(pic.Warnings)))
	p.one("mef_alarms", "gauge", "Logins that may be break-ins and that nobody has acknowledged.", float64(pic.AlarmCount))
	p.one("mef_under_attack", "gauge", "1 during a distributed attack, otherwise 0.", truth(len(pic.Attacks) > 0))
	p.one("mef_attempts_total", "counter", "Failed attempts that services logged.", float64(pic.Attempts))
	p.one("mef_probes_total", "counter", "Requests and packets that probe for weaknesses.", float64(pic.Probes))
	p.one("mef_logins_total", "counter", "Successful logins.", float64(pic.Logins))
	p.one("mef_bans_total", "counter", "Bans that were made.", float64(pic.Bans.Ever))
	p.family("mef_bans", "gauge", "Bans in force.")
	p.sample("mef_bans", float64(pic.Bans.IPv4), "family", "ipv4")
	p.sample("mef_bans", float64(pic.Bans.IPv6), "family", "ipv6")
	p.one("mef_bans_unverified", "gauge", "Bans in force of sources whose addresses may be forged.", float64(pic.Bans.Unverified))
	p.one("mef_bans_permanent", "gauge", "Bans in force without end.", float64(pic.Bans.Permanent))
	if d := pic.Dropped; d.Known {
		p.family("mef_dropped_packets_total", "counter", "Packets that the kernel dropped, by what had them dropped.")
		p.sample("mef_dropped_packets_total", float64(d.Verified), "by", "ban")
		p.sample("mef_dropped_packets_total", float64(d.Unverified), "by", "unverified_ban")
		p.sample("mef_dropped_packets_total", float64(d.Replies), "by", "reply")
		p.sample("mef_dropped_packets_total", float64(d.Lists), "by", "list")
	}
	p.services(pic.Services)
	return p.Bytes()
}

// services writes the metrics of services, each with a series for each of them.
func (p *page) services(all []control.ServiceCounter) {
	shown := bounded(all)
	if len(shown) == 0 {
		return
	}
	for _, m := range []struct {
		name, kind, help string
		value            func(*control.ServiceCounter) uint64
	}{
		{"mef_service_failures_total", "counter", "Failed attempts by service.", func(s *control.ServiceCounter) uint64 { return s.Failures }},
		{"mef_service_probes_total", "counter", "Probes by service.", func(s *control.ServiceCounter) uint64 { return s.Probes }},
		{"mef_service_logins_total", "counter", "Successful logins by service.", func(s *control.ServiceCounter) uint64 { return s.Logins }},
		{"mef_service_bans_total", "counter", "Bans by rules of the service.", func(s *control.ServiceCounter) uint64 { return s.Bans }},
		{"mef_service_sources", "gauge", "Sources that failed at the service within about an hour.", func(s *control.ServiceCounter) uint64 { return uint64(s.Sources) }},
	} {
		p.family(m.name, m.kind, m.help)
		for i := range shown {
			p.sample(m.name, float64(m.value(&shown[i])), "service", shown[i].Name)
		}
	}
}

// bounded returns the services that are on this host, in the order of their names: those with the most failures, and others as one.
func bounded(all []control.ServiceCounter) []control.ServiceCounter {
	on := slices.DeleteFunc(slices.Clone(all), func(s control.ServiceCounter) bool {
		return (s.State == "off" || s.State == "none") && s.Failures+s.Probes+s.Logins+s.Bans == 0
	})
	slices.SortStableFunc(on, func(a, b control.ServiceCounter) int { return cmp.Compare(b.Failures, a.Failures) })
	if len(on) > maxServices {
		rest := control.ServiceCounter{Name: other}
		for _, s := range on[maxServices-1:] {
			rest.Failures, rest.Probes, rest.Logins, rest.Bans = rest.Failures+s.Failures, rest.Probes+s.Probes, rest.Logins+s.Logins, rest.Bans+s.Bans
			rest.Sources = max(rest.Sources, s.Sources)
		}
		on = append(on[:maxServices-1], rest)
	}
	slices.SortFunc(on, func(a, b control.ServiceCounter) int { return cmp.Compare(a.Name, b.Name) })
	return on
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
