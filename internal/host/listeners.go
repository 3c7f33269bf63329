//go:build linux

package host

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"mef/internal/host/docker"
	"mef/internal/netlink/sockdiag"
	"mef/internal/ordered"
)

// A Listener is a socket that accepts connections from other hosts: a listening TCP socket, or a UDP socket that is bound and not connected.
type Listener struct {
	Protocol string // "tcp" or "udp"
	Addr     netip.Addr
	Port     uint16
	UID      uint32 // of the user that opened it

	// Unit is the system unit that the socket belongs to, such as "ssh.service"; empty where the kernel does not report it (before
	// 5.8) or there are no units.
	Unit string

	// Program is the name of the process that has it open, "" unless we may look: that needs root.
	Program string

	// To is where the kernel forwards connections by a rule of DNAT; nothing need listen then. The zero AddrPort if it does not.
	To netip.AddrPort

	// Container is the one of Docker whose published port it is; nil if it is none, or if we may not look.
	Container *docker.Container
}

// Local reports whether only this host can reach the listener.
func (l Listener) Local() bool { return l.Addr.IsLoopback() }

// Listeners returns the listening sockets in the caller's network namespace, by protocol, port and address.
func Listeners() ([]Listener, error) {
	var found []Listener
	units, programs := unitsIn(cgroupRoots), programsIn("/proc")
	for _, kind := range []struct {
		protocol byte
		name     string
		states   sockdiag.States
	}{{unix.IPPROTO_TCP, "tcp", sockdiag.Listen}, {unix.IPPROTO_UDP, "udp", sockdiag.Close}} {
		err := sockets(kind.protocol, kind.states, 0, func(s sockdiag.Socket) {
			if s.Local.Port() != 0 {
				found = append(found, Listener{Protocol: kind.name, Addr: s.Local.Addr(), Port: s.Local.Port(), UID: s.UID,
					Unit: units[s.Cgroup], Program: programs[s.Inode]})
			}
		})
		if err != nil {
			return nil, err
		}
	}
	ordered.Sort(found, compareListeners)
	found = slices.Compact(found)
	containers, _ := docker.Containers() // without them, it is docker.service that listens
	return addPublished(found, Published(containers)), nil
}

// Containers is docker.Containers.
func Containers(roots ...string) ([]docker.Container, error) { return docker.Containers(roots...) }

// Published returns the ports at which others reach containers of Docker. Nothing need listen there: the kernel translates the address.
func Published(containers []docker.Container) (all []Listener) {
	for i := range containers {
		for _, port := range containers[i].Ports {
			all = append(all, Listener{Protocol: port.Protocol, Addr: netip.IPv6Unspecified(), Port: port.Number, Unit: "docker.service", Container: &containers[i]})
		}
	}
	return all
}

// Forwarded returns what waits for connections, with the ports that this host forwards and at which nothing else waits.
func Forwarded(listeners []Listener, forwards []Forward) []Listener {
	all := slices.Clone(listeners)
	for _, f := range forwards {
		if !slices.ContainsFunc(listeners, func(l Listener) bool { return l.Protocol == f.Protocol && l.Port == f.Port && !l.Local() }) {
			all = append(all, Listener{Protocol: f.Protocol, Addr: netip.IPv6Unspecified(), Port: f.Port, To: f.To})
		}
	}
	return all
}

// addPublished adds published ports to what listens. Where Docker's userland proxy listens, it stands for the container.
func addPublished(found, published []Listener) []Listener {
	for _, p := range published {
		proxied := false
		for i := range found {
			l := &found[i]
			if l.Protocol == p.Protocol && l.Port == p.Port && (l.Program == "docker-proxy" || l.Unit == p.Unit) {
				l.Container, proxied = p.Container, true
			}
		}
		if !proxied {
			found = append(found, p)
		}
	}
	ordered.Sort(found, compareListeners)
	return found
}

func compareListeners(a, b Listener) int {
	return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port), a.Addr.Compare(b.Addr))
}

// ListenStamp returns a number that changes when other sockets listen in the caller's network namespace. It costs much less than Listeners.
func ListenStamp() (stamp uint64, err error) {
	add := func(s sockdiag.Socket) {
		h := fnv.New64a()
		fmt.Fprint(h, s.Local, s.UID, s.Inode)
		stamp += h.Sum64() // in any order
	}
	const clients = 32768 // UDP sockets from this port on are those of clients
	return stamp, cmp.Or(sockets(unix.IPPROTO_TCP, sockdiag.Listen, 0, add),
		sockets(unix.IPPROTO_UDP, sockdiag.Close, 0, func(s sockdiag.Socket) {
			if s.Local.Port() < clients {
				add(s)
			}
		}))
}

// cgroupRoots are where the unified hierarchy of control groups is mounted.
var cgroupRoots = []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}

// cgroupDepth is how deep units are looked for: slices may stand in slices.
const cgroupDepth = 5

// unitsIn returns the units by the inode numbers of their control groups, which is how the kernel names them.
func unitsIn(roots []string) map[uint64]string {
	units := map[uint64]string{}
	for _, root := range roots {
		filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return nil
			}
			switch filepath.Ext(path) {
			case ".service", ".socket", ".scope":
				var st unix.Stat_t
				if unix.Stat(path, &st) == nil {
					units[st.Ino] = d.Name()
				}
				return fs.SkipDir
			}
			if strings.Count(strings.TrimPrefix(path, root), "/") >= cgroupDepth {
				return fs.SkipDir
			}
			return nil
		})
	}
	return units
}

// programsIn returns the names of the processes that have sockets open, by the sockets' inode numbers, as far as we may look.
func programsIn(proc string) map[uint32]string {
	programs := map[uint32]string{}
	dirs, _ := filepath.Glob(filepath.Join(proc, "[0-9]*"))
	for _, dir := range dirs {
		fds, err := os.ReadDir(filepath.Join(dir, "fd"))
		if err != nil {
			continue
		}
		for _, fd := range fds {
			link, err := os.Readlink(filepath.Join(dir, "fd", fd.Name()))
			number, ok := strings.CutPrefix(link, "socket:[")
			if err != nil || !ok {
				continue
			}
			inode, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 32)
			if err != nil || programs[uint32(inode)] != "" && programs[uint32(inode)] != "systemd" {
				continue // socket activation: the service is more useful than systemd
			}
			lines(filepath.Join(dir, "comm"), func(name string) { programs[uint32(inode)] = name })
		}
	}
	return programs
}

// ssh reports whether the listener is the system's SSH server. A program of that name proves nothing if a user started it.
func (l Listener) ssh() bool {
	if l.Protocol != "tcp" || l.UID != 0 {
		return false
	}
	switch l.Unit {
	case "ssh.service", "sshd.service", "ssh.socket", "sshd.socket":
		return true
	}
	return l.Program == "sshd"
}

// SSHPorts returns the TCP ports on which the system's SSH server can be reached, in order: those on which it listens, else those
// of its configuration, else 22.
func SSHPorts() []uint16 {
	listeners, _ := Listeners() // without them, the configuration is used
	return SSHPortsAmong(listeners)
}

// SSHPortsAmong is SSHPorts for a caller who has the listeners.
func SSHPortsAmong(listeners []Listener) []uint16 {
	var ports []uint16
	for _, l := range listeners {
		if l.ssh() && !l.Local() {
			ports = append(ports, l.Port)
		}
	}
	if len(ports) == 0 {
		// systemd listens for sshd, or the kernel does not report the owner of a socket.
		ports = configuredSSH("/etc/ssh/sshd_config", "/etc/ssh/sshd_config.d/*.conf")
	}
	if len(ports) == 0 {
		return []uint16{22}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// configuredSSH returns the ports of Port lines in files in the form of sshd_config(5).
func configuredSSH(globs ...string) (ports []uint16) {
	for _, glob := range globs {
		paths, _ := filepath.Glob(glob)
		for _, path := range paths {
			lines(path, func(line string) {
				f := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' || r == '=' })
				if len(f) < 2 || !strings.EqualFold(f[0], "port") {
					return
				}
				if n, err := strconv.ParseUint(f[1], 10, 16); err == nil && n > 0 {
					ports = append(ports, uint16(n))
				}
			})
		}
	}
	return ports
}
