package mefconf

import (
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/conf/ini"
	"mef/internal/duration"
)

// Why keys of MEF 1.0 do not do what they did there.
const (
	noticePlacement = "accepted and ignored, the table is always inet mefdaemon"
	noticeNFLOG     = "accepted without effect, the kernel itself examines packets and reports them by NFLOG"
	noticeMetrics   = "accepted without effect, mefctl status shows the numbers"
	noticeShortScan = "accepted without effect, the source of a scan can be forged, so its bans last 10m at most"
	noticeCommunity = "with community_cloud_lookup=feed no addresses are looked up: ignored"
	noticeJoin      = "mefctl cloud join names the server: ignored"
	noticeFastPath  = "the fast path is not built yet, lists are enforced in the ordinary table"
	noticeDebugLog  = "accepted and ignored, the daemon logs to standard error and so to the journal"
	noticeForged    = "the source of a scan or flood can be forged, so nothing is dropped for longer than 10m"
	noticeAnswers   = "answers outside 127.0.0.0/8 and in 127.255.255.0/24 are errors of the list, never listings"
)

// keys are the keys of mef.conf, section [global], in the order of the documentation.
var keys = ini.Table[conf.Config]{
	{Name: "mode", Value: "enforce", Form: ini.Choice(func(c *conf.Config, i int) { c.Observe = i == 1 }, "enforce", "observe"),
		Doc: "with observe, bans are logged, not applied"},

	{Name: "rules_dir", Value: "/etc/mef/rules.d", Form: ini.Path(ini.MaxPath, func(c *conf.Config) *string { return &c.Paths.RulesDir }),
		Doc: "detection rules, files *.conf"},
	{Name: "webscan_dir", Value: defaultWebscanDir, Form: ini.Path(ini.MaxPath, func(c *conf.Config) *string { return &c.Paths.WebscanDir }),
		Doc: "rules with engine=webscan, files *.conf; if missing, webscan.d beside rules_dir"},
	{Name: "whitelist_dir", Value: "/etc/mef/whitelist", Form: ini.Path(ini.MaxPath, func(c *conf.Config) *string { return &c.Paths.WhitelistDir }),
		Doc: "addresses that are never banned, files *.conf"},
	{Name: "blacklist_dir", Value: "/etc/mef/blacklist", Form: ini.Path(ini.MaxPath, func(c *conf.Config) *string { return &c.Paths.BlacklistDir }),
		Doc: "addresses that are always banned, files *.conf"},
	{Name: "cache_dir", Value: conf.DefaultStateDir, Form: ini.Path(ini.MaxPath, func(c *conf.Config) *string { return &c.Paths.StateDir }),
		Doc: "state of the daemon; a directory below /etc, or one that it cannot write, is replaced by " + conf.DefaultStateDir},
	{Name: "control_socket", Value: "/run/mef/mefdaemon.sock", Form: ini.Path(ini.MaxSocket, func(c *conf.Config) *string { return &c.Paths.ControlSocket }),
		Doc: "unix socket through which mefctl controls the daemon"},
	{Name: "page", Form: address(false, func(c *conf.Config) *string { return &c.Page.Address }),
		Doc: "where mefpage serves the operator's page: the path of a unix socket, or an address and port; off if empty"},
	{Name: "page_groups", Value: "mef:operator", Form: pageGroups(func(c *conf.Config) *[]conf.PageGroup { return &c.Page.Groups }),
		Doc: "at a unix socket, the groups whose members may use the page, with their roles: read; support, which may lift bans; operator"},
	{Name: "page_password_file", Value: "/etc/mef/page.passwd", Form: ini.Path(ini.MaxPath, func(c *conf.Config) *string { return &c.Page.PasswordFile }),
		Doc: "at an address, the users of the page with their roles, as mefctl page password writes it"},
	{Name: "page_certificate", Form: optionalPath(func(c *conf.Config) *string { return &c.Page.Certificate }),
		Doc: "certificate chain of the page, PEM; if empty, plain HTTP at a loopback address, otherwise a self-signed certificate that the daemon makes in cache_dir"},
	{Name: "page_key", Form: optionalPath(func(c *conf.Config) *string { return &c.Page.Key }),
		Doc: "private key of page_certificate: owner root, group mef, mode 640"},
	{Name: "metrics", Form: address(true, func(c *conf.Config) *string { return &c.Page.Metrics }),
		Doc: "where mefpage serves metrics for Prometheus, at /metrics: the path of a unix socket, or a loopback address and port; off if empty"},
	{Name: "block_page", Value: "0", Form: ini.Number(0, 65534, func(c *conf.Config) *int { return &c.Page.BlockPort }),
		Doc: "port of this host at which clients that are banned on some ports, port 80 or 443 among them, are told that they are banned; mef.rules must accept it; 0: none"},
	{Name: "block_page_contact", Form: ini.Text(200, func(c *conf.Config) *string { return &c.Page.BlockContact }),
		Doc: "whom that page names to ask, such as an address of mail"},
	{Name: "block_page_certificate", Form: optionalPath(func(c *conf.Config) *string { return &c.Page.BlockCertificate }),
		Doc: "certificate chain of the web server, PEM, with which that page is also served for port 443, at the port after block_page; if empty, connections to port 443 are reset"},
	{Name: "block_page_key", Form: optionalPath(func(c *conf.Config) *string { return &c.Page.BlockKey }),
		Doc: "private key of block_page_certificate: owner root, group mef, mode 640"},
	{Name: "block_page_sum", Value: "0", Form: ini.Number(0, 10, func(c *conf.Config) *int { return &c.Page.BlockSum }),
		Doc: "how many times a day a client may lift its own ban on that page by solving a sum, if a rule made the ban and it has an end; 0: never"},
	{Name: "block_page_sum_total", Value: "100", Form: ini.Number(1, 10000, func(c *conf.Config) *int { return &c.Page.BlockSumTotal }),
		Doc: "how many times a day all clients together may do that"},
	{Name: "whitelist_reload", Value: "1m", Form: reload(func(c *conf.Config) *time.Duration { return &c.WhitelistReload }),
		Doc: "how often whitelist files are read again in case a change was missed; with 0 or false, only mefctl reload does that"},
	{Name: "blacklist_reload", Value: "1m", Form: reload(func(c *conf.Config) *time.Duration { return &c.BlacklistReload }),
		Doc: "how often blacklist files are read again in case a change was missed; with 0 or false, only mefctl reload does that"},
	{Name: "blacklist_fastpath", Value: "auto", Form: ini.Choice(ini.Dropped[conf.Config], "auto", "xdp", "tc", "disabled"),
		Doc: "where blacklisted addresses are dropped before they reach the table", Notice: noticeFastPath, When: ini.Is("xdp", "tc")},
	{Name: "blacklist_fastpath_xdp_mode", Value: "auto", Form: ini.Choice(ini.Dropped[conf.Config], "auto", "native", "generic"),
		Doc: "XDP attach mode", Notice: noticeFastPath, When: ini.IsNot("auto")},

	{Name: "debug", Value: "false", Form: ini.Choice(func(c *conf.Config, i int) { c.LogLevel = []slog.Level{slog.LevelDebug, slog.LevelInfo}[i] }, "true", "false"),
		Doc: "log at level debug"},
	{Name: "debug_log", Value: "/tmp/mef.txt", Form: ini.Path(ini.MaxPath, ini.Nowhere[conf.Config, string]),
		Doc: "a second log", Notice: noticeDebugLog},
	{Name: "ban_log_enabled", Value: "false", Form: ini.Bool(func(c *conf.Config) *bool { return &c.EventLog }),
		Doc: "write every event and ban to a file as a line of JSON"},
	{Name: "ban_log_path", Value: conf.DefaultEventLog, Form: ini.Path(ini.MaxPath, func(c *conf.Config) *string { return &c.EventLogPath }),
		Doc: "file for ban_log_enabled; one that the daemon cannot write is replaced by " + conf.DefaultEventLog},
	{Name: "clear_bans_on_stop", Value: "false", Form: ini.Bool(func(c *conf.Config) *bool { return &c.ClearOnStop }),
		Doc: "lift all bans when the daemon stops, instead of leaving them to the kernel until they end"},

	{Name: "journal_since", Value: "2 min ago", Form: since(func(c *conf.Config) *time.Duration { return &c.JournalSince }),
		Doc: "how far back the journal is read when there is no saved position"},
	{Name: "journal_mode", Value: "all", Form: ini.Choice(ini.Dropped[conf.Config], "all", "exec"),
		Doc: "how the journal is read; without effect, journalctl is always used"},
	{Name: "file_recent_limit", Value: "200", Form: ini.Number(0, 100000, func(c *conf.Config) *int { return &c.FileRecent.Lines }),
		Doc: "how many lines are read from the end of a file without a saved position; 0: no limit"},
	{Name: "file_recent_window", Value: "24h", Form: ini.Duration(0, duration.Year, func(c *conf.Config) *time.Duration { return &c.FileRecent.Window }),
		Doc: "maximum age of the lines read from such a file; 0: no limit"},
	{Name: "syslog_listen", Form: syslogSockets(),
		Doc: "sockets on which syslog messages are received, in addition to the journal and log files"},
	{Name: "syslog_senders", Form: ini.List("addresses and prefixes such as 192.0.2.7,2001:db8::/32", isPrefix, func(c *conf.Config) *[]string { return &c.Syslog.Senders }),
		Doc: "hosts whose messages over UDP and TCP are trusted; messages of other hosts are refused, those of this host lead to short bans only"},
	{Name: "stdin", Value: "false", Form: ini.Bool(func(c *conf.Config) *bool { return &c.Stdin }),
		Doc: "read log lines from standard input"},

	{Name: "ipv6_prefix", Value: "64", Form: prefixLength(func(c *conf.Config) *int { return &c.IPv6Prefix }),
		Doc: "prefix length by which IPv6 sources are counted, and banned once a second address of the prefix attacks"},
	{Name: "nat64_prefixes", Form: ini.List("IPv6 prefixes such as 2001:db8:64::/96, with commas", isPrefix, func(c *conf.Config) *[]string { return &c.NAT64 }),
		Doc: "IPv6 networks of NAT64 translators, whose addresses are counted one by one, in addition to 64:ff9b::/96 and 64:ff9b:1::/48"},
	{Name: "protect_groups", Value: "sudo,wheel,admin", Form: ini.List("names of groups, with commas", ini.IsName, func(c *conf.Config) *[]string { return &c.ProtectGroups }),
		Doc: "an address from which root or a member of these groups is logged in over SSH is not banned on the SSH ports"},
	{Name: "proxies", Form: ini.List("addresses and prefixes such as 192.0.2.7,2001:db8::/32", isPrefix, func(c *conf.Config) *[]string { return &c.Proxies }),
		Doc: "reverse proxies and CDNs in front of this host: ports 80 and 443 stay open to them"},

	{Name: "geo_databases", Form: ini.List("absolute paths of mmdb files, with commas", isDatabase, func(c *conf.Config) *[]string { return &c.GeoDatabases }),
		Doc: "databases of countries and autonomous systems for sections [access NAME] and for what mefctl shows, such as /var/lib/GeoIP/GeoLite2-Country.mmdb; the first one with countries and the first one with autonomous systems count"},

	{Name: "score_failure", Value: "10", Form: ini.Number(0, 1000, func(c *conf.Config) *int { return &c.Score.Failure }),
		Doc: "points of a failed login in the score across services"},
	{Name: "score_contested", Value: "25", Form: ini.Number(0, 1000, func(c *conf.Config) *int { return &c.Score.Contested }),
		Doc: "points of a failed login with a user name that has never logged in here and that other networks try"},
	{Name: "score_unknown_user", Value: "35", Form: ini.Number(0, 1000, func(c *conf.Config) *int { return &c.Score.Absent }),
		Doc: "points of the first attempt with a user name that the service reports as unknown; set it to score_failure to count such names like others"},
	{Name: "score_hot_name", Value: "100", Form: ini.Number(0, 1000, func(c *conf.Config) *int { return &c.Score.Hot }),
		Doc: "points of an unknown user name that other networks try too; 0 counts such names like other unknown ones"},
	{Name: "starter_names", Value: "true", Form: ini.Bool(func(c *conf.Config) *bool { return &c.StarterNames }),
		Doc: "use the built-in list of user names that attackers try on any server, such as admin and test"},
	{Name: "canaries", Form: ini.List("user names, with commas", ini.IsName, func(c *conf.Config) *[]string { return &c.Canaries }),
		Doc: "user names that nobody has: one attempt with such a name leads to a ban; empty: none"},
	{Name: "login_alarms", Value: "true", Form: ini.Bool(func(c *conf.Config) *bool { return &c.LoginAlarms }),
		Doc: "report the first login from an address that has attacked, or of a user whose name is being guessed"},
	{Name: "score_probe", Value: "3", Form: ini.Number(0, 1000, func(c *conf.Config) *int { return &c.Score.Probe }),
		Doc: "points of a connection without credentials (a probe)"},
	{Name: "score_unverified", Value: "2", Form: ini.Number(0, 1000, func(c *conf.Config) *int { return &c.Score.Unverified }),
		Doc: "points of an event whose source can be forged"},
	{Name: "score_halflife", Value: "14d", Form: ini.Duration(time.Minute, 30*duration.Day, func(c *conf.Config) *time.Duration { return &c.Score.HalfLife }),
		Doc: "time in which points lose half their value; with 1m, only the latest minutes count"},
	{Name: "score_ban", Value: "100", Form: ini.Number(0, 1000000, func(c *conf.Config) *int { return &c.Score.Ban }),
		Doc: "a source with this many points is banned on all ports; 0: the score bans nobody"},
	{Name: "score_days", Value: "3", Form: ini.Number(0, 30, func(c *conf.Config) *int { return &c.Score.Days }),
		Doc: "number of days with failures, and no login, after which a source is banned by its score; 0: days do not matter"},
	{Name: "score_after_ban", Value: "75", Form: ini.Number(0, 90, func(c *conf.Config) *int { return &c.Score.AfterBan }),
		Doc: "percent of score_ban that remain after a ban by score, so that a source that returns is banned soon; 0: none"},
	{Name: "spray_limits", Value: "true", Form: ini.Bool(func(c *conf.Config) *bool { return &c.Score.Sprays }),
		Doc: "lower the limits of unknown sources while many sources try one user name, attack from one network or fail at one service; forgive no failure where the names of users of one address are guessed"},
	{Name: "ban_networks", Value: "true", Form: ini.Bool(func(c *conf.Config) *bool { return &c.BanNetworks }),
		Doc: "ban a network once several of its addresses have attacked; false: single addresses only"},
	{Name: "bantime", Value: "10m", Form: ini.Duration(time.Second, duration.Year, func(c *conf.Config) *time.Duration { return &c.Ban.First }),
		Doc: "length of the first ban by a rule without bantime"},
	{Name: "bantime_score", Value: "1d", Form: ini.Duration(time.Second, duration.Year, func(c *conf.Config) *time.Duration { return &c.Ban.Score }),
		Doc: "length of the first ban by score"},
	{Name: "bantime_names", Value: "7d", Form: ini.Duration(time.Second, duration.Year, func(c *conf.Config) *time.Duration { return &c.Ban.Names }),
		Doc: "length of the first ban by score of a source that mostly tried users that do not exist"},
	{Name: "bantime_growth", Value: "4", Form: ini.Number(1, 100, func(c *conf.Config) *int { return &c.Ban.Growth }),
		Doc: "each repeated ban is this many times as long as the one before"},
	{Name: "bantime_cap", Value: "7d", Form: ini.Duration(time.Second, duration.Year, func(c *conf.Config) *time.Duration { return &c.Ban.Cap }),
		Doc: "maximum length to which repeated bans grow"},
	{Name: "bantime_history", Value: "30d", Form: ini.Duration(time.Minute, duration.Year, func(c *conf.Config) *time.Duration { return &c.Ban.History }),
		Doc: "time after which a past ban no longer counts as an earlier one"},
	{Name: "known_ttl", Value: "30d", Form: ini.Duration(time.Hour, duration.Year, func(c *conf.Config) *time.Duration { return &c.Known.TTL }),
		Doc: "how long address and user stay known after a login"},
	{Name: "known_per_user", Value: "8", Form: ini.Number(1, 1000, func(c *conf.Config) *int { return &c.Known.PerUser }),
		Doc: "maximum number of known addresses of a user"},
	{Name: "known_total", Value: "20000", Form: ini.Number(1, 1000000, func(c *conf.Config) *int { return &c.Known.Total }),
		Doc: "maximum number of known logins"},
	{Name: "known_shared", Value: "3", Form: ini.Number(2, 1000, func(c *conf.Config) *int { return &c.Known.SharedMin }),
		Doc: "an address with this many known users is shared: its bans are short and cover one service only"},
	{Name: "known_burst", Value: "15", Form: ini.Number(0, 100, func(c *conf.Config) *int { return &c.Known.Burst }),
		Doc: "failures in a row that are forgiven to a user at an address from which this user has logged in"},
	{Name: "known_retries", Value: "300", Form: ini.Number(0, 10000, func(c *conf.Config) *int { return &c.Known.Retries }),
		Doc: "failures a day that are forgiven to such a user at the pace of a forgotten device, about one in five minutes; 0: no failure of any user is forgiven"},
	{Name: "known_limits", Value: "true", Form: ini.Bool(func(c *conf.Config) *bool { return &c.Known.Limits }),
		Doc: "raise the limits of an address with the number of users who log in from it"},

	{Name: "ps_enabled", Value: "true", Form: ini.Bool(func(c *conf.Config) *bool { return &c.Scan.Enabled }),
		Doc: "ban sources that scan ports"},
	{Name: "ps_limit", Value: "5", Form: ini.Number(1, 65535, func(c *conf.Config) *int { return &c.Scan.Limit }),
		Doc: "a source whose packets come to more ports than this, at which nothing listens, within ps_interval is banned"},
	{Name: "ps_interval", Value: "300", Form: ini.Duration(time.Second, 30*duration.Day, func(c *conf.Config) *time.Duration { return &c.Scan.Interval }),
		Doc: "time in which the ports of a source are counted"},
	{Name: "ps_bantime", Value: "10m", Form: forgedTime(func(c *conf.Config) *time.Duration { return &c.Scan.BanTime }),
		Doc: "length of a ban for a scan, 10m at most", Notice: noticeForged, When: longerThanForged},
	{Name: "ps_interface", Value: "auto", Form: ini.List("auto, or names of interfaces, with commas", isInterface, func(c *conf.Config) *[]string { return &c.Scan.On }),
		Doc: "interfaces on which scans count; auto: all"},
	{Name: "ps_interface_exclude", Value: "lo", Form: ini.List("names of interfaces, with commas", isInterface, func(c *conf.Config) *[]string { return &c.Scan.NotOn }),
		Doc: "interfaces on which scans do not count"},
	{Name: "ps_exclude_ports", Value: "auto", Form: excludedPorts(func(c *conf.Config) *ban.Ports { return &c.Scan.Exclude }),
		Doc: "ports that never count; auto stands for those on which a service listens, which never count in any case"},
	{Name: "ps_exclude_ports_refresh", Value: "1m", Form: ini.Duration(0, duration.Day, ini.Nowhere[conf.Config, time.Duration]),
		Doc: "how often listening ports were read", Notice: "accepted without effect, the kernel looks for a socket at every packet"},
	{Name: "ps_source_order", Value: "packet,conntrack,journal", Form: ini.List("packet, conntrack and journal in any order", ini.Is("packet", "conntrack", "journal"), ini.Nowhere[conf.Config, []string]),
		Doc: "where packets were read", Notice: noticeNFLOG},
	{Name: "ps_conntrack_buffer_size", Value: "8388608", Form: ini.Number(0, 1<<30, ini.Nowhere[conf.Config, int]),
		Doc: "size of the conntrack buffer", Notice: noticeNFLOG},
	{Name: "ps_packet_udp", Value: "false", Form: ini.Bool(func(c *conf.Config) *bool { return &c.Scan.UDP }),
		Doc: "count UDP packets too"},
	{Name: "ps_packet_kernel_drop", Value: "true", Form: ini.Bool(ini.Nowhere[conf.Config, bool]),
		Doc: "detail of reading packets", Notice: noticeNFLOG},
	{Name: "ps_packet_rx_mode", Value: "recvfrom", Form: ini.Choice(ini.Dropped[conf.Config], "auto", "recvfrom", "mmap"),
		Doc: "detail of reading packets", Notice: noticeNFLOG},
	{Name: "ps_packet_fanout_sockets", Value: "1", Form: ini.Number(1, 64, ini.Nowhere[conf.Config, int]),
		Doc: "detail of reading packets", Notice: noticeNFLOG},
	{Name: "ps_stats", Value: "true", Form: ini.Bool(ini.Nowhere[conf.Config, bool]),
		Doc: "log statistics", Notice: noticeMetrics},
	{Name: "ps_stats_interval", Value: "300s", Form: ini.Duration(0, duration.Day, ini.Nowhere[conf.Config, time.Duration]),
		Doc: "interval of the statistics", Notice: noticeMetrics},
	{Name: "ps_escalation_enabled", Value: "true", Form: ini.Bool(ini.Nowhere[conf.Config, bool]),
		Doc: "longer bans for repeated scans", Notice: noticeShortScan},
	{Name: "ps_escalation_window", Value: "24h", Form: ini.Duration(time.Second, duration.Year, ini.Nowhere[conf.Config, time.Duration]),
		Doc: "time in which repeated scans count", Notice: noticeShortScan},
	{Name: "ps_permanent_threshold", Value: "3", Form: ini.Number(0, 1000, ini.Nowhere[conf.Config, int]),
		Doc: "number of repeated scans", Notice: noticeShortScan},

	{Name: "rules_file", Value: "/etc/mef/mef.rules", Form: ini.Path(ini.MaxPath, func(c *conf.Config) *string { return &c.Firewall.RulesFile }),
		Doc: "the firewall policy that mef loads"},
	{Name: "rules_on_stop", Value: "clear", Form: ini.Choice(func(c *conf.Config, i int) { c.Firewall.KeepOnStop = i == 1 }, "clear", "keep"),
		Doc: "whether systemctl stop mef removes the firewall policy from the kernel (clear) or not (keep)"},
	{Name: "firewall_backend", Value: "auto", Form: ini.Choice(func(c *conf.Config, i int) { c.Firewall.Backend = conf.Backend(i) }, "auto", "nftables", "iptables"),
		Doc: "what enforces bans and holds the firewall policy: auto uses nftables where the kernel and, for the policy, nft are there; it needs a restart"},
	{Name: "firewall_family", Value: "inet", Form: ini.Text(64, ini.Nowhere[conf.Config, string]), Doc: "placement", Notice: noticePlacement},
	{Name: "firewall_table", Value: "mef", Form: ini.Text(64, ini.Nowhere[conf.Config, string]), Doc: "placement", Notice: noticePlacement},
	{Name: "firewall_chain", Value: "mef", Form: ini.Text(64, ini.Nowhere[conf.Config, string]), Doc: "placement", Notice: noticePlacement},
	{Name: "firewall_hook", Value: "input", Form: ini.Text(64, ini.Nowhere[conf.Config, string]), Doc: "placement", Notice: noticePlacement},
	{Name: "firewall_priority", Value: "-100", Form: ini.Text(64, ini.Nowhere[conf.Config, string]), Doc: "placement", Notice: noticePlacement},
	{Name: "firewall_log_enabled", Value: "true", Form: ini.Bool(func(c *conf.Config) *bool { return &c.Log.Enabled }),
		Doc: "let the kernel log packets that bans drop, up to firewall_log_rate"},
	{Name: "firewall_log_prefix", Value: "MEF_", Form: logPrefix(func(c *conf.Config) *string { return &c.Log.Prefix }),
		Doc: "prefix of those messages"},
	{Name: "firewall_log_level", Value: "warn", Form: ini.Choice(func(c *conf.Config, i int) { c.Log.Level = logLevels[i] }, logLevels...),
		Doc: "log level of those messages"},
	{Name: "firewall_log_rate", Value: "1", Form: ini.Number(1, 1000, func(c *conf.Config) *int { return &c.Log.Rate }),
		Doc: "messages a second, for verified and for unverified bans each"},
	{Name: "firewall_log_burst", Value: "5", Form: ini.Number(1, 10000, func(c *conf.Config) *int { return &c.Log.Burst }),
		Doc: "number of messages before firewall_log_rate applies"},

	{Name: "ddos_enabled", Value: "false", Form: ini.Bool(func(c *conf.Config) *bool { return &c.Flood.Enabled }),
		Doc: "limit what one source may do at each of ddos_ports (flood guard)"},
	{Name: "ddos_ports", Value: "80,443", Form: ini.Ports(func(c *conf.Config) *ban.Ports { return &c.Flood.Ports }), Doc: "TCP ports that are guarded, in addition to those with limits of their own"},
	{Name: "ddos_syn_rate", Value: "100", Form: ini.Number(1, 1000000, func(c *conf.Config) *int { return &c.Flood.SYNRate }), Doc: "SYN packets a second, per source and port"},
	{Name: "ddos_syn_burst", Value: "200", Form: ini.Number(1, 1000000, func(c *conf.Config) *int { return &c.Flood.SYNBurst }), Doc: "SYN packets before ddos_syn_rate applies"},
	{Name: "ddos_newconn_rate", Value: "60", Form: ini.Number(1, 1000000, func(c *conf.Config) *int { return &c.Flood.NewRate }), Doc: "new connections a second, per source and port"},
	{Name: "ddos_newconn_burst", Value: "120", Form: ini.Number(1, 1000000, func(c *conf.Config) *int { return &c.Flood.NewBurst }), Doc: "new connections before ddos_newconn_rate applies"},
	{Name: "ddos_connlimit", Value: "80", Form: ini.Number(1, 1000000, func(c *conf.Config) *int { return &c.Flood.Conns }), Doc: "connections at the same time, per source and port"},
	{Name: "ddos_port_N_syn_rate", Form: portLimit(func(l *conf.FloodLimits) *int { return &l.SYNRate }), Doc: "ddos_syn_rate for port N"},
	{Name: "ddos_port_N_syn_burst", Form: portLimit(func(l *conf.FloodLimits) *int { return &l.SYNBurst }), Doc: "ddos_syn_burst for port N"},
	{Name: "ddos_port_N_newconn_rate", Form: portLimit(func(l *conf.FloodLimits) *int { return &l.NewRate }), Doc: "ddos_newconn_rate for port N"},
	{Name: "ddos_port_N_newconn_burst", Form: portLimit(func(l *conf.FloodLimits) *int { return &l.NewBurst }), Doc: "ddos_newconn_burst for port N"},
	{Name: "ddos_port_N_connlimit", Form: portLimit(func(l *conf.FloodLimits) *int { return &l.Conns }), Doc: "ddos_connlimit for port N"},
	{Name: "ddos_stage1_mode", Value: "throttle", Form: ini.Choice(func(c *conf.Config, i int) { c.Flood.Mode = conf.FloodMode(i) }, "throttle", "drop", "detect"),
		Doc: "what happens beyond a limit. throttle: what exceeds it is dropped; drop: all new connections of the source to guarded ports are dropped; detect: it is only reported"},
	{Name: "ddos_stage1_timeout", Value: "10m", Form: forgedTime(func(c *conf.Config) *time.Duration { return &c.Flood.Stage1 }),
		Doc: "how long ddos_stage1_mode=drop drops the new connections of a source, 10m at most", Notice: noticeForged, When: longerThanForged},
	{Name: "ddos_poll_interval", Value: "5s", Form: ini.Duration(time.Second, duration.Day, ini.Nowhere[conf.Config, time.Duration]),
		Doc: "how often the kernel was asked", Notice: noticeNFLOG},
	{Name: "ddos_signal_details_enabled", Value: "true", Form: ini.Bool(ini.Nowhere[conf.Config, bool]),
		Doc: "log details of exceeded limits", Notice: noticeNFLOG},
	{Name: "ddos_escalation_enabled", Value: "true", Form: ini.Bool(func(c *conf.Config) *bool { return &c.Flood.Escalate }), Doc: "ban a source that exceeds limits repeatedly"},
	{Name: "ddos_escalation_window", Value: "10m", Form: ini.Duration(time.Second, 30*duration.Day, func(c *conf.Config) *time.Duration { return &c.Flood.Window }), Doc: "time in which exceeded limits count"},
	{Name: "ddos_escalation_hits", Value: "3", Form: ini.Number(1, 1000, func(c *conf.Config) *int { return &c.Flood.Hits }), Doc: "number of exceeded limits that lead to a ban"},
	{Name: "ddos_bantime", Value: "10m", Form: orPermanent(forgedTime(func(c *conf.Config) *time.Duration { return &c.Flood.BanTime })),
		Doc: "length of that ban, 10m at most", Notice: noticeForged, When: longerThanForged},

	{Name: "rbl_enabled", Value: "false", Form: ini.Bool(func(c *conf.Config) *bool { return &c.RBL.Enabled }),
		Doc: "query DNS block lists about sources of failed logins and of probes; each query shows the address to the list and the name server"},
	{Name: "rbl_servers", Form: servers(func(c *conf.Config) *[]string { return &c.RBL.Servers }),
		Doc: "name servers that are asked, in order; if empty, those in /etc/resolv.conf"},
	{Name: "rbl_connection_ports", Form: connectionPorts(func(c *conf.Config) *ban.Ports { return &c.RBL.ConnectionPorts }),
		Doc: "also query about sources that open a connection to these TCP ports of this host, at most 20 a second of each family; none if empty"},
	{Name: "rbl_K_enabled", Form: ofZone(ini.Bool[conf.Config], func(z *conf.RBLZone) *bool { return &z.Enabled }),
		Doc: "query the list K; if none is enabled, blocklist is queried"},
	{Name: "rbl_K_zone", Form: ofZone(zoneName, func(z *conf.RBLZone) *string { return &z.Zone }),
		Doc: "DNS zone of the list; known for blocklist (bl.blocklist.de), dronebl, spamcop and spamhaus (zen.spamhaus.org)"},
	{Name: "rbl_K_answer_match", Form: ofZone(answerList, func(z *conf.RBLZone) *[]string { return &z.Match }),
		Doc: "answers that mean listed, 127.0.0.* unless the list is one of those", Notice: noticeAnswers, When: hasOtherAnswers},
	{Name: "rbl_K_action", Form: ofZone(rblAction, func(z *conf.RBLZone) *conf.RBLAction { return &z.Action }),
		Doc: "what a listing leads to, unless rbl_K_codes has its answer. score (the default): points as long as it counts; those of several lists add up; ban: a ban; detect: it is only reported. A listing never bans an address from which users log in"},
	{Name: "rbl_K_weight", Form: ofZone(numbers(0, maxWeight), func(z *conf.RBLZone) *int { return &z.Weight }), Doc: "points of a listing; 40 unless set"},
	{Name: "rbl_K_codes", Form: ofZone(answerCodes, func(z *conf.RBLZone) *[]conf.RBLCode { return &z.Codes }),
		Doc: "what single answers lead to; the first that fits counts, of several answers the one that does most"},
	{Name: "rbl_K_ports", Form: ofZone(ini.BanPorts[conf.Config], func(z *conf.RBLZone) *ban.Ports { return &z.Ports }), Doc: "ports of a ban for a listing; all unless set"},
	{Name: "rbl_K_bantime", Form: ofZone(durations(time.Second, duration.Year), func(z *conf.RBLZone) *time.Duration { return &z.BanTime }), Doc: "length of the first ban for a listing; 1h unless set"},
	{Name: "rbl_K_timeout", Form: ofZone(durations(100*time.Millisecond, time.Minute), func(z *conf.RBLZone) *time.Duration { return &z.Timeout }), Doc: "how long to wait for an answer; 2s unless set"},
	{Name: "rbl_K_positive_ttl", Form: ofZone(durations(time.Second, 30*duration.Day), func(z *conf.RBLZone) *time.Duration { return &z.Positive }), Doc: "how long a listing counts before the list is asked again; 1h unless set"},
	{Name: "rbl_K_negative_ttl", Form: ofZone(durations(time.Second, 30*duration.Day), func(z *conf.RBLZone) *time.Duration { return &z.Negative }), Doc: "how long an address that is not listed is not asked about again; 15m unless set"},
	{Name: "rbl_K_error_ttl", Form: ofZone(durations(time.Second, 30*duration.Day), func(z *conf.RBLZone) *time.Duration { return &z.Error }), Doc: "how long to wait after an error before the next query; 30s unless set, and more after several errors"},
	{Name: "rbl_K_canary", Form: ofZone(addresses, func(z *conf.RBLZone) *[]netip.Addr { return &z.Canary }),
		Doc: "addresses that the list must contain, otherwise its answers are ignored; unless set, 127.0.0.2 for IPv4 and ::ffff:127.0.0.2 for IPv6 (RFC 5782)"},
	{Name: "rbl_K_rate", Form: ofZone(numbers(1, 1000), func(z *conf.RBLZone) *int { return &z.Rate }), Doc: "queries a second at most; 20 unless set"},
	{Name: "rbl_K_inflight", Form: ofZone(numbers(1, 100), func(z *conf.RBLZone) *int { return &z.InFlight }), Doc: "queries at the same time at most; 8 unless set"},

	{Name: "report_abuseipdb", Value: "false", Form: ini.Bool(func(c *conf.Config) *bool { return &c.Report.AbuseIPDB.Enabled }),
		Doc: "report verified bans to AbuseIPDB: the address, the time, the kind of service and log lines without names"},
	{Name: "report_abuseipdb_key_file", Value: "/etc/mef/abuseipdb.key", Form: ini.Path(ini.MaxPath, func(c *conf.Config) *string { return &c.Report.AbuseIPDB.KeyFile }),
		Doc: "file with the API key, which other users must not be able to read: owner root, group mef, mode 640"},
	{Name: "report_blocklist_de", Value: "false", Form: ini.Bool(func(c *conf.Config) *bool { return &c.Report.BlocklistDE.Enabled }),
		Doc: "report verified bans to blocklist.de"},
	{Name: "report_blocklist_de_server", Form: mailAddress(func(c *conf.Config) *string { return &c.Report.BlocklistDE.Server }),
		Doc: "mail address under which this host is registered there"},
	{Name: "report_blocklist_de_key_file", Value: "/etc/mef/blocklist_de.key", Form: ini.Path(ini.MaxPath, func(c *conf.Config) *string { return &c.Report.BlocklistDE.KeyFile }),
		Doc: "file with the API key, as report_abuseipdb_key_file"},

	{Name: "community_report", Value: "false", Form: ini.Bool(func(c *conf.Config) *bool { return &c.Community.Report }),
		Doc: "report verified bans to the community server that this host has joined by mefctl cloud join: the address, a category, a range of counts and the hour"},
	{Name: "community_cloud_protection", Value: "false", Form: ini.Bool(func(c *conf.Config) *bool { return &c.Community.Protection }),
		Doc: "drop packets that open a connection from addresses in the lists of that server"},
	{Name: "community_cloud_lookup", Value: "feed", Form: lookup(func(c *conf.Config) *string { return &c.Community.Lookup }),
		Doc: "how that is found out. feed: this host has a copy of the lists, and shows nobody which addresses connect; prefix: the server is asked about attackers, but only for all listed addresses of their /16 (IPv6: /32); a zone: it is asked by DNS about attackers, as rbl_K_zone with rbl_K_action=ban"},
	{Name: "community_cloud_ports", Value: "all", Form: ini.Ports(func(c *conf.Config) *ban.Ports { return &c.Community.Ports }), Doc: "ports at which they are dropped"},
	{Name: "community_fleet", Value: "true", Form: ini.Bool(func(c *conf.Config) *bool { return &c.Community.Fleet }),
		Doc: "share bans, unbans and failures at once with the operator's other hosts at that server, and take over theirs; needs community_cloud_protection"},
	{Name: "community_names", Value: "true", Form: ini.Bool(func(c *conf.Config) *bool { return &c.Community.Names }),
		Doc: "with community_report, also report once a day which user names unrelated networks try here, as salted hashes, of names only that do not exist here; with community_cloud_protection, one try of a name that enough other hosts see attacked bans, unless it is near a name of this host"},
	{Name: "community_cloud_bantime", Value: "1h", Form: ini.Duration(time.Second, duration.Year, func(c *conf.Config) *time.Duration { return &c.Community.Listing.BanTime }), Doc: "length of a ban for a listing, unless community_cloud_lookup=feed"},
	{Name: "community_cloud_timeout", Value: "2s", Form: ini.Duration(time.Second, time.Minute, func(c *conf.Config) *time.Duration { return &c.Community.Listing.Timeout }), Doc: "how long to wait for an answer, unless community_cloud_lookup=feed"},
	{Name: "community_cloud_positive_ttl", Value: "1h", Form: ini.Duration(time.Second, 30*duration.Day, func(c *conf.Config) *time.Duration { return &c.Community.Listing.Positive }), Doc: "how long a listing is cached"},
	{Name: "community_cloud_negative_ttl", Value: "15m", Form: ini.Duration(time.Second, 30*duration.Day, func(c *conf.Config) *time.Duration { return &c.Community.Listing.Negative }), Doc: "how long the answer not listed is cached"},
	{Name: "community_cloud_error_ttl", Value: "30s", Form: ini.Duration(time.Second, 30*duration.Day, func(c *conf.Config) *time.Duration { return &c.Community.Listing.Error }), Doc: "how long to wait after an error before the next query"},
	{Name: "community_server", Form: ini.Text(255, ini.Nowhere[conf.Config, string]), Doc: "address of that server", Notice: noticeJoin},
	{Name: "community_report_token", Form: ini.Text(255, ini.Nowhere[conf.Config, string]), Secret: true, Doc: "token that authenticates this host to that server", Notice: noticeJoin},
	{Name: "community_report_insecure_tls", Value: "false", Form: ini.Bool(ini.Nowhere[conf.Config, bool]),
		Doc: "do not check the certificate of that server", Notice: "certificates are always checked: ignored", When: ini.Is("true")},
}

// logLevels are the levels of nft's log statement.
var logLevels = []string{"emerg", "alert", "crit", "err", "warn", "notice", "info", "debug"}

// logPrefix is a text without quotation marks: nft prints it in quotes and cannot escape them.
func logPrefix(field func(*conf.Config) *string) ini.Form[conf.Config] {
	const syntax = "at most 64 characters, none of them a quotation mark"
	return ini.Form[conf.Config]{Syntax: syntax, Empty: true, Set: func(c *conf.Config, s ini.Setting) *ini.Fault {
		if len(s.Value) > 64 || strings.Contains(s.Value, `"`) {
			return ini.Wrong(0, s.Value, syntax)
		}
		*field(c) = s.Value
		return nil
	}}
}

// reload is a duration, or 0 or false for never.
func reload(field func(*conf.Config) *time.Duration) ini.Form[conf.Config] {
	f := ini.Duration(time.Second, duration.Day, field)
	set := f.Set
	f.Syntax += ", 0 or false"
	f.Set = func(c *conf.Config, s ini.Setting) *ini.Fault {
		if s.Value == "0" || s.Value == "false" {
			*field(c) = 0
			return nil
		}
		return set(c, s)
	}
	return f
}

// prefixLength is one of the lengths for which the kernel table has a set.
func prefixLength(field func(*conf.Config) *int) ini.Form[conf.Config] {
	lengths := []string{"48", "56", "64", "128"}
	return ini.Choice(func(c *conf.Config, i int) { *field(c), _ = strconv.Atoi(lengths[i]) }, lengths...)
}

// since is a duration, or a time before now in the syntax of journalctl(1): "2 min ago".
func since(field func(*conf.Config) *time.Duration) ini.Form[conf.Config] {
	const syntax = `a time before now up to 30d, such as 10m or "2 min ago"`
	return ini.Form[conf.Config]{Syntax: syntax, Set: func(c *conf.Config, s ini.Setting) *ini.Fault {
		d, ok := parseSince(s.Value)
		if !ok || d > 30*duration.Day {
			return ini.Wrong(0, s.Value, syntax)
		}
		*field(c) = d
		return nil
	}}
}

func parseSince(value string) (time.Duration, bool) {
	words := strings.Fields(value)
	if len(words) < 2 || words[len(words)-1] != "ago" {
		d, err := duration.Parse(value)
		return d, err == nil
	}
	count := strings.TrimRight(words[0], "abcdefghijklmnopqrstuvwxyz")
	unit := words[0][len(count):] + strings.Join(words[1:len(words)-1], "")
	n, err := strconv.ParseUint(count, 10, 16)
	for short, long := range map[string][]string{
		"s": {"s", "sec", "second", "seconds"},
		"m": {"m", "min", "minute", "minutes"},
		"h": {"h", "hr", "hour", "hours"},
		"d": {"d", "day", "days"},
	} {
		if err == nil && ini.Is(long...)(unit) {
			d, err := duration.Parse(fmt.Sprintf("%d%s", n, short))
			return d, err == nil
		}
	}
	return 0, false
}

// connectionPorts is a list of ports, where "all" is every port and nothing is none.
func connectionPorts(field func(*conf.Config) *ban.Ports) ini.Form[conf.Config] {
	f := ini.BanPorts(field)
	return ini.Form[conf.Config]{Syntax: f.Syntax, Empty: true, Set: func(c *conf.Config, s ini.Setting) *ini.Fault {
		switch s.Value {
		case "":
			*field(c) = ""
			return nil
		case "all":
			s.Value = "1-65535"
		}
		return f.Set(c, s)
	}}
}

// excludedPorts is a list of ports. The word "auto" in it changes nothing. All ports is an error: it would disable detection silently.
func excludedPorts(field func(*conf.Config) *ban.Ports) ini.Form[conf.Config] {
	f := ini.Ports(field)
	f.Syntax = "auto, ports and ranges, with commas; not all of them"
	return ini.Form[conf.Config]{Syntax: f.Syntax, Set: func(c *conf.Config, s ini.Setting) *ini.Fault {
		var listed []string
		for offset, word := range ini.Items(s.Value) {
			if word == "auto" {
				continue
			}
			if p, err := ban.ParsePorts(word); err != nil || p == "" {
				return ini.Wrong(offset, word, f.Syntax)
			}
			listed = append(listed, word)
		}
		if len(listed) == 0 {
			*field(c) = ""
			return nil
		}
		s.Value = strings.Join(listed, ",")
		if p, err := ban.ParsePorts(s.Value); err != nil || p == "" {
			return ini.Wrong(0, s.Value, f.Syntax)
		}
		return f.Set(c, s)
	}}
}

// longestForged is how long a source that can be forged is dropped at most.
const longestForged = 10 * time.Minute

// forgedTime is how long a source that can be forged is dropped; what is longer than longestForged is that.
func forgedTime(field func(*conf.Config) *time.Duration) ini.Form[conf.Config] {
	f := ini.Duration(time.Second, duration.Year, field)
	any := f.Set
	f.Set = func(c *conf.Config, s ini.Setting) *ini.Fault {
		fault := any(c, s)
		if fault == nil {
			*field(c) = min(*field(c), longestForged)
		}
		return fault
	}
	return f
}

// longerThanForged reports whether a value is longer than longestForged.
func longerThanForged(value string) bool {
	d, err := duration.Parse(value)
	return value == "permanent" || err == nil && d > longestForged
}

// orPermanent adds the word "permanent" to f, which changes nothing.
func orPermanent(f ini.Form[conf.Config]) ini.Form[conf.Config] {
	return ini.Form[conf.Config]{Syntax: f.Syntax + ", or permanent", Set: func(c *conf.Config, s ini.Setting) *ini.Fault {
		if s.Value == "permanent" {
			return nil
		}
		return f.Set(c, s)
	}}
}

// portLimit is a limit of the port in the key.
func portLimit(field func(*conf.FloodLimits) *int) ini.Form[conf.Config] {
	syntax := ini.Number(1, 1000000, ini.Nowhere[conf.Config, int]).Syntax
	return ini.Form[conf.Config]{Syntax: syntax, Set: func(c *conf.Config, s ini.Setting) *ini.Fault {
		port, err := strconv.ParseUint(strings.Split(s.Key, "_")[2], 10, 16) // of ddos_port_N_
		if err != nil {
			return ini.Wrong(0, s.Value, syntax)
		}
		var one conf.FloodLimits
		f := ini.Number(1, 1000000, func(*conf.Config) *int { return field(&one) }).Set(c, s)
		if f != nil {
			return f
		}
		if c.Flood.Of == nil {
			c.Flood.Of = make(map[uint16]conf.FloodLimits)
		}
		c.Flood.Of[uint16(port)] = one.Or(c.Flood.Of[uint16(port)])
		return nil
	}}
}

// syslogSockets is a list of sockets.
func syslogSockets() ini.Form[conf.Config] {
	const syntax = "sockets with commas, such as unix:/run/mef/log, udp:127.0.0.1:5514 or tcp:[::1]:5514"
	return ini.Form[conf.Config]{Syntax: syntax, Empty: true, Set: func(c *conf.Config, s ini.Setting) *ini.Fault {
		c.Syslog.Sockets = nil
		for offset, word := range ini.Items(s.Value) {
			network, address, _ := strings.Cut(word, ":")
			ok := false
			switch network {
			case "unix":
				ok = filepath.IsAbs(address) && len(address) <= ini.MaxSocket
			case "udp", "tcp":
				at, err := netip.ParseAddrPort(address)
				ok = err == nil && at.Port() > 0
			}
			if !ok {
				return ini.Wrong(offset, word, syntax)
			}
			c.Syslog.Sockets = append(c.Syslog.Sockets, conf.SyslogSocket{Network: network, Address: address})
		}
		return nil
	}}
}

func isPrefix(s string) bool {
	_, err := conf.ParsePrefix(s)
	return err == nil
}

// isInterface reports whether s can be the name of a network interface: at most 15 bytes (IFNAMSIZ).
func isInterface(s string) bool {
	return s != "" && len(s) <= 15 && !strings.ContainsAny(s, " \t/")
}
