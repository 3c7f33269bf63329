package report

// A kind is what was attacked, in the terms of each collector.
type kind struct {
	name       string // for people
	categories string // of AbuseIPDB, by number
	service    string // of blocklist.de
	category   string // of a community server
}

// The categories of AbuseIPDB: 5 FTP brute force, 8 fraud VoIP, 15 hacking, 18 brute force, 19 bad web bot, 21 attack on a web application, 22 SSH.
var (
	ssh     = kind{"SSH", "18,22", "ssh", "ssh"}
	ftp     = kind{"FTP", "5,18", "ftp", "login"}
	mail    = kind{"a mail server", "18", "mail", "mail"}
	imap    = kind{"IMAP or POP3", "18", "imap", "login"}
	sip     = kind{"a telephone server", "8,18", "sip", "telephone"}
	webApp  = kind{"a web application", "18,21", "apache", "web"}
	webSite = kind{"a web server", "19,21", "apache", "web"}
	other   = kind{"a login service", "15,18", "bruteforcelogin", "login"}
)

// kinds are the kinds of services, by the service of their rules. Those that are missing are other.
var kinds = map[string]kind{
	"sshd": ssh, "dropbear": ssh, "endlessh": ssh,
	"vsftpd": ftp, "proftpd": ftp, "pure-ftpd": ftp, "ftpd": ftp,
	"postfix": mail, "exim": mail, "sendmail": mail, "opensmtpd": mail, "rspamd": mail,
	"dovecot": imap, "courier": imap, "cyrus": imap, "uwimap": imap, "perdition": imap,
	"asterisk": sip, "freeswitch": sip,
	"web": webSite, "apache": webApp, "nginx": webApp, "lighttpd": webApp, "caddy": webApp, "traefik": webApp, "haproxy": webApp,
	"wordpress": webApp, "drupal": webApp, "nextcloud": webApp, "phpmyadmin": webApp, "roundcube": webApp, "sogo": webApp, "gitea": webApp,
	"gitlab": webApp, "grafana": webApp, "keycloak": webApp, "authelia": webApp, "authentik": webApp, "vaultwarden": webApp, "jellyfin": webApp,
}

// Category returns the category of a service in reports to a community server.
func Category(service string) string {
	if service == "portscan" || service == "scan" {
		return "scan"
	}
	return kindOf(service).category
}

// kindOf returns the kind of a service.
func kindOf(service string) kind {
	if k, ok := kinds[service]; ok {
		return k
	}
	return other
}
