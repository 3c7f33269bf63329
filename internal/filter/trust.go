package filter

import (
	"bytes"
	"slices"
	"strings"

	"mef/internal/event"
)

// covers reports whether the rule is about the program of that name. A plain name also covers what is derived from it:
// sshd covers sshd-session, postfix covers postfix/smtpd and postfix-incoming/smtpd. journalctl -o with-unit writes the unit
// where the program stands otherwise.
func (r *rule) covers(program []byte) bool {
	if bytes.HasSuffix(program, []byte(".service")) {
		return slices.ContainsFunc(r.Units, func(unit string) bool { return matchUnit(program, unit) })
	}
	return len(r.Programs) == 0 || slices.ContainsFunc(r.Programs, func(name string) bool {
		if prefix, ok := strings.CutSuffix(name, "*"); ok {
			return hasPrefix(program, prefix)
		}
		return derived(program, name)
	})
}

// derived reports whether program is name, or name with something behind "-" or "/".
func derived(program []byte, name string) bool {
	if !hasPrefix(program, name) || name == "" {
		return false
	}
	rest := program[len(name):]
	return len(rest) == 0 || rest[0] == '-' || rest[0] == '/'
}

// trusts reports whether the rule trusts a journal entry of one of its programs.
//
// A local user can send journald any text under any identifier, from a program of any name. The user cannot choose the
// user ID and the unit, which journald takes from the kernel:
//
//   - The process must run as root or as an account of the daemon (uids=).
//   - It must belong to a unit of the rule. Programs that PAM moves into the session of the user they serve, as sshd is,
//     are also trusted in a session-N.scope, but there only as root: an sshd that a user starts runs in the session
//     and with the user ID of that user. Where there is no unit, as without systemd, only the user ID is checked.
//   - Entries from containers are not trusted: their root is not that of the host.
func (r *rule) trusts(e *event.Entry) bool {
	if len(e.Container) > 0 || e.UID != 0 && !slices.Contains(r.uids, e.UID) {
		return false
	}
	switch {
	case len(e.Unit) == 0:
		return true
	case isSessionScope(e.Unit):
		return e.UID == 0
	case len(r.Units) == 0:
		return r.hasUnitOfProgram(e.Unit)
	}
	return slices.ContainsFunc(r.Units, func(unit string) bool { return matchUnit(e.Unit, unit) })
}

// hasUnitOfProgram reports whether the unit is a service named like one of the rule's programs: vsftpd.service,
// vsftpd@ftp.service.
func (r *rule) hasUnitOfProgram(unit []byte) bool {
	name, ok := bytes.CutSuffix(unit, []byte(".service"))
	if !ok {
		return false
	}
	if at := bytes.IndexByte(name, '@'); at >= 0 {
		name = name[:at]
	}
	return slices.ContainsFunc(r.Programs, func(program string) bool {
		return program != "" && strings.TrimSuffix(program, "*") == string(name)
	})
}

// isSessionScope reports whether unit is session-N.scope, where logind keeps what runs in a login session. (N is a number,
// or a letter and a number.)
func isSessionScope(unit []byte) bool {
	return hasPrefix(unit, "session-") && bytes.HasSuffix(unit, []byte(".scope"))
}

// matchUnit reports whether the pattern, in which * stands for anything, covers the unit.
func matchUnit(unit []byte, pattern string) bool {
	prefix, rest, wild := strings.Cut(pattern, "*")
	if !wild {
		return string(unit) == pattern
	}
	if !hasPrefix(unit, prefix) {
		return false
	}
	for i := len(prefix); i <= len(unit); i++ {
		if matchUnit(unit[i:], rest) {
			return true
		}
	}
	return false
}

func hasPrefix(s []byte, prefix string) bool {
	return len(s) >= len(prefix) && string(s[:len(prefix)]) == prefix
}
