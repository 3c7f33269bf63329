package host

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// sessionFile is what logind writes, with the given lines changed.
func sessionFile(changes string) string {
	return "# This is private data. Do not parse.\nUID=0\nUSER=root\nACTIVE=1\nSTATE=active\nREMOTE=1\nTYPE=tty\nCLASS=user\n" +
		"SCOPE=session-5.scope\nREMOTE_HOST=192.0.2.7\nSERVICE=sshd\n" + changes
}

func sessionDir(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestSessionFiles(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		want string // address of the peer; "" if it is no live SSH session from an address
	}{
		"root over SSH":        {sessionFile(""), "192.0.2.7"},
		"a user":               {sessionFile("UID=1000\nUSER=alice\n"), "192.0.2.7"},
		"online":               {sessionFile("STATE=online\n"), "192.0.2.7"},
		"IPv6":                 {sessionFile("REMOTE_HOST=2001:db8::7\n"), "2001:db8::7"},
		"IPv4-mapped":          {sessionFile("REMOTE_HOST=::ffff:192.0.2.9\n"), "192.0.2.9"},
		"with a zone":          {sessionFile("REMOTE_HOST=fe80::1%eth0\n"), "fe80::1"},
		"a name":               {sessionFile("REMOTE_HOST=192.0.2.7.example.org\n"), ""},
		"no host":              {sessionFile("REMOTE_HOST=\n"), ""},
		"the login is over":    {sessionFile("STATE=closing\n"), ""},
		"a console":            {sessionFile("SERVICE=login\nREMOTE_HOST=\n"), ""},
		"another service":      {sessionFile("SERVICE=vsftpd\n"), ""},
		"no number":            {sessionFile("UID=many\n"), ""},
		"empty":                {"", ""},
		"half written":         {"UID=0\nUSER=root\nREMOTE_HO", ""},
		"not a session at all": {"\x00\xff=\n=\n==\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			for _, s := range sessionsIn(sessionDir(t, map[string]string{"5": tt.text, "5.ref": tt.text})) {
				got += s.Peer.String()
			}
			if got != tt.want {
				t.Errorf("peers = %q, want %q", got, tt.want)
			}
		})
	}
	if got := sessionsIn("/nowhere"); got != nil {
		t.Errorf("without logind there are sessions: %v", got)
	}
}

func TestOwnSession(t *testing.T) {
	dir := sessionDir(t, map[string]string{"5": sessionFile(""), "c2": sessionFile("REMOTE_HOST=192.0.2.9\n")})
	for name, tt := range map[string]struct{ cgroup, sessionid, want string }{
		"by control group":            {"0::/user.slice/user-0.slice/session-5.scope\n", "4294967295", "192.0.2.7"},
		"deeper in it":                {"1:name=systemd:/user.slice/user-0.slice/session-c2.scope/x\n0::/\n", "", "192.0.2.9"},
		"by the audit system":         {"0::/system.slice/tmux.service\n", "5", "192.0.2.7"},
		"neither":                     {"0::/system.slice/cron.service\n", "4294967295", ""},
		"a session that is not there": {"0::/user.slice/session-77.scope\n", "", ""},
		"a path for a number":         {"", "../5", ""},
	} {
		t.Run(name, func(t *testing.T) {
			self := sessionDir(t, map[string]string{"cgroup": tt.cgroup, "sessionid": tt.sessionid})
			got := ""
			if s, ok := ownSession(self, dir); ok {
				got = s.Peer.String()
			}
			if got != tt.want {
				t.Errorf("own session from %q, want %q", got, tt.want)
			}
		})
	}
}

func TestAdministers(t *testing.T) {
	passwd := file(t, "passwd", "root:x:0:0::/root:/bin/sh\ntoor:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/:/bin/sh\n"+
		"bob:x:1001:27::/:/bin/sh\ncarol:x:1002:1002::/:/bin/sh\nbroken:x\n")
	group := file(t, "group", "root:x:0:\nsudo:x:27:dave,alice\nwheel:x:10:\nadmin:*:80:carol\nsudoers:x:99:carol\n")
	groups := []string{"sudo", "wheel"}
	for user, want := range map[string]bool{
		"root": true, "toor": true,
		"alice":  true,  // a member
		"bob":    true,  // by primary group
		"carol":  false, // of another group
		"dave":   false, // a name in a group, but no account
		"broken": false, "": false, "mallory": false,
	} {
		if got := administers(passwd, group, user, groups); got != want {
			t.Errorf("administers(%q) = %v, want %v", user, got, want)
		}
	}
	if !administers(passwd, group, "root", nil) || administers(passwd, group, "alice", nil) {
		t.Error("without groups, user ID 0 alone should count")
	}
}

func TestWatchDir(t *testing.T) {
	dir := t.TempDir()
	changed := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- watchDir(ctx, dir, func() { changed <- struct{}{} }) }()
	// logind writes a file beside the old one and renames it. Again and again, because the first may come before the watch.
	again := time.NewTicker(2 * settle)
	defer again.Stop()
	for end := time.Now().Add(time.Minute); len(changed) == 0; <-again.C {
		if time.Now().After(end) {
			t.Fatal("nobody told of the new session")
		}
		os.WriteFile(filepath.Join(dir, ".#5"), nil, 0o600)
		os.Rename(filepath.Join(dir, ".#5"), filepath.Join(dir, "5"))
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("watchDir ended with %v, want nil", err)
	}
}

func TestConfiguredSSH(t *testing.T) {
	main := file(t, "sshd_config", "# Port 1\nPort 2222\nport=2200\n\tPORT 22\nPort nonsense\nPort 70000\nListenAddress 0.0.0.0\nGatewayPorts yes\n")
	if got, want := configuredSSH(main, "/nowhere/*.conf"), []uint16{2222, 2200, 22}; !slices.Equal(got, want) {
		t.Errorf("configuredSSH = %v, want %v", got, want)
	}
}

func TestSSHIsTheSystems(t *testing.T) {
	for name, tt := range map[string]struct {
		l    Listener
		want bool
	}{
		"by unit":             {Listener{Protocol: "tcp", Unit: "ssh.service"}, true},
		"by socket unit":      {Listener{Protocol: "tcp", Unit: "sshd.socket"}, true},
		"by program":          {Listener{Protocol: "tcp", Program: "sshd"}, true},
		"a user's own":        {Listener{Protocol: "tcp", Program: "sshd", UID: 1000}, false},
		"another unit":        {Listener{Protocol: "tcp", Unit: "nginx.service"}, false},
		"UDP":                 {Listener{Protocol: "udp", Program: "sshd"}, false},
		"named a little like": {Listener{Protocol: "tcp", Program: "sshd-fake"}, false},
	} {
		if got := tt.l.ssh(); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

// What sudo takes out of the environment is found with whoever called sudo.
func TestSSHConnection(t *testing.T) {
	proc := t.TempDir()
	for pid, files := range map[string]struct{ parent, environ string }{
		"70": {"60", "TERM=xterm\x00SUDO_USER=alice\x00"},
		"60": {"50", "TERM=xterm\x00MY_SSH_CONNECTION=no\x00SSH_CONNECTION=192.0.2.7 50000 192.0.2.1 22\x00"},
		"50": {"1", "SSH_CONNECTION=an older one\x00"},
		"40": {"1", ""},
		"1":  {"0", ""},
		"30": {"30", ""}, // which no kernel says
	} {
		dir := filepath.Join(proc, pid)
		if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "environ"), []byte(files.environ), 0o600),
			os.WriteFile(filepath.Join(dir, "status"), []byte("Name:\tx\nPPid:\t"+files.parent+"\n"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for pid, want := range map[string]string{"70": "192.0.2.7 50000 192.0.2.1 22", "50": "an older one", "40": "", "30": "", "99": ""} {
		if got := sshConnection(proc, pid); got != want {
			t.Errorf("process %s: %q, want %q", pid, got, want)
		}
	}
}
