//go:build linux

package host

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// SyslogFiles are the files that a syslog daemon of this host fills from /dev/log. Every local user and every web application can
// write lines of any program into them: a syslog daemon writes what it receives.
type SyslogFiles struct {
	names      []string // of files that are a syslog daemon's wherever they are
	globs      []string // files that the configuration of a syslog daemon names
	Unreadable []string // parts of such a configuration that could not be read
}

// usualSyslogFiles are the names of files that syslog daemons fill by default, on all distributions and on BSD. Those with names that
// could be anything's are in usualSyslogPaths.
var usualSyslogFiles = []string{
	"allmessages", "auth.log", "authlog", "cron.log", "daemon.log", "everything.log", "kern.log",
	"local0.log", "local1.log", "local2.log", "local3.log", "local4.log", "local5.log", "local6.log", "local7.log", "localmessages",
	"lpr.log", "mail.err", "mail.info", "mail.log", "mail.warn", "maillog", "messages", "secure", "syslog", "syslog.log", "user.log",
}

var usualSyslogPaths = []string{"/var/log/cron", "/var/log/debug", "/var/log/firewall", "/var/log/mail", "/var/log/spooler", "/var/log/warn"}

// syslogConfigs are the configurations of rsyslog, syslog-ng and sysklogd.
var syslogConfigs = []string{
	"/etc/rsyslog.conf", "/etc/rsyslog.d/*.conf", "/etc/syslog-ng/syslog-ng.conf", "/etc/syslog-ng/conf.d/*.conf",
	"/etc/syslog.conf", "/etc/syslog.d/*.conf",
}

// ReadSyslogFiles finds out which files the syslog daemons of this host fill: those with usual names, and those that a configuration
// names, whether such a daemon runs now or not.
func ReadSyslogFiles() SyslogFiles { return readSyslogFiles(syslogConfigs) }

func readSyslogFiles(configs []string) SyslogFiles {
	s := SyslogFiles{names: usualSyslogFiles, globs: slices.Clone(usualSyslogPaths)}
	for _, glob := range configs {
		paths, _ := filepath.Glob(glob)
		for _, path := range paths {
			text, err := readSome(path)
			if err != nil {
				s.Unreadable = append(s.Unreadable, path)
				continue
			}
			s.globs = append(s.globs, syslogTargets(text)...)
		}
	}
	slices.Sort(s.globs)
	s.globs = slices.Compact(s.globs)
	return s
}

func readSome(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFile))
	return string(data), err
}

// Has reports whether path is a file that a syslog daemon fills.
func (s SyslogFiles) Has(path string) bool {
	if slices.Contains(s.names, filepath.Base(path)) {
		return true
	}
	return slices.ContainsFunc(s.globs, func(glob string) bool {
		ok, err := filepath.Match(glob, path)
		return err == nil && ok
	})
}

// syslogTargets returns the paths in the text of a configuration, with * for what is filled in later (%PROGRAMNAME%, $HOST). Files
// that the daemon reads are left out: they are not its own.
func syslogTargets(text string) (globs []string) {
	text = withoutInputs(withoutComments(text))
	for i := 0; i < len(text); i++ {
		if text[i] != '/' || i > 0 && !strings.ContainsRune(" \t\n\"'(=-?,", rune(text[i-1])) {
			continue
		}
		end := i + strings.IndexAny(text[i:]+"\n", " \t\n\"';,)")
		if glob := placeholders(text[i:end]); strings.Count(glob, "/") > 1 {
			globs = append(globs, glob)
		}
		i = end
	}
	return globs
}

func withoutComments(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(strings.TrimSpace(line), "#") {
			out.WriteString(line)
		}
	}
	return out.String()
}

// withoutInputs takes out the statements by which rsyslog (input(...), $InputFileName) and syslog-ng (source NAME {...}) read files.
func withoutInputs(text string) string {
	for _, in := range []struct{ begin, open, close string }{{"input", "(", ")"}, {"source", "{", "}"}} {
		var out strings.Builder
		for {
			before, rest, found := cutWord(text, in.begin, in.open)
			out.WriteString(before)
			if !found {
				break
			}
			depth, end := 0, len(rest)
			for i := range len(rest) {
				switch rest[i : i+1] {
				case in.open:
					depth++
				case in.close:
					if depth--; depth == 0 {
						end = i + 1
					}
				}
				if end == i+1 {
					break
				}
			}
			text = rest[end:]
		}
		text = out.String()
	}
	var out strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(strings.TrimSpace(line), "$InputFileName") {
			out.WriteString(line)
		}
	}
	return out.String()
}

// cutWord cuts text before a statement that begins a line with word and continues, in the same line, with open.
func cutWord(text, word, open string) (before, rest string, found bool) {
	at := 0
	for line := range strings.Lines(text) {
		if after, ok := strings.CutPrefix(strings.TrimSpace(line), word); ok && strings.Contains(after, open) {
			head, _, _ := strings.Cut(after, open)
			if word == "source" && strings.HasPrefix(head, " ") || strings.TrimSpace(head) == "" {
				return text[:at], text[at:], true
			}
		}
		at += len(line)
	}
	return text, "", false
}

// placeholders replaces what a syslog daemon fills in by *.
func placeholders(path string) string {
	var out strings.Builder
	for i := 0; i < len(path); i++ {
		switch {
		case path[i] == '%':
			if n := strings.IndexByte(path[i+1:], '%'); n >= 0 {
				i += n + 1
			}
			out.WriteByte('*')
		case path[i] == '$':
			for i+1 < len(path) && (path[i+1] == '{' || path[i+1] == '}' || path[i+1] == '_' || 'A' <= path[i+1]&^0x20 && path[i+1]&^0x20 <= 'Z') {
				i++
			}
			out.WriteByte('*')
		case strings.IndexByte(`*?[\`, path[i]) >= 0:
			out.WriteByte('\\')
			out.WriteByte(path[i])
		default:
			out.WriteByte(path[i])
		}
	}
	return out.String()
}
