//go:build linux

package host

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestSyslogFiles(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"rsyslog.conf": `# /var/log/comment.log
module(load="imuxsock")
$IncludeConfig /etc/rsyslog.d/*.conf
auth,authpriv.*			/var/log/logins.log
mail.*				-/var/log/post/all.log
:programname, isequal, "vsftpd"	/var/log/vsftpd.log;RSYSLOG_FileFormat
template(name="each" type="string" string="/var/log/hosts/%HOSTNAME%/%PROGRAMNAME%.log")
if $programname == 'exim' then action(type="omfile" file="/var/log/exim4/mainlog")
input(type="imfile"
      File="/var/log/proftpd/proftpd.log" Tag="ftp")
$InputFileName /var/log/legacy.log
`,
		"syslog-ng.conf": `source s_files { file("/var/log/dovecot.log" follow-freq(1)); };
source s_src { system(); };
destination d_each { file("/srv/log/$HOST/${PROGRAM}.log"); };
destination d_auth { file("/var/log/who.log"); };
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := readSyslogFiles([]string{filepath.Join(dir, "rsyslog.conf"), filepath.Join(dir, "syslog-ng.conf"), filepath.Join(dir, "none.d", "*.conf")})
	for path, want := range map[string]bool{
		"/var/log/auth.log":            true, // by name
		"/host/var/log/secure":         true,
		"/var/log/mail":                true,
		"/srv/mail":                    false,
		"/var/log/logins.log":          true, // named
		"/var/log/post/all.log":        true,
		"/var/log/vsftpd.log":          true,
		"/var/log/hosts/web/sshd.log":  true,
		"/var/log/exim4/mainlog":       true,
		"/srv/log/web/sshd.log":        true,
		"/var/log/who.log":             true,
		"/var/log/comment.log":         false,
		"/var/log/proftpd/proftpd.log": false, // read, not written
		"/var/log/legacy.log":          false,
		"/var/log/dovecot.log":         false,
		"/var/log/nginx/access.log":    false,
	} {
		if got := s.Has(path); got != want {
			t.Errorf("Has(%q) = %v; globs %q", path, got, s.globs)
		}
	}
	if len(s.Unreadable) > 0 {
		t.Errorf("unreadable: %q", s.Unreadable)
	}
}

// What Debian's rsyslog.conf names is found without any of the usual names.
func TestSyslogTargets(t *testing.T) {
	got := syslogTargets("*.*;auth,authpriv.none\t-/var/log/syslog\nkern.*  -/var/log/kern.log\n*.emerg :omusrmsg:*\n")
	if want := []string{"/var/log/syslog", "/var/log/kern.log"}; !slices.Equal(got, want) {
		t.Errorf("targets %q, want %q", got, want)
	}
}

func TestUnitsInstalled(t *testing.T) {
	dir := t.TempDir()
	units, scripts := filepath.Join(dir, "units"), filepath.Join(dir, "init.d")
	for name, mode := range map[string]os.FileMode{
		"units/ssh.service": 0o644, "units/ssh.socket": 0o644, "units/imap.socket": 0o644, "units/x.timer": 0o644, "units/ssh@.service": 0o644,
		"init.d/vsftpd": 0o755, "init.d/README": 0o644,
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	got := unitsInstalled([]string{units, filepath.Join(dir, "none")}, []string{scripts})
	if want := []string{"imap.service", "ssh.service", "ssh@.service", "vsftpd.service"}; !slices.Equal(got, want) {
		t.Errorf("units %q, want %q", got, want)
	}
}
