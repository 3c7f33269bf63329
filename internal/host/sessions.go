//go:build linux

package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"mef/internal/inotify"
)

// logindSessions is where systemd-logind keeps a file for each session. Only root writes there, and what stands in it comes from
// PAM, not from the user.
const logindSessions = "/run/systemd/sessions"

// maxSessions is how many session files are read. A host with more has other worries than its administrator's typing.
const maxSessions = 4096

// A Session is a live login over SSH.
type Session struct {
	ID   string
	User string
	UID  uint32
	Peer netip.Addr // of the client: never IPv4-mapped, without zone
}

// Sessions returns the live SSH sessions that logind knows, none where there is no logind. Sessions whose client is known by name
// only (UseDNS yes) are left out: the owner of the address chooses its name.
func Sessions() []Session { return sessionsIn(logindSessions) }

func sessionsIn(dir string) (found []Session) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, entry := range entries[:min(len(entries), maxSessions)] {
		// Beside each file there is a FIFO, NAME.ref.
		if s, ok := readSession(dir, entry.Name()); ok && entry.Type().IsRegular() {
			found = append(found, s)
		}
	}
	return found
}

// readSession reads one session file. ok is false unless it is a live one over SSH from an address.
func readSession(dir, id string) (s Session, ok bool) {
	if strings.Contains(id, "/") || strings.HasSuffix(id, ".ref") {
		return s, false
	}
	values := map[string]string{}
	lines(filepath.Join(dir, id), func(line string) {
		if key, value, ok := strings.Cut(line, "="); ok {
			values[key] = value
		}
	})
	// "closing": the login is over, and something that it started lives on.
	if values["STATE"] == "closing" || !strings.HasPrefix(values["SERVICE"], "ssh") {
		return s, false
	}
	uid, err := strconv.ParseUint(values["UID"], 10, 32)
	if err != nil {
		return s, false
	}
	peer, err := netip.ParseAddr(values["REMOTE_HOST"])
	if err != nil {
		return s, false
	}
	return Session{ID: id, User: values["USER"], UID: uint32(uid), Peer: peer.WithZone("").Unmap()}, true
}

// OwnSession returns the SSH session in which this process runs, also behind sudo, if logind knows it.
func OwnSession() (Session, bool) { return ownSession("/proc/self", logindSessions) }

func ownSession(self, dir string) (Session, bool) {
	var ids []string
	lines(filepath.Join(self, "cgroup"), func(line string) {
		for part := range strings.SplitSeq(line, "/") {
			if scope, ok := strings.CutSuffix(part, ".scope"); ok && strings.HasPrefix(scope, "session-") {
				ids = append(ids, strings.TrimPrefix(scope, "session-"))
			}
		}
	})
	// The audit system's number of the session is the one that logind takes, where there is an audit system.
	lines(filepath.Join(self, "sessionid"), func(line string) { ids = append(ids, strings.TrimSpace(line)) })
	for _, id := range ids {
		if s, ok := readSession(dir, id); ok {
			return s, true
		}
	}
	return Session{}, false
}

// maxAncestors is how far up SSHConnection looks.
const maxAncestors = 32

// SSHConnection returns SSH_CONNECTION as sshd has set it for this process or for the nearest of its ancestors that has one, "" if none
// has: sudo and su - do not pass it on. The environment of others' processes takes root to read.
func SSHConnection() string { return sshConnection("/proc", strconv.Itoa(os.Getpid())) }

func sshConnection(proc, pid string) string {
	const name = "SSH_CONNECTION="
	for range maxAncestors {
		environ, _ := os.ReadFile(filepath.Join(proc, pid, "environ"))
		for variable := range strings.SplitSeq(string(environ), "\x00") {
			if value, ok := strings.CutPrefix(variable, name); ok {
				return value
			}
		}
		parent := ""
		lines(filepath.Join(proc, pid, "status"), func(line string) {
			if value, ok := strings.CutPrefix(line, "PPid:"); ok {
				parent = strings.TrimSpace(value)
			}
		})
		if parent == "" || parent == "0" {
			return ""
		}
		pid = parent
	}
	return ""
}

// WatchSessions calls changed whenever logind's session files may have changed, once for changes that come together. It blocks
// until ctx is done and then returns nil. Where there is no logind it waits for one.
func WatchSessions(ctx context.Context, changed func()) error {
	return watchDir(ctx, logindSessions, changed)
}

func watchDir(ctx context.Context, dir string, changed func()) error {
	w, err := inotify.New(ctx)
	if err != nil {
		return fmt.Errorf("watch %s: %w", dir, err)
	}
	defer w.Close()
	for {
		// Watching what is watched already changes nothing; a directory that came or was replaced is watched from now on.
		if _, err := w.Add(dir, inotify.Names|inotify.Writes); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return quietly(ctx, err)
		}
		_, err := w.WaitQuiet(time.Now().Add(rereadEvery), settle, settleWithin)
		if err != nil || ctx.Err() != nil {
			return quietly(ctx, err)
		}
		changed()
	}
}

// Administers reports whether an account of this host's /etc/passwd has user ID 0 or belongs to one of the groups, by
// /etc/group or as its primary one. Accounts that a directory service keeps elsewhere are not known.
func Administers(user string, groups []string) bool {
	return administers("/etc/passwd", "/etc/group", user, groups)
}

func administers(passwd, group, user string, groups []string) (yes bool) {
	known, primary := false, ""
	lines(passwd, func(line string) {
		if f := strings.Split(line, ":"); !known && len(f) >= 4 && f[0] == user && user != "" {
			known, yes, primary = true, f[2] == "0", f[3]
		}
	})
	if !known || yes {
		return yes
	}
	lines(group, func(line string) {
		f := strings.Split(line, ":")
		if len(f) >= 4 && slices.Contains(groups, f[0]) {
			yes = yes || f[2] == primary || slices.Contains(strings.Split(f[3], ","), user)
		}
	})
	return yes
}
