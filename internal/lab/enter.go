//go:build linux

package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// insideEnv marks the second run of a program, the one inside the world.
const insideEnv = "MEF_LAB"

// Inside reports whether this process runs inside a world that Enter made.
func Inside() bool { return os.Getenv(insideEnv) != "" }

// Enter runs this program again, with the same arguments, as the first process of a new world, and returns its exit status
// once that world is gone. The inner program handles interrupts. An error means that the world could not be made, and names what
// is missing.
func Enter() (code int, err error) {
	if os.Geteuid() != 0 {
		return 0, errors.New("needs root: real daemons change users and log as root")
	}
	group, err := newGroup()
	if err != nil {
		return 0, err
	}
	defer group.remove()
	dir, err := os.Open(group.path)
	if err != nil {
		return 0, err
	}
	defer dir.Close()

	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(interrupts)

	runtime.LockOSThread() // Pdeathsig follows the thread that started the child, not the process
	defer runtime.UnlockOSThread()
	child, err := os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{
		Env:   append(os.Environ(), insideEnv+"=1"),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys: &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
			// Unshared once the child is in its group, so that this group is the root of the child's view.
			Unshareflags: unix.CLONE_NEWCGROUP,
			UseCgroupFD:  true,
			CgroupFD:     int(dir.Fd()),
			Pdeathsig:    syscall.SIGKILL,
		},
	})
	if err != nil {
		return 0, fmt.Errorf("start in fresh namespaces (needs CAP_SYS_ADMIN): %w", err)
	}
	go func() {
		// A terminal sends Ctrl-C to both processes; a SIGTERM reaches this one alone and must be passed on.
		for sig := range interrupts {
			if sig == syscall.SIGTERM {
				child.Signal(sig)
			}
		}
	}()
	state, err := child.Wait()
	if err != nil {
		return 0, err
	}
	return state.ExitCode(), nil
}

// A group is a control group below our own. It is all that a world adds to the host, and is removed with the world.
type group struct{ path string }

// groupPrefix begins the name of a group; the ID of the process that made it follows.
const groupPrefix = "mef-lab-"

// newGroup makes a group, and removes groups of worlds whose process was killed before it could remove them.
func newGroup() (group, error) {
	mount, err := cgroupMount()
	if err != nil {
		return group{}, err
	}
	own, err := cgroupOf("self")
	if err != nil {
		return group{}, err
	}
	parent := filepath.Join(mount, own)
	if _, err := os.Stat(parent); err != nil {
		parent = mount // a container whose own group is not in its view
	}
	removeStale(parent)
	path := filepath.Join(parent, groupPrefix+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return group{}, fmt.Errorf("make a control group (needs a writable cgroup v2): %w", err)
	}
	return group{path}, nil
}

// removePatience is how long remove waits until the kernel has released the processes of a group. That takes milliseconds.
const removePatience = 30 * time.Second

func (g group) remove() {
	for end := time.Now().Add(removePatience); !g.tryRemove() && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
}

// tryRemove removes the group and the groups inside it, innermost first, and reports whether it is gone. The kernel removes no
// group that has processes.
func (g group) tryRemove() bool {
	var dirs []string
	filepath.WalkDir(g.path, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	for _, dir := range slices.Backward(dirs) {
		unix.Rmdir(dir)
	}
	_, err := os.Stat(g.path)
	return errors.Is(err, fs.ErrNotExist)
}

func removeStale(parent string) {
	groups, err := filepath.Glob(filepath.Join(parent, groupPrefix+"*"))
	if err != nil {
		return
	}
	for _, path := range groups {
		pid := strings.TrimPrefix(filepath.Base(path), groupPrefix)
		if _, err := os.Stat("/proc/" + pid); errors.Is(err, fs.ErrNotExist) {
			group{path}.tryRemove()
		}
	}
}

// cgroupMount finds where the unified hierarchy is mounted: the fifth field of its line in mountinfo (proc_pid_mountinfo(5)).
func cgroupMount() (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields, fstype, found := strings.Cut(lines.Text(), " - ")
		if words := strings.Fields(fields); found && strings.HasPrefix(fstype, "cgroup2 ") && len(words) > 4 {
			return words[4], nil
		}
	}
	return "", errors.New("no cgroup v2 file system is mounted; mount one on /sys/fs/cgroup")
}

// cgroupOf returns a process's group in the unified hierarchy, whose ID is 0 (cgroups(7)).
func cgroupOf(pid string) (string, error) {
	data, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(data)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return path, nil
		}
	}
	return "", errors.New("this process is in no cgroup v2 group")
}
