package ipset

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"mef/internal/run"
)

// lockWait is how many seconds iptables waits for another program that holds the lock of xtables; progTime is how long it may take in all.
const (
	lockWait = "5"
	progTime = 20 * time.Second
	maxSaved = 16 << 20 // bytes
)

// An xtables is a form of iptables: its programs write rules by one of two interfaces of the kernel.
type xtables struct {
	netns  int    // file descriptor; 0: the caller's
	name   string // of the programs: "iptables", "iptables-nft" or "iptables-legacy"
	nft    bool   // it writes nftables
	v6     bool   // ip6tables works
	lacks6 string // why not
}

// forms are the names of iptables, the system's choice first.
func forms() []string { return []string{"iptables", "iptables-nft", "iptables-legacy"} }

// findXtables returns the first form of iptables that works here, or why none does.
func findXtables(netns int, forms []string) (*xtables, error) {
	var errs []error
	for _, name := range forms {
		x := &xtables{netns: netns, name: name}
		if err := x.try(); err != nil {
			if name == forms[0] || !errors.Is(err, run.ErrNotFound) {
				errs = append(errs, err)
			}
			continue
		}
		return x, nil
	}
	err := fmt.Errorf("iptables cannot be used: %w", errors.Join(errs...))
	if strings.Contains(err.Error(), "ermission denied") || strings.Contains(err.Error(), "not permitted") {
		err = fmt.Errorf("%w (%w: it needs CAP_NET_ADMIN, and legacy iptables CAP_NET_RAW and /run/xtables.lock beside: see legacy-iptables.conf)", err, fs.ErrPermission)
	}
	return nil, err
}

// try reads the tables.
func (x *xtables) try() error {
	version, err := x.run("", x.name, "--version")
	if err != nil {
		return err
	}
	x.nft = strings.Contains(version, "nf_tables")
	for _, v6 := range []bool{false, true} {
		for _, table := range []string{"raw", "mangle"} {
			_, err := x.run("", x.program(v6), "-w", lockWait, "-t", table, "-S", "OUTPUT")
			switch {
			case err != nil && !v6:
				return err
			case err != nil:
				x.lacks6 = err.Error()
			}
		}
	}
	x.v6 = x.lacks6 == ""
	return nil
}

// families returns the families that work.
func (x *xtables) families() []bool {
	if x.v6 {
		return []bool{false, true}
	}
	return []bool{false}
}

// program returns the name of the program of a family, with an ending such as "-save".
func (x *xtables) program(v6 bool, ending ...string) string {
	name := x.name
	if v6 {
		name = strings.Replace(name, "iptables", "ip6tables", 1)
	}
	return name + strings.Join(ending, "")
}

// save returns what of ours is in the tables of a family.
func (x *xtables) save(v6 bool) (map[string]*foundTable, error) {
	text, err := x.run("", x.program(v6, "-save"))
	if err != nil {
		return nil, fmt.Errorf("read rules: %w", err)
	}
	return parseSave(text), nil
}

// restore changes rules.
func (x *xtables) restore(v6 bool, text string) error {
	if _, err := x.run(text, x.program(v6, "-restore"), "--wait="+lockWait, "--noflush"); err != nil {
		return fmt.Errorf("write rules: %w", err)
	}
	return nil
}

func (x *xtables) run(stdin, program string, args ...string) (out string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), progTime)
	defer cancel()
	insideErr := inside(x.netns, func() {
		var b []byte
		b, err = run.Feed(ctx, []byte(stdin), maxSaved, program, args...)
		out = string(b)
	})
	return out, errors.Join(insideErr, err)
}

// inside runs fn in a network namespace: what it starts and opens belongs there.
func inside(netns int, fn func()) error {
	if netns == 0 {
		fn()
		return nil
	}
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open own network namespace: %w", err)
	}
	defer home.Close()
	if err := unix.Setns(netns, unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace: %w", err)
	}
	fn()
	if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("return to own network namespace: %w", err) // the thread stays locked, and ends with its goroutine
	}
	runtime.UnlockOSThread()
	return nil
}

// seen returns a text that changes when rules may have changed, at little cost.
func (x *xtables) seen(c *conn) (string, error) {
	if x.nft {
		generation, err := c.Generation()
		return fmt.Sprint("generation ", generation), err
	}
	var all strings.Builder
	var err error
	insideErr := inside(x.netns, func() {
		for _, v6 := range x.families() {
			for _, table := range []string{"raw", "mangle"} {
				info, infoErr := tableInfo(v6, table)
				all.Write(info)
				err = errors.Join(err, infoErr)
			}
		}
	})
	return all.String(), errors.Join(insideErr, err)
}

// tableInfo returns the struct ipt_getinfo of a table of legacy iptables: where its chains begin, how many rules it has and how large
// they are.
func tableInfo(v6 bool, table string) ([]byte, error) {
	const getInfo, size = 64, 84 // IPT_SO_GET_INFO, and IP6T_SO_GET_INFO
	family, level := unix.AF_INET, unix.IPPROTO_IP
	if v6 {
		family, level = unix.AF_INET6, unix.IPPROTO_IPV6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	info := make([]byte, size)
	copy(info, table)
	length := binary.NativeEndian.AppendUint32(nil, size)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), getInfo,
		uintptr(unsafe.Pointer(&info[0])), uintptr(unsafe.Pointer(&length[0])), 0)
	if errno != 0 {
		return nil, os.NewSyscallError("getsockopt", errno)
	}
	return info, nil
}
