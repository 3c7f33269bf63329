package filter

import "testing"

func TestHeader(t *testing.T) {
	for name, tt := range map[string]struct{ line, program, pid, message string }{
		"syslog":                     {"Mar  1 10:00:01 web1 sshd[12]: hello", "sshd", "12", "hello"},
		"syslog without host":        {"Nov 23 21:50:19 sshd[12]: hello", "sshd", "12", "hello"},
		"syslog without pid":         {"Mar  1 10:00:01 web1 dovecot: hello", "dovecot", "", "hello"},
		"one blank before the day":   {"Mar 1 10:00:01 web1 sshd[12]: hello", "sshd", "12", "hello"},
		"priority":                   {"<38>Mar  1 10:00:01 web1 sshd[12]: hello", "sshd", "12", "hello"},
		"RFC 3339":                   {"2026-03-01T10:00:01.123456+01:00 web1 postfix/smtpd[12]: hello", "postfix/smtpd", "12", "hello"},
		"ISO with zone behind":       {"2018-12-20 10:09:05.180218+0000 localhost sshd[12]: hello", "sshd", "12", "hello"},
		"RFC 5424":                   {"<38>1 2019-07-08T17:40:16.954167-04:00 host sshd 12 - - hello", "sshd", "12", "hello"},
		"RFC 5424, structured data":  {`<38>1 2019-07-08T17:40:16Z host sshd 12 ID1 [a x="1"][b y="[\"] z"] hello`, "sshd", "12", "hello"},
		"RFC 5424, nothing known":    {"<38>1 - - - - - - hello", "", "", "hello"},
		"RFC 5424, BOM":              {"<38>1 - host sshd - - - \xef\xbb\xbfhello", "sshd", "", "hello"},
		"RFC 5424, bare":             {"2022-02-24T21:00:42.021457+00:00 web1 dropbear 6052 - - hello", "dropbear", "6052", "hello"},
		"message with a port":        {"2024-12-15 14:14:22 203.0.113.7:54321 OpenSSL: hello", "", "", "203.0.113.7:54321 OpenSSL: hello"},
		"TAI64N":                     {"@400000004c91b044077a9e94 dovecot-auth: hello", "dovecot-auth", "", "hello"},
		"multilog without program":   {"2018-06-26 13:22:02.108781500 Failed password for x", "", "", "Failed password for x"},
		"facility before program":    {"Jun 20 02:18:39 vps auth.info sshd[12]: hello", "sshd", "12", "hello"},
		"facility instead":           {"2015-05-27T04:31:27.46667 auth.info: Invalid user x", "", "", "Invalid user x"},
		"BSD's facility":             {"Jan  1 00:00:00 <10.5> host sshd[12]: hello", "sshd", "12", "hello"},
		"line in a line":             {"2015-05-27T04:31:28.10040 auth.info: May 27 04:31:28 sshd[12]: hello", "sshd", "12", "hello"},
		"line in a line, with host":  {"2015-05-27T04:31:28.10040 auth.info: May 27 04:31:28 host sshd[12]: hello", "sshd", "12", "hello"},
		"host that looks like one":   {"Mar  1 10:00:01 mail.info sshd[12]: hello", "sshd", "12", "hello"},
		"whole path":                 {"Mar  1 10:00:01 web1 /usr/sbin/sshd[12]: hello", "sshd", "12", "hello"},
		"old PAM":                    {"Mar  1 10:00:01 web1 sshd(pam_unix)[12]: hello", "sshd", "", "sshd(pam_unix)[12]: hello"},
		"dovecot's own":              {"2026-03-01 10:00:01 imap-login: Info: hello", "imap-login", "", "Info: hello"},
		"dovecot's own, with parens": {"Aug 30 00:10:57 auth(u@x,192.0.2.1,sasl:login)<a+b>: Info: hello", "auth", "", "auth(u@x,192.0.2.1,sasl:login)<a+b>: Info: hello"},
		"vsftpd's own":               {`Fri Mar  1 10:00:01 2024 [pid 1] [x: y] hello`, "", "", "[pid 1] [x: y] hello"},
		"journalctl without date":    {"srv sshd[12]: hello", "sshd", "12", "hello"},
		"without date and host":      {"sshd[12]: hello", "sshd", "12", "hello"},
		"nothing but a message":      {"Failed password for root from 203.0.113.7 port 1 ssh2", "", "", "Failed password for root from 203.0.113.7 port 1 ssh2"},
		"message with a colon":       {"error: PAM: authentication failure", "", "", "error: PAM: authentication failure"},
		"another program's message":  {"Mar  1 10:00:18 mx1 mallory: sshd[2118]: hello", "mallory", "", "sshd[2118]: hello"},
		"undated, another program":   {"mx1 mallory[1]: sshd[2118]: hello", "mallory", "1", "sshd[2118]: hello"},
		"program with a blank":       {"Mar  1 10:00:18 mx1 My App: sshd[2118]: hello", "", "", "mx1 My App: sshd[2118]: hello"},
		"severity, no program":       {"2026-11-30 10:00:00.123456789  error: PAM: hello", "", "", "error: PAM: hello"},
		"Polish":                     {"sie 02 17:38:21 web1 sshd[12]: hello", "sshd", "12", "hello"},
		"journalctl short-full":      {"Mon 2026-11-30 10:00:00 UTC web1 sshd[12]: hello", "sshd", "12", "hello"},
		"journalctl short-unix":      {"1764496800.123456 web1 sshd[12]: hello", "sshd", "12", "hello"},
		"journalctl short-monotonic": {"[12345.678901] web1 sshd[12]: hello", "sshd", "12", "hello"},
		"journalctl short-delta":     {"[12345.678901 <    0.000123 >] web1 sshd[12]: hello", "sshd", "12", "hello"},
		"host is an IPv6 address":    {"Nov 30 10:00:00 2001:db8::5 sshd[12]: hello", "sshd", "12", "hello"},
		"host twice":                 {"Nov 30 10:00:00 web1 web1 sshd[12]: hello", "sshd", "12", "hello"},
		"two hosts":                  {"Nov 30 10:00:00 web1 web2 sshd[12]: hello", "", "", "web1 web2 sshd[12]: hello"},
		"program in brackets":        {"Nov 30 10:00:00 web1 [sshd]: hello", "sshd", "", "hello"},
		"severity behind the pid":    {"Nov 30 10:00:00 web1 sshd[12] info: hello", "sshd", "12", "hello"},
		"carriage return":            {"Mar  1 10:00:01 web1 sshd[12]: hello \r\n", "sshd", "12", "hello"},
		"no message":                 {"Mar  1 10:00:01 web1 sshd[12]:", "sshd", "12", ""},
		"empty":                      {"", "", "", ""},
		"blanks":                     {" \t ", "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := parseHeader([]byte(tt.line))
			if string(h.program) != tt.program || string(h.pid) != tt.pid || string(h.message) != tt.message {
				t.Errorf("parseHeader(%q)\n got program %q, pid %q, message %q\nwant program %q, pid %q, message %q",
					tt.line, h.program, h.pid, h.message, tt.program, tt.pid, tt.message)
			}
		})
	}
}

func TestUnwrap(t *testing.T) {
	for name, tt := range map[string]struct {
		text, message string
		count         int
	}{
		"plain":               {"hello", "hello", 1},
		"repeated":            {"message repeated 5 times: [ hello]", "hello", 5},
		"repeated very often": {"message repeated 99999999999999999999 times: [ hello]", "hello", maxRepeats},
		"repeated never":      {"message repeated 0 times: [ hello]", "message repeated 0 times: [ hello]", 1},
		"not closed":          {"message repeated 5 times: [ hello", "message repeated 5 times: [ hello", 1},
		"Solaris":             {"[ID 800047 auth.info] hello", "hello", 1},
		"console":             {"kernel:[  970.699396]: hello", "hello", 1},
		"console, no colon":   {"kernel:[12970.699396] hello", "hello", 1},
		"kernel's word":       {"kernel:[x] hello", "kernel:[x] hello", 1},
		"empty":               {"", "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			if message, count := unwrap([]byte(tt.text)); string(message) != tt.message || count != tt.count {
				t.Errorf("unwrap(%q) = %q, %d, want %q, %d", tt.text, message, count, tt.message, tt.count)
			}
		})
	}
}
