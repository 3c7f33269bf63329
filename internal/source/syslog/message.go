package syslog

import (
	"bytes"

	"mef/internal/event"
	"mef/internal/logtime"
)

// parse reads a message of RFC 5424, of RFC 3164, or as syslog(3) writes it, which leaves out the name of the host. It returns what the
// program wrote, and puts the program's name and process ID into e. Without a name no rule reads the message.
func parse(s []byte, e *event.Entry) (message []byte) {
	s = bytes.TrimRight(s, "\x00\r\n \t")
	rest, new, ok := logtime.CutPriority(s)
	if ok && new {
		return parse5424(rest, e)
	}
	if _, behind, ok := logtime.Cut(rest); ok {
		rest = behind
	}
	if message, ok := cutTag(rest, e); ok {
		return message
	}
	if blank := bytes.IndexByte(rest, ' '); blank > 0 { // the name of the host
		if message, ok := cutTag(rest[blank+1:], e); ok {
			return message
		}
	}
	return rest
}

// maxTag bounds the name of a program.
const maxTag = 128

// cutTag takes "sshd[4711]: " or "sshd: " off the front of s.
func cutTag(s []byte, e *event.Entry) (message []byte, ok bool) {
	n := 0
	for n < len(s) && n < maxTag && s[n] > ' ' && s[n] < 0x7f && s[n] != '[' && s[n] != ':' {
		n++
	}
	name, rest := s[:n], s[n:]
	pid := uint32(0)
	if len(rest) > 0 && rest[0] == '[' {
		end := bytes.IndexByte(rest[:min(len(rest), 16)], ']')
		if end < 0 {
			return nil, false
		}
		pid, rest = number(rest[1:end]), rest[end+1:]
	}
	if n == 0 || len(rest) == 0 || rest[0] != ':' || len(rest) > 1 && rest[1] != ' ' {
		return nil, false
	}
	e.Identifier, e.PID = name, pid
	return bytes.TrimLeft(rest[1:], " "), true
}

// parse5424 reads what stands behind the version: TIMESTAMP HOSTNAME APP-NAME PROCID MSGID STRUCTURED-DATA MSG.
func parse5424(s []byte, e *event.Entry) (message []byte) {
	var field [5][]byte
	rest := s
	for i := range field {
		blank := bytes.IndexByte(rest, ' ')
		if blank < 0 {
			return s
		}
		field[i], rest = rest[:blank], rest[blank+1:]
	}
	rest, ok := cutData(rest)
	if !ok || string(field[2]) == "-" || len(field[2]) > maxTag {
		return s
	}
	e.Identifier, e.PID = field[2], number(field[3])
	return bytes.TrimPrefix(rest, []byte("\ufeff"))
}

// cutData takes STRUCTURED-DATA off the front of s, with the blank behind it.
func cutData(s []byte) (rest []byte, ok bool) {
	if len(s) > 0 && s[0] == '-' {
		s = s[1:]
	} else {
		for len(s) > 0 && s[0] == '[' {
			end, quoted := -1, false
			for i := 1; i < len(s) && end < 0; i++ {
				switch c := s[i]; {
				case quoted && c == '\\':
					i++
				case c == '"':
					quoted = !quoted
				case c == ']' && !quoted:
					end = i
				}
			}
			if end < 0 {
				return nil, false
			}
			s = s[end+1:]
		}
	}
	if len(s) == 0 {
		return s, true
	}
	return s[1:], s[0] == ' '
}

// number returns the number that the digits make, 0 if they are none.
func number(s []byte) (n uint32) {
	for _, c := range s {
		if c < '0' || c > '9' || n > 1<<28 {
			return 0
		}
		n = 10*n + uint32(c-'0')
	}
	return n
}
