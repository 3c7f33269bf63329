package tdfa

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
)

// Patterns in the manner of a log filter: anchored, each with the groups that one needs.
var (
	sshd = []string{
		`^Failed (?:password|none|publickey) for (?P<user>.*) from (?P<addr>\S+) port \d+(?: ssh\d*)?$`,
		`^Failed (?:password|none|publickey) for invalid user (?P<user>.*) from (?P<addr>\S+) port \d+(?: ssh\d*)?$`,
		`^Failed keyboard-interactive/pam for (?:invalid user )?(?P<user>.*) from (?P<addr>\S+) port \d+(?: ssh\d*)?$`,
		`^Invalid user (?P<user>.*) from (?P<addr>\S+)(?: port \d+)?$`,
		`^Illegal user (?P<user>.*) from (?P<addr>\S+)$`,
		`^error: PAM: Authentication failure for (?P<user>.*) from (?P<addr>\S+)$`,
		`^error: PAM: User not known to the underlying authentication module for illegal user (?P<user>.*) from (?P<addr>\S+)$`,
		`^error: maximum authentication attempts exceeded for (?:invalid user )?(?P<user>.*) from (?P<addr>\S+) port \d+ ssh2(?: \[preauth\])?$`,
		`^User (?P<user>.+) from (?P<addr>\S+) not allowed because not listed in AllowUsers$`,
		`^User (?P<user>.+) from (?P<addr>\S+) not allowed because listed in DenyUsers$`,
		`^User (?P<user>.+) from (?P<addr>\S+) not allowed because none of user's groups are listed in AllowGroups$`,
		`^ROOT LOGIN REFUSED FROM (?P<addr>\S+)(?: port \d+)?$`,
		`^Did not receive identification string from (?P<addr>\S+)(?: port \d+)?$`,
		`^Bad protocol version identification '(?P<what>.*)' from (?P<addr>\S+)(?: port \d+)?$`,
		`^Connection closed by (?P<addr>\S+) port \d+ \[preauth\]$`,
		`^Connection reset by (?P<addr>\S+) port \d+ \[preauth\]$`,
		`^Connection closed by authenticating user (?P<user>.*) (?P<addr>\S+) port \d+ \[preauth\]$`,
		`^Connection closed by invalid user (?P<user>.*) (?P<addr>\S+) port \d+ \[preauth\]$`,
		`^Disconnected from authenticating user (?P<user>.*) (?P<addr>\S+) port \d+ \[preauth\]$`,
		`^Disconnected from invalid user (?P<user>.*) (?P<addr>\S+) port \d+ \[preauth\]$`,
		`^Disconnecting(?: from)? (?:invalid|authenticating) user (?P<user>.*) (?P<addr>\S+) port \d+: Too many authentication failures \[preauth\]$`,
		`^Unable to negotiate with (?P<addr>\S+) port \d+: no matching .* found\. Their offer: .*$`,
		`^banner exchange: Connection from (?P<addr>\S+) port \d+: invalid format$`,
		`^kex_exchange_identification: (?:client sent invalid protocol identifier|banner line contains invalid characters)(?P<what>.*)$`,
		`^Accepted (?P<method>\S+) for (?P<user>.*) from (?P<addr>\S+) port \d+(?: ssh2)?(?:: .*)?$`,
		`^Received disconnect from (?P<addr>\S+) port \d+:\d+: (?P<what>.*)$`,
		`^pam_unix\(sshd:auth\): authentication failure; .* rhost=(?P<addr>\S+)(?:\s+user=(?P<user>.*))?$`,
		`^Timeout before authentication for (?P<addr>\S+) port \d+$`,
		`^refused connect from \S+ \((?P<addr>\S+)\)$`,
		`^Postponed keyboard-interactive for (?:invalid user )?(?P<user>.*) from (?P<addr>\S+) port \d+ ssh2 \[preauth\]$`,
	}
	postfix = []string{
		`^NOQUEUE: reject: RCPT from [^\[]*\[(?P<addr>[^\]]+)\](?::\d+)?: (?P<code>[45]\d\d) [^:]*: (?P<what>.*)$`,
		`^warning: [^\[]*\[(?P<addr>[^\]]+)\]: SASL (?P<method>\S+) authentication failed: (?P<what>.*)$`,
		`^lost connection after (?P<what>\S+) from [^\[]*\[(?P<addr>[^\]]+)\]$`,
		`^improper command pipelining after (?P<what>\S+) from [^\[]*\[(?P<addr>[^\]]+)\]: `,
		`^too many errors after (?P<what>\S+)(?: \(\d+ bytes\))? from [^\[]*\[(?P<addr>[^\]]+)\]$`,
	}
	dovecot = []string{
		`^(?:imap|pop3|submission|managesieve)-login: (?:Info: )?(?:Disconnected|Aborted login)(?:: [^(]*)? \(auth failed, (?P<count>\d+) attempts in \d+ secs\): user=<(?P<user>[^>]*)>,(?: method=\S+,)? rip=(?P<addr>[^,]+), lip=`,
		`^(?:imap|pop3)-login: (?:Info: )?Login: user=<(?P<user>[^>]*)>, method=\S+, rip=(?P<addr>[^,]+), lip=`,
		`^auth(?:-worker)?(?:\(\d+\))?: (?:Info: )?(?:sql|passwd-file|pam)\((?P<user>[^,]*),(?P<addr>[^,)]+)(?:,<[^>]*>)?\): (?:unknown user|[Pp]assword mismatch)`,
	}
	floating = []string{
		`authentication failure;.* rhost=(?P<addr>\S+)`,
		`[Ll]ogin failed for (?P<user>\S+) from (?P<addr>\S+)`,
		`client denied by server configuration: (?P<what>.*)`,
		`user (?P<user>\S+) not found: (?P<what>/\S*)`,
		`invalid password for '(?P<user>[^']*)' \(ip (?P<addr>[^)]+)\)`,
	}
)

const failedPassword = "Failed password for invalid user administrator from 2001:db8:1234:5678:9abc:def0:1234:5678 port 51514 ssh2"

func BenchmarkMatch(b *testing.B) {
	for _, bb := range []struct {
		name     string
		patterns []string
		text     string
		matches  bool
	}{
		{"sshd/match", sshd, failedPassword, true},
		{"sshd/short", sshd, "Invalid user admin from 192.0.2.17 port 40022", true},
		{"sshd/closed", sshd, "Connection closed by authenticating user root 192.0.2.17 port 40022 [preauth]", true},
		{"sshd/pam", sshd, "pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=192.0.2.17  user=root", true},
		{"sshd/dies early", sshd, "session opened for user root(uid=0) by (uid=0), a line that no pattern wants", false},
		{"sshd/dies late", sshd, "Failed password for invalid user administrator from 192.0.2.17 port 51514 ssh2 and then something else", false},
		{"postfix/match", postfix, "NOQUEUE: reject: RCPT from unknown[192.0.2.17]: 554 5.7.1 <a@example.com>: Relay access denied; from=<b@example.com>", true},
		{"postfix/open end", postfix, "improper command pipelining after EHLO from mail.example.com[192.0.2.17]: QUIT\\r\\n", true},
		{"dovecot/match", dovecot, "imap-login: Disconnected (auth failed, 3 attempts in 12 secs): user=<bob@example.com>, method=PLAIN, rip=192.0.2.17, lip=198.51.100.1, TLS", true},
		{"floating/miss", floating, "Accepted publickey for deploy from 192.0.2.17 port 40022 ssh2: RSA SHA256:nThbg6kXUpJWGl7E1IGOCspRomTxdC", false},
		{"floating/match", floating, "[Sat] [error] [client 192.0.2.17:5000] AH01797: client denied by server configuration: /var/www/html/x", true},
		{"floating/non-ascii", floating, "ошибка входа пользователя администратор с адреса 192.0.2.17", false},
		{"wildcard", []string{`(.*)(.*)(.*)from (\S+)`}, failedPassword, true},
	} {
		text := []byte(bb.text)
		b.Run(bb.name+"/tdfa", func(b *testing.B) {
			p := mustCompile(b, bb.patterns...)
			m := p.NewMachine()
			loc := make([]int, p.LocLen())
			if _, ok := m.Match(text, loc); ok != bb.matches {
				b.Fatalf("match is %v", ok)
			}
			b.ReportAllocs()
			for b.Loop() {
				m.Match(text, loc)
			}
			b.ReportMetric(float64(len(m.states)), "states")
		})
		b.Run(bb.name+"/regexp", func(b *testing.B) {
			re := regexp.MustCompile("(?:" + strings.Join(bb.patterns, ")|(?:") + ")")
			for b.Loop() {
				re.FindSubmatchIndex(text)
			}
		})
	}
}

// BenchmarkMixed has a different text each time, which the processor cannot learn by heart.
func BenchmarkMixed(b *testing.B) {
	g := generator{rand.New(rand.NewPCG(5, 6))}
	var texts [][]byte
	total := 0
	for range 1024 {
		user := strings.Repeat(g.pick("a", "admin", "test user", "é"), 1+g.IntN(3))
		host := fmt.Sprintf("%d.%d.%d.%d", g.IntN(256), g.IntN(256), g.IntN(256), g.IntN(256))
		port := g.IntN(1 << 16)
		text := g.pick(
			fmt.Sprintf("Failed password for %s from %s port %d ssh2", user, host, port),
			fmt.Sprintf("Failed password for invalid user %s from %s port %d ssh2", user, host, port),
			fmt.Sprintf("Invalid user %s from %s port %d", user, host, port),
			fmt.Sprintf("Connection closed by invalid user %s %s port %d [preauth]", user, host, port),
			fmt.Sprintf("Received disconnect from %s port %d:11: Bye Bye [preauth]", host, port),
			fmt.Sprintf("pam_unix(sshd:session): session opened for user %s(uid=%d) by (uid=0)", user, port),
		)
		texts = append(texts, []byte(text))
		total += len(text)
	}
	for name, patterns := range map[string][]string{"sshd": sshd, "floating": floating} {
		b.Run(name, func(b *testing.B) {
			p := mustCompile(b, patterns...)
			m := p.NewMachine()
			loc := make([]int, p.LocLen())
			b.ReportAllocs()
			b.SetBytes(int64(total / len(texts)))
			for i := 0; b.Loop(); i++ {
				m.Match(texts[i%len(texts)], loc)
			}
			b.ReportMetric(float64(len(m.states)), "states")
		})
	}
}

// BenchmarkCold builds the states for one text anew each time.
func BenchmarkCold(b *testing.B) {
	p := mustCompile(b, sshd...)
	m := p.NewMachine()
	for b.Loop() {
		m.flush(0)
		m.Match([]byte(failedPassword), nil)
	}
}

func BenchmarkCompile(b *testing.B) {
	for b.Loop() {
		mustCompile(b, sshd...)
	}
}
