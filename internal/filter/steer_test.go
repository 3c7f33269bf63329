package filter_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"mef/internal/event"
	"mef/internal/filter"
)

// formats are lines as the daemons print them. {ip} is the peer's address; {x} and {y} are what the peer writes freely, {w} is
// its name by reverse DNS.
var formats = slices.Concat(ownFormats, mailFormats, serverFormats)

// A format is a line's text, and whether it is written only after a login.
type format struct {
	text  string
	login bool
}

var ownFormats = []format{
	{text: "sshd[7]: Failed password for invalid user {x} from {ip} port 4711 ssh2"},
	{text: "sshd[7]: Failed none for invalid user {x} from {ip} port 4711 ssh2"},
	{text: "sshd[7]: Failed keyboard-interactive/pam for invalid user {x} from {ip} port 4711 ssh2"},
	{text: "sshd[7]: Failed publickey for invalid user {x} from {ip} port 4711 ssh2: RSA SHA256:abc"},
	{text: "sshd[7]: Failed publickey for invalid user {x} from {ip} port 4711 ssh2: RSA-CERT SHA256:abc ID {y} (serial 0) CA RSA SHA256:def"},
	{text: "sshd[7]: Failed publickey for root from {ip} port 4711 ssh2: RSA-CERT SHA256:abc ID {x} (serial 0) CA RSA SHA256:def"},
	{text: `sshd[7]: Failed hostbased for root from {ip} port 4711 ssh2: RSA SHA256:abc, client user "{x}", client host "{y}"`},
	{text: `sshd[7]: Failed hostbased for invalid user {x} from {ip} port 4711 ssh2: RSA SHA256:abc, client user "{x}", client host "{y}"`},
	{text: "sshd[7]: Postponed keyboard-interactive for invalid user {x} from {ip} port 4711 ssh2 [preauth]"},
	{text: "sshd[7]: Invalid user {x} from {ip} port 4711"},
	{text: "sshd[7]: Invalid user {x} from {ip}"},
	{text: "sshd[7]: error: maximum authentication attempts exceeded for invalid user {x} from {ip} port 4711 ssh2 [preauth]"},
	{text: "sshd[7]: Disconnecting invalid user {x} {ip} port 4711: Too many authentication failures [preauth]"},
	{text: "sshd[7]: Disconnecting invalid user {x} {ip} port 4711: Change of username or service not allowed: ({x},ssh-connection) -> ({y},{y}) [preauth]"},
	{text: "sshd[7]: Disconnecting authenticating user root {ip} port 4711: Change of username or service not allowed: (root,{x}) -> ({y},{y}) [preauth]"},
	{text: "sshd[7]: Connection closed by invalid user {x} {ip} port 4711 [preauth]"},
	{text: "sshd[7]: Disconnected from invalid user {x} {ip} port 4711 [preauth]"},
	{text: "sshd[7]: Received disconnect from {ip} port 4711:11: {x} [preauth]"},
	{text: "sshd[7]: error: Received disconnect from {ip} port 4711:3: {x} [preauth]"},
	{text: "sshd[7]: error: PAM: Authentication failure for illegal user {x} from {ip}"},
	{text: "sshd[7]: pam_sss(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost={ip} user={x}"},
	{text: "sshd[7]: pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost={w} user={x}"},
	{text: "sshd[7]: Bad protocol version identification '{x}' from {ip} port 4711"},
	{text: "sshd[7]: Protocol major versions differ for {ip} port 4711: SSH-2.0-OpenSSH_7.4 vs. {x}"},
	{text: "sshd[7]: scanned from {ip} port 4711 with {x}.  Don't panic."},
	{text: `sshd[7]: error: kex_exchange_identification: client sent invalid protocol identifier "{x}"`},
	{text: "sshd[7]: banner exchange: Connection from {ip} port 4711: invalid format"},
	{text: "sshd[7]: ssh_dispatch_run_fatal: Connection from invalid user {x} {ip} port 4711: Broken pipe [preauth]"},
	{text: "sshd[7]: Unable to negotiate with {ip} port 4711: no matching cipher found. Their offer: {x} [preauth]"},
	{text: "sshd[7]: Unable to negotiate with invalid user {x} {ip} port 4711: no matching cipher found. Their offer: {y} [preauth]"},
	{text: "sshd[7]: refused connect from {w} ({ip})"},
	{text: "sshd[7]: input_userauth_request: invalid user {x} [preauth]"},
	{text: "sshd[7]: Accepted publickey for alice from {ip} port 4711 ssh2: RSA-CERT SHA256:abc ID {x} (serial 0) CA RSA SHA256:def", login: true},
	{text: "sshd[7]: subsystem request for {x} by user alice", login: true},

	{text: "dovecot: imap-login: Disconnected (auth failed, 1 attempts in 2 secs): user=<{x}>, method=PLAIN, rip={ip}, lip=192.0.2.10, TLS, session=<abc>"},
	{text: "dovecot: imap-login: Login aborted: Connection closed (auth failed, 1 attempts in 2 secs) (auth_failed): user=<{x}>, method=PLAIN, rip={ip}, lip=192.0.2.10, session=<abc>"},
	{text: "dovecot: pop3-login: Aborted login (tried to use disallowed plaintext auth): user=<{x}>, rip={ip}, lip=192.0.2.10, session=<abc>"},
	{text: "dovecot: pop3-login: Aborted login: user=<{x}>, method=PLAIN, rip={ip}, lip=192.0.2.10"},
	{text: "dovecot: imap-login: Disconnected (no auth attempts in 2 secs): user=<{x}>, rip={ip}, lip=192.0.2.10, session=<abc>"},
	{text: "dovecot: auth: pam({x},{ip},<abc>): unknown user"},
	{text: "dovecot: auth: pam({x},{ip}): unknown user (given password: {y})"},
	{text: "dovecot: auth-worker(12): conn unix:auth-worker (pid=58074,uid=109): auth-worker<4>: sql({x},{ip}): Password mismatch (given password: {y})"},
	{text: "dovecot: auth: pam({x},{ip},<abc>): pam_authenticate() failed: Authentication failure (Password mismatch?)"},
	{text: "dovecot: auth: login(?,{ip},<abc>): Username character disallowed by auth_username_chars: 0x27 (username: {x})"},
	{text: "auth: Info: pam({x},{ip}): unknown user (given password: {y})"},
	{text: "auth-worker(12): Info: conn unix:auth-worker (uid=143): auth-worker<4>: sql({x},{ip}): unknown user"},
	{text: "auth({x},{ip},sasl:login)<abc>: Info: sql: Password mismatch (given password: {y})"},
	{text: "auth: pam_unix(dovecot:auth): authentication failure; logname= uid=0 euid=0 tty=dovecot ruser={x} rhost={ip}"},
	{text: "auth: pam_sss(dovecot:auth): authentication failure; logname= uid=0 euid=0 tty=dovecot ruser={x} rhost={ip} user={x}"},
	{text: "dovecot: lda(bob)<51><b1>: sieve: msgid=<{x}>: stored mail into mailbox 'INBOX'"},
	{text: "dovecot: imap(alice)<1><b1>: Logged out; id=({x})", login: true},

	{text: "postfix/smtpd[7]: warning: {w}[{ip}]: SASL LOGIN authentication failed: UGFzc3dvcmQ6"},
	{text: "postfix/smtpd[7]: warning: {w}[{ip}]: SASL LOGIN authentication failed: (reason unavailable), sasl_username={x}"},
	{text: "postfix/smtpd[7]: NOQUEUE: reject: RCPT from {w}[{ip}]: 554 5.7.1 <{x}>: Relay access denied; from=<{x}> to=<{y}> proto=ESMTP helo=<{y}>"},
	{text: "postfix/smtpd[7]: improper command pipelining after EHLO from {w}[{ip}]: {x}"},
	{text: "postfix/smtpd[7]: warning: non-SMTP command from {w}[{ip}]: {x}"},
	{text: "postfix/smtpd[7]: warning: Illegal address syntax from {w}[{ip}] in MAIL command: {x}"},
	{text: "postfix/smtpd[7]: warning: hostname {w} does not resolve to address {ip}"},
	{text: "postfix/postscreen[7]: PREGREET 14 after 0.05 from [{ip}]:4711: {x}"},
	{text: "postfix/cleanup[7]: 4Vabc01: warning: header Subject: {x} from {w}[{ip}]; from=<{y}> to=<{y}> proto=ESMTP helo=<{y}>"},
	{text: "postfix/smtp[7]: 4Vabc02: to=<{x}>, relay=mx.example[192.0.2.99]:25, delay=1, dsn=5.7.1, status=bounced (host mx.example[192.0.2.99] said: {y})"},
	{text: "postfix/smtpd[7]: 4Vabc03: client={w}[{ip}], sasl_method=PLAIN, sasl_username=alice, sasl_sender={x}", login: true},

	{text: `vsftpd[7]: [{x}] FAIL LOGIN: Client "{ip}"`},
	{text: `vsftpd[7]: [{x}] FAIL LOGIN: Client "{ip}", "User is in the deny user list."`},
	{text: `vsftpd[7]: [ftp] FAIL LOGIN: Client "{ip}", anon password "{x}"`},
	{text: `vsftpd[7]: [{x}] FTP response: Client "{ip}", "331 Please specify the password."`},
	{text: `vsftpd[7]: [{x}] FTP command: Client "{ip}", "{y}"`},
	{text: `vsftpd[7]: FTP command: Client "{ip}", "{x}"`},
	{text: `vsftpd[7]: [ftp] OK LOGIN: Client "{ip}", anon password "{x}"`, login: true},
	{text: `vsftpd[7]: [alice] FAIL UPLOAD: Client "{ip}", "{x}", 0.00Kbyte/sec`, login: true},
	{text: "vsftpd: pam_unix(vsftpd:auth): authentication failure; logname= uid=0 euid=0 tty=ftp ruser={x} rhost={ip}"},
	{text: "vsftpd: pam_sss(vsftpd:auth): authentication failure; logname= uid=0 euid=0 tty=ftp ruser={x} rhost={ip} user={x}"},
}

// A peer that writes any part of any format, with the address of somebody else in it, wherever a format lets it write, never
// has anybody but itself reported, and never a login that was none.
func TestNobodySteersAnEvent(t *testing.T) {
	const victim = "198.51.100.1"
	peer := netip.MustParseAddr("203.0.113.7")
	set := compile(t, shippedRules(t))
	texts := attacks(victim)
	step := 1
	if testing.Short() {
		step = 37 // no divisor of anything here
	}
	v := set.View(all)
	var m filter.Match
	for _, f := range formats {
		for i := 0; i < len(texts); i += step {
			x := texts[i]
			for _, y := range []string{"a", x} {
				if y == x && !strings.Contains(f.text, "{y}") {
					continue
				}
				if strings.Contains(f.text, "{w}") && !isHostName(x) {
					continue
				}
				text := "Mar  1 10:00:00 host " + strings.NewReplacer("{ip}", peer.String(), "{x}", x, "{y}", y, "{w}", x).Replace(f.text)
				if !v.Match(line(text), &m) {
					continue
				}
				if m.Addr.IsValid() && m.Addr != peer {
					t.Errorf("%v is blamed:\n%s", m.Addr, text)
				}
				if m.Kind == event.Success && !f.login {
					t.Errorf("a login of %s from %v that was none:\n%s", m.User, m.Addr, text)
				}
			}
			if t.Failed() {
				return
			}
		}
	}
	t.Logf("%d texts in %d formats", len(texts)/step, len(formats))
}

// isHostName reports whether a daemon would take the name for the peer's out of its reverse DNS: it has but certain bytes and
// is no address.
func isHostName(name string) bool {
	for _, c := range name {
		if !strings.ContainsRune("-_.0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", c) {
			return false
		}
	}
	_, err := netip.ParseAddr(name)
	return err != nil
}

// attacks returns all runs of words of all formats, written with the victim's address.
func attacks(victim string) []string {
	seen := make(map[string]bool)
	var texts []string
	add := func(text string) {
		if !seen[text] {
			seen[text] = true
			texts = append(texts, text)
		}
	}
	for _, f := range formats {
		_, message, _ := strings.Cut(f.text, ": ")
		message = strings.NewReplacer("{ip}", victim, "{x}", "b", "{y}", "c", "{w}", "d").Replace(message)
		for _, end := range cuts(message) {
			for _, start := range cuts(message[:end]) {
				part := strings.TrimSpace(message[start:end])
				if strings.Contains(part, victim) {
					add(part)
					add("b " + part)
				}
			}
		}
	}
	return texts
}

// cuts returns where a text can be cut so that something may go on with it: around blanks and behind or before brackets,
// quotes, commas and colons.
func cuts(text string) []int {
	list := []int{0}
	for i := 1; i < len(text); i++ {
		if strings.IndexByte(" <>[](),:;\"'", text[i]) >= 0 || strings.IndexByte(" <>[](),:;\"'", text[i-1]) >= 0 {
			list = append(list, i)
		}
	}
	return append(list, len(text))
}
