//go:build linux

// Package docker reads what dockerd keeps of its containers on disk: their names, images, logs, ports and networks. It needs no socket.
package docker

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Container is one of Docker's containers, as dockerd describes it in config.v2.json and hostconfig.json (daemon/container/container.go of
// moby). Only root can write these files and the log.
type Container struct {
	Name  string // "vaultwarden"
	Image string // as it was given to docker run: "ghcr.io/dani-garcia/vaultwarden:1.34"

	// Log is the file of its output; "" if there is none yet, or if Driver is not json-file.
	Log    string
	Driver string // of logs: "json-file", "journald", "local"

	Ports    []Port         // of this host that others reach it at, sorted; none if it does not run
	Networks []netip.Prefix // of Docker that it is connected to; all that it may be in as long as that is not known
	Gateways []netip.Prefix // of these networks, each with the length of the network; none as long as they are not known
}

// A Port is a port of this host.
type Port struct {
	Protocol string // "tcp" or "udp"
	Number   uint16
}

const (
	maxContainers = 1000    // that are looked at
	maxContainer  = 1 << 20 // bytes of one file of a container
)

// dockerRoots are where Docker keeps its data: the place of packages, and that of the snap.
var dockerRoots = []string{"/var/lib/docker", "/var/snap/docker/common/var-lib-docker"}

// dockerConfig may name another place (dockerd(8)).
const dockerConfig = "/etc/docker/daemon.json"

// Containers returns Docker's containers, running or not, by name; none if Docker is not on this host. roots are where Docker keeps its data, if
// not at the usual places. The error wraps fs.ErrPermission if the caller is not allowed to look.
func Containers(roots ...string) ([]Container, error) {
	if len(roots) == 0 {
		roots = dockerDirs(dockerConfig)
	}
	return containersIn(roots)
}

// State returns a text that changes when Containers may have changed.
func State() string { return stateOf(dockerDirs(dockerConfig)) }

// dockerDirs returns where Docker keeps its data.
func dockerDirs(config string) []string {
	var named struct {
		Root string `json:"data-root"`
	}
	if text, err := readUpTo(config, maxContainer); err != nil || json.Unmarshal(text, &named) != nil || !filepath.IsAbs(named.Root) {
		return dockerRoots
	}
	return slices.Compact(append([]string{filepath.Clean(named.Root)}, dockerRoots...))
}

func containersIn(roots []string) (all []Container, err error) {
	for _, root := range roots {
		dirs, failed := containerDirs(root)
		err = cmp.Or(err, failed)
		for _, dir := range dirs {
			c, failed := readContainer(dir)
			switch {
			case errors.Is(failed, fs.ErrPermission):
				err = cmp.Or(err, failed)
			case failed == nil && len(all) < maxContainers: // others are being made, or removed
				all = append(all, c)
			}
		}
	}
	sort.Slice(all, func(i, j int) bool {
		return cmp.Or(strings.Compare(all[i].Name, all[j].Name), strings.Compare(all[i].Log, all[j].Log)) < 0
	})
	return all, err
}

func stateOf(roots []string) string {
	var b strings.Builder
	for _, root := range roots {
		dirs, err := containerDirs(root)
		if err != nil {
			b.WriteString(err.Error())
		}
		for _, dir := range dirs {
			fmt.Fprint(&b, filepath.Base(dir))
			for _, name := range []string{"config.v2.json", "hostconfig.json"} {
				if info, err := os.Lstat(filepath.Join(dir, name)); err == nil {
					fmt.Fprint(&b, " ", info.ModTime().UnixNano(), info.Size())
				}
			}
			_, err := os.Lstat(logOf(dir))
			fmt.Fprintln(&b, err == nil)
		}
	}
	return b.String()
}

// containerDirs returns the directories of containers below a root of Docker.
func containerDirs(root string) (dirs []string, err error) {
	dir := filepath.Join(root, "containers")
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if errors.Is(err, fs.ErrPermission) {
			return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
		}
		return nil, nil
	}
	if st.Uid != 0 && st.Uid != uint32(os.Geteuid()) || st.Mode&0o002 != 0 {
		return nil, nil // somebody else could write what the containers log
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(4 * maxContainers)
	if err != nil && err != io.EOF {
		return nil, err
	}
	slices.Sort(names)
	for _, name := range names {
		if len(name) == 64 && strings.Trim(name, "0123456789abcdef") == "" {
			dirs = append(dirs, filepath.Join(dir, name))
		}
	}
	return dirs, nil
}

// logOf returns the file in which the driver json-file writes the output of the container of a directory.
func logOf(dir string) string { return filepath.Join(dir, filepath.Base(dir)+"-json.log") }

// A binding is a port of this host.
type binding struct{ HostIp, HostPort string }

// readContainer reads the description of a container.
func readContainer(dir string) (c Container, err error) {
	var config struct {
		Name            string
		State           struct{ Running bool }
		Config          struct{ Image string }
		NetworkSettings struct {
			Networks map[string]*struct {
				Gateway, IPAddress             string
				IPPrefixLen                    int
				IPv6Gateway, GlobalIPv6Address string
				GlobalIPv6PrefixLen            int
			}
			Ports map[string][]binding
		}
	}
	var hostConfig struct {
		LogConfig    struct{ Type string }
		PortBindings map[string][]binding
	}
	for name, into := range map[string]any{"config.v2.json": &config, "hostconfig.json": &hostConfig} {
		text, err := readUpTo(filepath.Join(dir, name), maxContainer)
		if err == nil {
			err = json.Unmarshal(text, into)
		}
		if err != nil {
			return c, err
		}
	}
	c = Container{Name: strings.TrimPrefix(config.Name, "/"), Image: config.Config.Image, Driver: hostConfig.LogConfig.Type}
	if c.Name == "" {
		return c, fs.ErrNotExist
	}
	if _, err := os.Lstat(logOf(dir)); err == nil && c.Driver == "json-file" {
		c.Log = logOf(dir)
	}
	for _, n := range config.NetworkSettings.Networks {
		if n != nil {
			c.join(n.Gateway, n.IPAddress, n.IPPrefixLen)
			c.join(n.IPv6Gateway, n.GlobalIPv6Address, n.GlobalIPv6PrefixLen)
		}
	}
	if _, host := config.NetworkSettings.Networks["host"]; len(c.Networks) == 0 && !host {
		// It does not run at the moment, or it is in the network of another container.
		for _, p := range []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"} {
			c.Networks = append(c.Networks, netip.MustParsePrefix(p))
		}
	}
	sortPrefixes(c.Networks)
	sortPrefixes(c.Gateways)
	if !config.State.Running {
		return c, nil
	}
	// The former has the ports that Docker chose itself, but may be saved later than the state.
	for _, ports := range []map[string][]binding{config.NetworkSettings.Ports, hostConfig.PortBindings} {
		for port, list := range ports {
			_, protocol, _ := strings.Cut(port, "/")
			for _, b := range list {
				c.publish(protocol, b)
			}
		}
	}
	sort.Slice(c.Ports, func(i, j int) bool {
		a, b := c.Ports[i], c.Ports[j]
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Number, b.Number)) < 0
	})
	c.Ports = slices.Compact(c.Ports)
	return c, nil
}

func sortPrefixes(all []netip.Prefix) {
	sort.Slice(all, func(i, j int) bool { return all[i].Compare(all[j]) < 0 })
}

// join adds a network, of which the gateway or the container's own address is known.
func (c *Container) join(gateway, own string, bits int) {
	a, err := netip.ParseAddr(cmp.Or(gateway, own))
	if err != nil {
		return
	}
	a = a.Unmap().WithZone("")
	if p, err := a.Prefix(bits); err == nil && bits > 0 {
		c.Networks = append(c.Networks, p)
		if gateway != "" {
			c.Gateways = append(c.Gateways, netip.PrefixFrom(a, bits))
		}
	}
}

// publish adds a port that others can reach.
func (c *Container) publish(protocol string, b binding) {
	if protocol != "tcp" && protocol != "udp" {
		return
	}
	if a, err := netip.ParseAddr(b.HostIp); err == nil && a.IsLoopback() {
		return
	}
	if port, err := strconv.ParseUint(b.HostPort, 10, 16); err == nil && port > 0 {
		c.Ports = append(c.Ports, Port{protocol, uint16(port)})
	}
}

// readUpTo reads a regular file of at most limit bytes.
func readUpTo(path string, limit int64) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() > limit {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errors.New("not a regular file, or too large")}
	}
	return io.ReadAll(io.LimitReader(f, limit))
}
