package report

import (
	"net/netip"
	"regexp"
	"strings"
	"unicode"
)

// known are the words of log lines that a comment keeps. Everything else may be a user, a host, a path or a secret of this host and is replaced: a
// name is left out without being recognised as one.
const known = `a about access account accounts after again algorithm an and anonymous as at attack attempt attempts auth authenticate authenticated authenticating
authentication authorized bad banner banned be because bind blocked bot brute by bytes cannot challenge check client close closed command
connect connected connecting connection connections correct could credentials data database deny denied did directory disabled disallowed
disconnect disconnected disconnecting does drop dropped empty error errors exceeded exchange exist exists expired fail failed failing failure failures
fatal for force forbidden found from get gssapi had handshake has have head header host hostname http https id identification if ignore
illegal imap imaps in incorrect info input interactive invalid ip is kerberos kex key keyboard limit local locked lock log logged login logins logname
lost lookup mail mailbox malformed many match max maximum message method mismatch missing mistake no none not nor notice null of on only open or
options out over packet pam pass passphrase password passwords peer permission permitted plain policy pop pop3 pop3s port post preauth
protocol proto publickey query received receive refused register registration reject rejected relay remote repeated request requests reset reverse rhost root-login
rport ruser sasl scan scram secret secs security sent server service session several shell sip sips smtp smtpd smtps so socket ssh ssh1 ssh2 ssl start started
status stopping success than the this times time timed timeout to tls too tried tries tty type uid unable unauthorized unexpected unknown unsupported
url use used user username users using valid value version via violation warning was web while with without wrong xmlrpc yes
sshd sshd-session dropbear dovecot imap-login pop3-login submission-login managesieve-login postfix postscreen exim exim4 sendmail courier cyrus vsftpd proftpd
pure-ftpd ftpd ftp nginx apache apache2 httpd mysqld mariadbd postgres mongod redis named asterisk freeswitch pam_unix auth-worker`

// isKnown reports whether a word in lower case is one of known.
func isKnown(word string) bool {
	for k := range strings.FieldsSeq(known) {
		if k == word {
			return true
		}
	}
	return false
}

// inToken reports whether a character belongs to a part of a line that is looked at whole; what lies between is punctuation.
func inToken(r rune) bool {
	return unicode.IsLetter(r) || unicode.IsNumber(r) || strings.ContainsRune("_.:@%+~-", r)
}

// replaceTokens returns a line with each token replaced.
func replaceTokens(line string, replace func(token string) string) string {
	var b strings.Builder
	for line != "" {
		end := strings.IndexFunc(line, func(r rune) bool { return !inToken(r) })
		if end < 0 {
			end = len(line)
		}
		if end > 0 {
			b.WriteString(replace(line[:end]))
			line = line[end:]
			continue
		}
		start := strings.IndexFunc(line, inToken)
		if start < 0 {
			start = len(line)
		}
		b.WriteString(line[:start])
		line = line[start:]
	}
	return b.String()
}

// clock is a date or a time of day.
var clock = regexp.MustCompile(`^(\d{4}-\d\d-\d\d)?T?(\d\d?:\d\d:\d\d([.,]\d+)?)?(Z|[+-]\d\d:?\d\d)?$`)

// hidden stands for what is left out.
const hidden = "*"

// scrub returns a log line in which only known words, times and the address of the attacker are left.
func scrub(line string, attacker netip.Addr) string {
	line = replaceTokens(line, func(token string) string {
		bare := strings.TrimRight(token, ".:-")
		tail := token[len(bare):]
		switch {
		case bare == "", isKnown(strings.ToLower(bare)), clock.MatchString(bare):
			return token
		case isAddr(bare, attacker):
			return bare + tail
		}
		return hidden + tail
	})
	line = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, line)
	for _, repeated := range []string{"  ", "* *", "**"} {
		for strings.Contains(line, repeated) {
			line = strings.ReplaceAll(line, repeated, repeated[:1])
		}
	}
	return strings.TrimSpace(line)
}

// isAddr reports whether a token is the address of the attacker, perhaps with a port.
func isAddr(token string, attacker netip.Addr) bool {
	addr, err := netip.ParseAddr(token)
	if err != nil {
		at, err := netip.ParseAddrPort(token)
		if err != nil {
			return false
		}
		addr = at.Addr()
	}
	return addr.Unmap() == attacker
}

const (
	maxComment = 1000 // bytes; AbuseIPDB cuts off what exceeds 1024
	maxLines   = 3    // of evidence
)

// comment describes an attack: what was attacked, and some scrubbed lines.
func comment(b *attack) string {
	text := "Attack on " + b.kind.name + ", banned by mef"
	for _, line := range b.lines[max(0, len(b.lines)-maxLines):] {
		text += "\n" + scrub(line, b.addr)
	}
	return text[:min(len(text), maxComment)]
}
