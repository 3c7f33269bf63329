//go:build integration

package selftest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"mef/internal/conf"
	"mef/internal/enforce"
	"mef/internal/enforce/kernel"
	"mef/internal/netnstest"
	"mef/internal/prefixset"
	"mef/internal/selftest"
)

// spawnArg makes the test binary do what a daemon does.
const spawnArg = "spawn-a-selftest"

func TestMain(m *testing.M) {
	if handled, exit := selftest.Child(os.Args[1:], kernel.Open); handled {
		os.Exit(exit)
	}
	if len(os.Args) == 2 && os.Args[1] == spawnArg {
		os.Exit(spawn())
	}
	netnstest.Main(m)
}

func spawn() int {
	r, err := selftest.Spawn(context.Background(), conf.Automatic)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	json.NewEncoder(os.Stdout).Encode(r)
	return 0
}

// want are the steps of every test, in order.
func want() []string {
	return []string{
		"IPv4 ban", "IPv4 ban of one port", "IPv4 unverified ban",
		"IPv6 ban", "IPv6 ban of one port", "IPv6 unverified ban", "table",
	}
}

func passed(t *testing.T, r selftest.Result) {
	t.Helper()
	if r.Impossible != "" {
		netnstest.Missing(t, r.Impossible)
	}
	var names []string
	for _, s := range r.Steps {
		names = append(names, s.Name)
		t.Logf("%v %s: %s", s.OK, s.Name, s.Detail)
	}
	t.Logf("took %v", r.Took)
	if !r.OK || r.Failed() || r.Problem() != "" || !slices.Equal(names, want()) || r.Took <= 0 {
		t.Errorf("result %+v, want success of %q", r, want())
	}
}

func TestSpawn(t *testing.T) {
	for _, backend := range []conf.Backend{conf.Automatic, conf.IPTables} {
		t.Run(backend.String(), func(t *testing.T) {
			netnstest.Need(t)
			before := surroundings(t)
			r, err := selftest.Spawn(t.Context(), backend)
			if err != nil {
				t.Fatal(err)
			}
			passed(t, r)
			if after := surroundings(t); after != before {
				t.Errorf("afterwards:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
}

// surroundings lists what a test could leave behind: interfaces, named namespaces, rules, child processes.
func surroundings(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		fmt.Fprintln(&b, "interface", l.Attrs().Name)
	}
	named, _ := filepath.Glob("/run/netns/*")
	fmt.Fprintln(&b, "namespaces", named)
	rules, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
	if err != nil {
		netnstest.Missing(t, fmt.Sprintf("nft: %v: %s", err, rules))
	}
	fmt.Fprintf(&b, "rules %s\n", rules)
	children, _ := filepath.Glob("/proc/self/task/*/children")
	for _, c := range children {
		pids, _ := os.ReadFile(c)
		fmt.Fprintf(&b, "%s", pids)
	}
	return b.String()
}

// The daemon runs without root, and with a packet filter that is in use.
func TestSpawnBesideALiveTable(t *testing.T) {
	netnstest.Need(t)
	host := netnstest.New(t)
	host.Run(t, "", "nft", "add table inet mefdaemon; add chain inet mefdaemon mine; add table ip other")
	before := host.Run(t, "", "nft", "list ruleset")
	host.Do(func() {
		r, err := selftest.Spawn(t.Context(), conf.Automatic)
		if err != nil {
			t.Fatal(err)
		}
		passed(t, r)
	})
	if after := host.Run(t, "", "nft", "list ruleset"); after != before {
		t.Errorf("rules afterwards:\n%s\nbefore:\n%s", after, before)
	}
}

func TestSpawnWithoutPrivilege(t *testing.T) {
	netnstest.Need(t)
	if os.Geteuid() != 0 {
		netnstest.Missing(t, "root, to become nobody")
	}
	const nobody = 65534
	cmd := exec.Command("/proc/self/exe", spawnArg)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		if strings.Contains(err.Error(), "operation not permitted") || strings.Contains(err.Error(), "invalid argument") {
			netnstest.Missing(t, "real root, to become nobody")
		}
		t.Fatalf("%v: %s", err, errOut.String())
	}
	var r selftest.Result
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatal(err)
	}
	passed(t, r)
}

// A machine that allows no namespaces, or too few, is not a failure, and reports it. A user namespace with limits of its own is as
// restricted as a hardened host.
func TestSpawnWhereNamespacesAreForbidden(t *testing.T) {
	netnstest.Need(t)
	for limit, reason := range map[string]string{
		"0": "network namespaces are not available",
		"1": "new network namespace: ", // the child's own is there, and no further one
		"2": "new network namespace: ",
	} {
		t.Run(limit, func(t *testing.T) {
			cmd := exec.Command("/bin/sh", "-c", `echo "$1" >/proc/sys/user/max_net_namespaces &&
				echo 0 >/proc/sys/user/max_user_namespaces && exec "$0" `+spawnArg, exe(t), limit)
			cmd.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags:  syscall.CLONE_NEWUSER,
				UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
				GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
			}
			out, err := cmd.CombinedOutput()
			if err != nil {
				netnstest.Missing(t, fmt.Sprintf("a user namespace with limits of its own: %v: %s", err, out))
			}
			var r selftest.Result
			if err := json.Unmarshal(out, &r); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if r.OK || r.Failed() || !strings.HasPrefix(r.Problem(), "not possible on this host: "+reason) {
				t.Errorf("result %+v, want \"not possible on this host: %s\"", r, reason)
			}
		})
	}
}

func exe(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// A broken backend does everything but one thing.
type broken struct {
	enforce.Backend
	apply func(context.Context, enforce.Changes) enforce.Changes // what is really done
	after func(context.Context)                                  // what happens next
}

func (b *broken) Apply(ctx context.Context, c enforce.Changes) ([]enforce.Failure, error) {
	if b.apply != nil {
		c = b.apply(ctx, c)
	}
	if len(c.Bans) == 0 && len(c.Grace) == 0 && c.Allow == nil {
		return nil, nil
	}
	failed, err := b.Backend.Apply(ctx, c)
	if b.after != nil {
		b.after(ctx)
	}
	return failed, err
}

func bansOnly(c enforce.Changes, keep func(enforce.Change) bool) enforce.Changes {
	c.Bans = slices.DeleteFunc(slices.Clone(c.Bans), func(change enforce.Change) bool { return !keep(change) })
	return c
}

func TestABrokenBackendIsNoticed(t *testing.T) {
	netnstest.Need(t)
	v4 := func(c enforce.Change) bool { return c.Key.Prefix.Addr().Is4() }
	for name, tt := range map[string]struct {
		sabotage func(b *broken)
		failed   []string // steps
		said     string
	}{
		"bans are not written": {
			sabotage: func(b *broken) {
				b.apply = func(_ context.Context, c enforce.Changes) enforce.Changes {
					return bansOnly(c, func(enforce.Change) bool { return false })
				}
			},
			failed: want()[:6],
			said:   "while 192.0.2.7 was banned: tcp from 192.0.2.7 to port 22 of 192.0.2.1 got through",
		},
		"IPv6 is forgotten": {
			sabotage: func(b *broken) {
				b.apply = func(_ context.Context, c enforce.Changes) enforce.Changes { return bansOnly(c, v4) }
			},
			failed: want()[3:6],
			said:   "while 2001:db8:1:7::/64 was banned: tcp from 2001:db8:1:7::7 to port 22 of 2001:db8:1::1 got through",
		},
		"ports are forgotten": {
			sabotage: func(b *broken) {
				b.apply = func(_ context.Context, c enforce.Changes) enforce.Changes {
					c.Bans = slices.Clone(c.Bans)
					for i := range c.Bans {
						c.Bans[i].Key.Ports = ""
					}
					return c
				}
			},
			failed: []string{"IPv4 ban of one port", "IPv6 ban of one port"},
			said:   "the kernel does not list the ban",
		},
		"bans cannot be lifted": {
			sabotage: func(b *broken) {
				b.apply = func(_ context.Context, c enforce.Changes) enforce.Changes {
					return bansOnly(c, func(change enforce.Change) bool { return !change.Remove })
				}
			},
			failed: want(),
			said:   "lift the ban of 192.0.2.7: ",
		},
		"everybody is allowed": {
			sabotage: func(b *broken) {
				all := prefixset.New(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0"))
				b.apply = func(_ context.Context, c enforce.Changes) enforce.Changes {
					c.Allow = &all
					return c
				}
			},
			failed: want()[:6],
			said:   "got through",
		},
		"the table is deleted after every change": {
			sabotage: func(b *broken) {
				b.after = func(ctx context.Context) {
					b.Backend.Rebuild(ctx, enforce.Changes{}) // an empty table: nobody is banned
				}
			},
			failed: want()[:6],
			said:   "got through",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := selftest.Test(t.Context(), kernel.Open, conf.Automatic, func(b enforce.Backend) enforce.Backend {
				broken := &broken{Backend: b}
				tt.sabotage(broken)
				return broken
			})
			if r.Impossible != "" {
				netnstest.Missing(t, r.Impossible)
			}
			var failed []string
			for _, s := range r.Steps {
				if !s.OK {
					failed = append(failed, s.Name)
				}
			}
			if r.OK || !r.Failed() || !slices.Equal(failed, tt.failed) || !strings.Contains(r.Problem(), tt.said) {
				t.Errorf("result %+v\nwant failures of %q with %q", r, tt.failed, tt.said)
			}
			if r.Took > 30*time.Second {
				t.Errorf("took %v", r.Took)
			}
		})
	}
}
