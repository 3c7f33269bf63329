package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// cache is where the packages of Debian are unpacked. The number changes with the list of packages.
const cache = "/var/cache/mef-accept/bookworm-1"

// packages are the packages of a small server, and those that the tests need.
const packages = "systemd,systemd-sysv,dbus,libpam-systemd,openssh-server,nftables,rsyslog,logrotate,man-db,iproute2"

// unpackDebian fills the cache if it is empty. It takes a few minutes. Nothing else needs a network.
func unpackDebian(ctx context.Context) error {
	if _, err := os.Stat(cache); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	fmt.Println("unpacking Debian 12 into", cache, "(once)")
	part := cache + ".part"
	if err := os.RemoveAll(part); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(cache), 0o755); err != nil {
		return err
	}
	args := append([]string{"--variant=minbase", "--include=" + packages, "bookworm", part}, mirror(ctx)...)
	if _, err := output(exec.CommandContext(ctx, "debootstrap", args...)); err != nil {
		return err
	}
	return os.Rename(part, cache)
}

// mirror returns the mirror of Debian 12 that this machine uses, if it uses one; otherwise debootstrap's default.
func mirror(ctx context.Context) []string {
	said, err := output(exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI)", "Codename: bookworm", "Created-By: Packages",
		"Component: main"))
	if uris := strings.Fields(said); err == nil && len(uris) > 0 {
		return uris[:1]
	}
	return nil
}

// output runs a program and returns its output. If the program fails, the error has the end of the output.
func output(cmd *exec.Cmd) (string, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		said := out.String()
		return said, fmt.Errorf("%s: %w\n%s", filepath.Base(cmd.Path), err, said[max(0, len(said)-4000):])
	}
	return out.String(), nil
}

// Paths in the private /run, whose files vanish with this process.
const (
	runDir  = "/run/accept"
	root    = runDir + "/root"
	console = runDir + "/console"
)

// A machine is a Debian 12 with a network cable to this process.
type machine struct {
	nspawn *exec.Cmd
	ended  chan error   // of nspawn
	leader int          // the machine's first process, by its ID here
	halted atomic.Int64 // the first process of a machine that is shutting down; otherwise 0
}

// newMachine mounts the machine's disk, an overlay of the packages and a tmpfs, and turns this namespace into the internet.
func newMachine(ctx context.Context) (*machine, error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make mounts private: %w", err)
	}
	if err := mount("tmpfs", "/run", "mode=755"); err != nil {
		return nil, err
	}
	for _, dir := range []string{root, runDir + "/upper", runDir + "/work"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	for _, m := range [][3]string{
		{"proc", "/proc", ""},
		{"cgroup2", "/sys/fs/cgroup", ""},
		{"overlay", root, "lowerdir=" + cache + ",upperdir=" + runDir + "/upper,workdir=" + runDir + "/work"},
	} {
		if err := mount(m[0], m[1], m[2]); err != nil {
			return nil, err
		}
	}
	// Duplicate address detection would delay the use of our end of the cable by a second or two.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0); err != nil {
		return nil, err
	}
	for _, addr := range []string{attacker4, attacker6, user4, user6} {
		if err := ip(ctx, "address", "add", addr, "dev", "lo"); err != nil {
			return nil, err
		}
	}
	if err := ip(ctx, "link", "set", "lo", "up"); err != nil {
		return nil, err
	}
	return new(machine), configure()
}

func mount(fstype, at, options string) error {
	if err := unix.Mount(fstype, at, fstype, 0, options); err != nil {
		return fmt.Errorf("mount %s on %s: %w", fstype, at, err)
	}
	return nil
}

func ip(ctx context.Context, args ...string) error {
	_, err := output(exec.CommandContext(ctx, "ip", args...))
	return err
}

// configure writes the configuration that a hosting provider writes: a host name and a network.
func configure() error {
	for path, text := range map[string]string{
		"/etc/hostname": "server\n",
		"/etc/systemd/network/10-host0.network": `[Match]
Name=host0
[Network]
Address=192.0.2.1/24
Address=2001:db8:1::1/64
Gateway=192.0.2.254
Gateway=2001:db8:1::ff
DHCP=no
IPv6AcceptRA=no
IPv6DuplicateAddressDetection=0
`,
		// As with cloud-init, the rest of the system waits for a service that waits for the network.
		"/etc/systemd/system/cloud.service": `[Unit]
DefaultDependencies=no
After=systemd-networkd.service
Before=sysinit.target
[Service]
Type=oneshot
ExecStart=/bin/true
RemainAfterExit=yes
`,
	} {
		if err := os.WriteFile(root+path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	for unit, target := range map[string]string{
		"/lib/systemd/system/systemd-networkd.service": "multi-user",
		"/etc/systemd/system/cloud.service":            "sysinit",
	} {
		wants := root + "/etc/systemd/system/" + target + ".target.wants"
		if err := os.MkdirAll(wants, 0o755); err != nil {
			return err
		}
		if err := os.Symlink(unit, filepath.Join(wants, filepath.Base(unit))); err != nil {
			return err
		}
	}
	return nil
}

// cable is this process's end of the network cable, which nspawn names after the machine.
const cable = "ve-server"

// boot starts the machine and returns once every unit is started and the machine can be reached.
func (m *machine) boot(ctx context.Context) error {
	out, err := os.OpenFile(console, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	m.nspawn = exec.Command("systemd-nspawn", "--directory="+root, "--machine=server", "--boot", "--network-veth",
		"--register=no", "--keep-unit", // there may be no systemd outside
		"--console=pipe", "--link-journal=no", "--resolv-conf=off", "--timezone=off", "--settings=no")
	m.nspawn.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1"}
	m.nspawn.Stdout, m.nspawn.Stderr = out, out
	m.halted.Store(0)
	if err := m.nspawn.Start(); err != nil {
		return err
	}
	m.ended = make(chan error, 1)
	go func() { m.ended <- m.nspawn.Wait() }()
	if err := m.plug(ctx); err != nil {
		return err
	}
	err = m.eventually(ctx, "the machine is up", func() error {
		state, err := m.sh(ctx, "systemctl is-system-running || systemctl --no-legend --failed")
		if strings.TrimSpace(state) == "running" {
			return nil
		}
		return errors.Join(fmt.Errorf("it is %q", state), err)
	})
	if err != nil {
		return err
	}
	return m.eventually(ctx, "the machine is reached", func() error { return each(ctx, reaches, user4, user6) })
}

// plug configures this process's end of the cable, and finds the machine's first process.
func (m *machine) plug(ctx context.Context) error {
	err := m.eventually(ctx, "there is a cable", func() error { return ip(ctx, "link", "set", cable, "up") })
	if err != nil {
		return err
	}
	for _, addr := range []string{"192.0.2.254/24", "2001:db8:1::ff/64"} {
		if err := ip(ctx, "address", "add", addr, "dev", cable, "nodad"); err != nil {
			return err
		}
	}
	return m.eventually(ctx, "systemd runs", func() (err error) {
		pid := strconv.Itoa(m.nspawn.Process.Pid)
		children, err := os.ReadFile("/proc/" + pid + "/task/" + pid + "/children")
		if err != nil {
			return err
		}
		if m.leader, err = strconv.Atoi(strings.TrimSpace(string(children))); err != nil {
			return fmt.Errorf("children of nspawn: %w", err)
		}
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", m.leader))
		if string(comm) != "systemd\n" {
			return fmt.Errorf("first process: %q, %w", comm, err)
		}
		return nil
	})
}

// over reports whether the machine has halted: its first process has left its namespaces. The kernel then removes its network, rules
// first, and may still answer a packet, which cannot happen on a machine of its own.
func (m *machine) over() bool {
	pid := m.halted.Load()
	_, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	return pid != 0 && err != nil
}

// halt shuts the machine down. Its network and the table in it are gone; its disk is kept.
func (m *machine) halt(ctx context.Context) error {
	m.halted.Store(int64(m.leader))
	if _, err := m.sh(ctx, "systemctl --no-block poweroff"); err != nil {
		return err
	}
	select {
	case err := <-m.ended:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// unplug takes the machine's power away. Its disk has what was written.
func (m *machine) unplug(ctx context.Context) error {
	if err := unix.Kill(m.leader, unix.SIGKILL); err != nil {
		return err
	}
	select {
	case <-m.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sh runs a shell script as root in the machine, as over ssh, and returns its output.
func (m *machine) sh(ctx context.Context, script string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter", "--target="+strconv.Itoa(m.leader), "--all", "--wdns=/root", "/bin/sh", "-c", script)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/root"}
	said, err := output(cmd)
	if err != nil {
		err = fmt.Errorf("%s: %w", script, err)
	}
	return said, err
}

// patience is how long each step may take.
const patience = 90 * time.Second

// eventually calls try until it returns no error.
func (m *machine) eventually(ctx context.Context, what string, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case end := <-m.ended:
			return fmt.Errorf("%s: %w; nspawn ended: %v", what, err, end)
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}
