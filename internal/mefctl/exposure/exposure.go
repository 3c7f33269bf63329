// Package exposure reports what strangers can reach on this host and which rules cover it, and from where the operator is logged in.
package exposure

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"mef/internal/conf"
	"mef/internal/filter"
	"mef/internal/host"
)

// A Service waits for strangers on a port.
type Service struct {
	Protocol string   `json:"protocol"`
	Port     uint16   `json:"port"`
	Program  string   `json:"program,omitempty"`
	Rules    []string `json:"rules"` // that cover it
}

// Services reports which rules cover what strangers can reach, each service once whatever its addresses. A rule covers the program
// whose log it reads; one that names no program covers the ports it bans on, if a file that it reads is there.
func Services(listeners []host.Listener, rules []conf.Rule, covers func(rule, program string) bool) (found []Service) {
	for _, l := range listeners {
		s := Service{Protocol: l.Protocol, Port: l.Port, Program: cmp.Or(l.Program, strings.TrimSuffix(l.Unit, ".service")), Rules: []string{}}
		if l.Local() || slices.ContainsFunc(found, func(o Service) bool { return o.Protocol == s.Protocol && o.Port == s.Port }) {
			continue
		}
		for _, r := range rules {
			covered := r.Ports.Lists(l.Port) && there(r.Files)
			if len(r.Programs) > 0 {
				covered = s.Program != "" && covers(r.Name, s.Program)
			}
			if r.Enabled && covered {
				s.Rules = append(s.Rules, r.Name)
			}
		}
		found = append(found, s)
	}
	return found
}

// Here returns the services of this host that others can reach; see Services. The error is conf.Errors if a rule does not compile.
func Here(rules []conf.Rule) ([]Service, error) {
	listeners, err := host.Listeners()
	if err != nil {
		return nil, err
	}
	set, errs := filter.Compile(rules)
	if err := errs.Err(); err != nil {
		return nil, err
	}
	return Services(listeners, rules, set.Covers), nil
}

// there reports whether a file that a rule reads is there, or the rule reads none.
func there(globs []string) bool {
	return len(globs) == 0 || slices.ContainsFunc(globs, func(glob string) bool {
		found, _ := filepath.Glob(glob)
		return len(found) > 0
	})
}

// UncoveredSSH names the ports on which sshd can be reached, and on which no rule that reads what it logs bans.
func UncoveredSSH(listeners []host.Listener, rules []conf.Rule) (all []string) {
	set, errs := filter.Compile(rules)
	if len(errs) > 0 {
		return nil
	}
	for _, l := range listeners {
		if l.Protocol != "tcp" || l.Local() || !isSSH(l) {
			continue
		}
		covered := slices.ContainsFunc(rules, func(r conf.Rule) bool {
			return r.Enabled && len(r.Programs) > 0 && set.Covers(r.Name, "sshd") && (r.Ports == "" || r.PortsAuto || r.Ports.Lists(l.Port))
		})
		text := fmt.Sprintf("sshd listens on port %d, which no rule covers; add the port to ports= of the rule sshd", l.Port)
		if !covered && !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	return all
}

func isSSH(l host.Listener) bool {
	unit, _, _ := strings.Cut(l.Unit, ".")
	return l.Program == "sshd" || unit == "ssh" || unit == "sshd"
}

// Caller returns the address from which the operator is logged in: sshd sets it in the environment, which sudo drops; logind has it too,
// and so does the process that called sudo.
func Caller(connection string) (netip.Addr, bool) {
	if addr, ok := peerOf(connection); ok {
		return addr, true
	}
	if s, ok := host.OwnSession(); ok {
		return s.Peer, true
	}
	return peerOf(host.SSHConnection())
}

// Connection returns the SSH connection in which this process runs, as in SSH_CONNECTION: addresses and ports of both ends, which no
// other connection has at the same time. It is empty if there is none.
func Connection() string {
	if own := os.Getenv("SSH_CONNECTION"); own != "" {
		return own
	}
	return host.SSHConnection()
}

// peerOf returns the client of an SSH_CONNECTION.
func peerOf(connection string) (netip.Addr, bool) {
	f := strings.Fields(connection)
	if len(f) != 4 {
		return netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(f[0])
	return addr.WithZone("").Unmap(), err == nil
}
