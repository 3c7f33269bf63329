package gen

// A client is the kind of peer at the other end of a dialogue.
type client int

const (
	nobody  client = iota // a local program
	hostile               // one of Config.Attackers, by Zipf's law
	stray                 // an address that is rarely seen twice
	stray4                // the same, IPv4 only
	friend                // a user of this server, at home
)

// A dialogue is the messages of a service about one client, one template per line:
//
//	%S  sshd or sshd-session    %i  process ID        %u  user
//	%a  client's address        %p  client's port     %s  session or queue ID
//	%l  server's address        %d  a digit           %n  a larger number
type dialogue struct {
	weight int
	client client
	lines  []string
}

// guesses are the user names that attackers try.
var guesses = []string{
	"admin", "test", "user", "ubuntu", "oracle", "postgres", "git", "ftpuser", "deploy", "pi", "guest", "mysql", "hadoop",
	"jenkins", "www", "web", "backup", "support", "info", "sales", "tomcat", "nagios", "minecraft", "steam", "student",
	"es", "elastic", "dev", "docker", "ansible", "vagrant", "debian", "centos", "ec2-user", "azureuser", "sysadmin",
	"operator", "monitor", "zabbix", "redis", "mongo", "solana", "validator", "node", "eth", "vpn", "teamspeak", "app",
	"weblogic", "demo", "scanner", "printer", "office", "kafka", "spark", "gitlab", "nginx", "apache", "bob", "tom",
}

// accounts are the users that exist on the server.
var accounts = []string{"alice", "bruno", "chen", "dora", "emil", "fatima", "greta", "hugo", "ines", "jonas", "kira", "liam"}

// dialogues are the conversations of each service. Sources of the wording: OpenSSH auth.c, sshd.c, packet.c, monitor.c and
// Linux-PAM pam_unix; Postfix smtpd.c, smtpd_sasl_glue.c, cleanup_message.c, qmgr_active.c; Dovecot login-common; cron's
// misc.c; sudo's log_client; systemd logind-session.c; the kernel's nf_log_syslog with ufw's prefixes.
var dialogues = [services][]dialogue{
	SSHD: {
		{20, hostile, []string{
			"%S[%i]: Invalid user %u from %a port %p",
			"%S[%i]: pam_unix(sshd:auth): check pass; user unknown",
			"%S[%i]: pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=%a",
			"%S[%i]: Failed password for invalid user %u from %a port %p ssh2",
			"%S[%i]: Connection closed by invalid user %u %a port %p [preauth]",
		}},
		{14, hostile, []string{
			"%S[%i]: Invalid user %u from %a port %p",
			"%S[%i]: pam_unix(sshd:auth): check pass; user unknown",
			"%S[%i]: pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=%a",
			"%S[%i]: Failed password for invalid user %u from %a port %p ssh2",
			"%S[%i]: Received disconnect from %a port %p:11: Bye Bye [preauth]",
			"%S[%i]: Disconnected from invalid user %u %a port %p [preauth]",
		}},
		{16, hostile, []string{
			"%S[%i]: pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=%a  user=root",
			"%S[%i]: Failed password for root from %a port %p ssh2",
			"%S[%i]: Connection closed by authenticating user root %a port %p [preauth]",
		}},
		{6, hostile, []string{
			"%S[%i]: pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=%a  user=root",
			"%S[%i]: Failed password for root from %a port %p ssh2",
			"%S[%i]: Failed password for root from %a port %p ssh2",
			"%S[%i]: Failed password for root from %a port %p ssh2",
			"%S[%i]: error: maximum authentication attempts exceeded for root from %a port %p ssh2 [preauth]",
			"%S[%i]: Disconnecting authenticating user root %a port %p: Too many authentication failures [preauth]",
			"%S[%i]: PAM 2 more authentication failures; logname= uid=0 euid=0 tty=ssh ruser= rhost=%a  user=root",
		}},
		{12, stray, []string{"%S[%i]: Connection closed by %a port %p"}},
		{6, stray, []string{"%S[%i]: Connection closed by %a port %p [preauth]"}},
		{5, stray, []string{"%S[%i]: Connection reset by %a port %p"}},
		{4, stray, []string{"%S[%i]: banner exchange: Connection from %a port %p: invalid format"}},
		{3, stray, []string{
			"%S[%i]: error: kex_exchange_identification: Connection closed by remote host",
			"%S[%i]: Connection closed by %a port %p",
		}},
		{3, stray, []string{
			"%S[%i]: error: kex_exchange_identification: client sent invalid protocol identifier \"GET / HTTP/1.1\"",
			"%S[%i]: banner exchange: Connection from %a port %p: invalid format",
		}},
		{3, stray, []string{
			"%S[%i]: error: kex_exchange_identification: read: Connection reset by peer",
			"%S[%i]: Connection reset by %a port %p",
		}},
		{2, stray, []string{
			"%S[%i]: Unable to negotiate with %a port %p: no matching host key type found. Their offer: ssh-rsa,ssh-dss [preauth]",
		}},
		{1, stray, []string{
			"%S[%i]: Unable to negotiate with %a port %p: no matching key exchange method found. " +
				"Their offer: diffie-hellman-group14-sha1,diffie-hellman-group1-sha1 [preauth]",
		}},
		{1, hostile, []string{"%S[%i]: drop connection #%d from [%a]:%p on [%l]:22 past MaxStartups"}},
		{1, stray, []string{"%S[%i]: fatal: Timeout before authentication for %a port %p"}},
		{5, friend, []string{
			"%S[%i]: Accepted publickey for %u from %a port %p ssh2: ED25519 SHA256:h8Vn3Yk0Zq1TtC5x7rWb2mPdLsE9uJfA6gKoRiNvQyc",
			"%S[%i]: pam_unix(sshd:session): session opened for user %u(uid=1000) by (uid=0)",
			"%S[%i]: Received disconnect from %a port %p:11: disconnected by user",
			"%S[%i]: Disconnected from user %u %a port %p",
			"%S[%i]: pam_unix(sshd:session): session closed for user %u",
		}},
		{1, friend, []string{
			"%S[%i]: pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=%a  user=%u",
			"%S[%i]: Failed password for %u from %a port %p ssh2",
			"%S[%i]: Accepted password for %u from %a port %p ssh2",
			"%S[%i]: pam_unix(sshd:session): session opened for user %u(uid=1000) by (uid=0)",
			"%S[%i]: Disconnected from user %u %a port %p",
			"%S[%i]: pam_unix(sshd:session): session closed for user %u",
		}},
	},
	Postfix: {
		{10, hostile, []string{
			"postfix/smtpd[%i]: connect from unknown[%a]",
			"postfix/smtpd[%i]: warning: unknown[%a]: SASL LOGIN authentication failed: UGFzc3dvcmQ6",
			"postfix/smtpd[%i]: disconnect from unknown[%a] ehlo=1 auth=0/1 quit=1 commands=2/3",
		}},
		{5, hostile, []string{
			"postfix/submission/smtpd[%i]: connect from unknown[%a]",
			"postfix/submission/smtpd[%i]: warning: unknown[%a]: SASL PLAIN authentication failed: authentication failure, sasl_username=%u@example.org",
			"postfix/submission/smtpd[%i]: lost connection after AUTH from unknown[%a]",
			"postfix/submission/smtpd[%i]: disconnect from unknown[%a] ehlo=1 starttls=1 auth=0/1 commands=2/3",
		}},
		{4, stray, []string{
			"postfix/smtpd[%i]: connect from unknown[%a]",
			"postfix/smtpd[%i]: lost connection after CONNECT from unknown[%a]",
			"postfix/smtpd[%i]: disconnect from unknown[%a] commands=0/0",
		}},
		{2, stray, []string{
			"postfix/smtps/smtpd[%i]: connect from unknown[%a]",
			"postfix/smtps/smtpd[%i]: SSL_accept error from unknown[%a]: lost connection",
			"postfix/smtps/smtpd[%i]: lost connection after CONNECT from unknown[%a]",
			"postfix/smtps/smtpd[%i]: disconnect from unknown[%a] commands=0/0",
		}},
		{2, stray, []string{
			"postfix/smtpd[%i]: connect from unknown[%a]",
			"postfix/smtpd[%i]: NOQUEUE: reject: RCPT from unknown[%a]: 454 4.7.1 <relay%n@example.com>: Relay access denied; " +
				"from=<%u@example.net> to=<relay%n@example.com> proto=ESMTP helo=<client%d>",
			"postfix/smtpd[%i]: disconnect from unknown[%a] ehlo=1 mail=1 rcpt=0/1 quit=1 commands=3/4",
		}},
		{14, friend, []string{
			"postfix/smtpd[%i]: connect from mx%d.example.net[%a]",
			"postfix/smtpd[%i]: %s: client=mx%d.example.net[%a]",
			"postfix/cleanup[%i]: %s: message-id=<20260102030405.%n@example.net>",
			"postfix/qmgr[731]: %s: from=<%u@example.net>, size=%n, nrcpt=1 (queue active)",
			"postfix/smtpd[%i]: disconnect from mx%d.example.net[%a] ehlo=2 starttls=1 mail=1 rcpt=1 data=1 quit=1 commands=7",
			"postfix/lmtp[%i]: %s: to=<%u@example.org>, relay=mail.example.org[private/dovecot-lmtp], delay=0.3%d, " +
				"delays=0.2%d/0.01/0.01/0.05, dsn=2.0.0, status=sent (250 2.0.0 <%u@example.org> %s Saved)",
			"postfix/qmgr[731]: %s: removed",
		}},
		{1, nobody, []string{
			"postfix/anvil[%i]: statistics: max connection rate %d/60s for (smtp:192.0.2.10) at Jan  2 03:04:05",
			"postfix/anvil[%i]: statistics: max cache size %d at Jan  2 03:04:05",
		}},
	},
	Dovecot: {
		{8, hostile, []string{
			"dovecot: imap-login: Disconnected: Connection closed (auth failed, %d attempts in %d secs): user=<%u>, method=PLAIN, rip=%a, lip=%l, TLS, session=<%s>",
		}},
		{4, hostile, []string{
			"dovecot: auth-worker(%i): conn unix:auth-worker (pid=812,uid=110): auth-worker<%d>: pam(%u,%a,<%s>): unknown user",
			"dovecot: pop3-login: Disconnected (auth failed, 1 attempts in %d secs): user=<%u>, method=PLAIN, rip=%a, lip=%l, session=<%s>",
		}},
		{4, stray, []string{
			"dovecot: imap-login: Disconnected: Connection closed (no auth attempts in %d secs): user=<>, rip=%a, lip=%l, TLS, session=<%s>",
		}},
		{2, stray, []string{
			"dovecot: pop3-login: Disconnected: Too many bad commands (no auth attempts in 0 secs): user=<>, rip=%a, lip=%l, session=<%s>",
		}},
		{20, friend, []string{
			"dovecot: imap-login: Login: user=<%u>, method=PLAIN, rip=%a, lip=%l, mpid=%i, TLS, session=<%s>",
			"dovecot: imap(%u)<%i><%s>: Disconnected: Logged out in=%n out=%n deleted=0 expunged=0 trashed=0 hdr_count=%d hdr_bytes=%n body_count=0 body_bytes=0",
		}},
		{3, friend, []string{
			"dovecot: lmtp(%i): Connect from local",
			"dovecot: lmtp(%u)<%i><%s>: msgid=<20260102030405.%n@example.net>: saved mail to INBOX",
			"dovecot: lmtp(%i): Disconnect from local: Logged out (state=READY)",
		}},
	},
	Cron: {
		{1, nobody, []string{
			"CRON[%i]: pam_unix(cron:session): session opened for user root(uid=0) by (uid=0)",
			"CRON[%i]: (root) CMD (   cd / && run-parts --report /etc/cron.hourly)",
			"CRON[%i]: pam_unix(cron:session): session closed for user root",
		}},
		{2, nobody, []string{
			"CRON[%i]: pam_unix(cron:session): session opened for user www-data(uid=33) by (uid=0)",
			"CRON[%i]: (www-data) CMD (php -f /var/www/cloud/cron.php)",
			"CRON[%i]: pam_unix(cron:session): session closed for user www-data",
		}},
	},
	Kernel: {
		{10, stray4, []string{
			"kernel: [%n.%n] [UFW BLOCK] IN=eth0 OUT= MAC=02:42:c6:33:64:0a:02:42:c6:33:64:01:08:00 SRC=%a DST=%l LEN=40 TOS=0x00 " +
				"PREC=0x00 TTL=24%d ID=%n PROTO=TCP SPT=%p DPT=2%d WINDOW=1024 RES=0x00 SYN URGP=0 ",
		}},
		{2, stray4, []string{
			"kernel: [%n.%n] [UFW BLOCK] IN=eth0 OUT= MAC=02:42:c6:33:64:0a:02:42:c6:33:64:01:08:00 SRC=%a DST=%l LEN=7%d TOS=0x00 " +
				"PREC=0x00 TTL=5%d ID=%n DF PROTO=UDP SPT=%p DPT=53 LEN=5%d ",
		}},
	},
	Logind: {
		{1, friend, []string{
			"systemd-logind[611]: New session %d%d of user %u.",
			"systemd-logind[611]: Session %d%d logged out. Waiting for processes to exit.",
			"systemd-logind[611]: Removed session %d%d.",
		}},
	},
	Sudo: {
		{1, friend, []string{
			"sudo:    %u : TTY=pts/%d ; PWD=/home/%u ; USER=root ; COMMAND=/usr/bin/systemctl status nginx",
			"sudo: pam_unix(sudo:session): session opened for user root(uid=0) by %u(uid=1000)",
			"sudo: pam_unix(sudo:session): session closed for user root",
		}},
	},
}
