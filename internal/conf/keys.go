package conf

import (
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"mef/internal/ban"
	"mef/internal/prefixset"
)

// DefaultPath is where mef.conf is unless a command says otherwise.
const DefaultPath = "/etc/mef/mef.conf"

// DefaultStateDir is where the daemon keeps its state unless cache_dir says otherwise.
const DefaultStateDir = "/var/lib/mef"

// DefaultEventLog is where the event log is unless ban_log_path says otherwise.
const DefaultEventLog = "/var/log/mef.log"

// Why keys of MEF 1.0 do not do what they did there.
const (
	noticePlacement = "accepted and ignored, the table is always inet mefdaemon"
	noticeNFLOG     = "accepted without effect, packets are watched in the kernel, which reports them by NFLOG"
	noticeMetrics   = "accepted without effect, mefctl status has the numbers"
	noticeScan      = "port scan detection is not built yet: ignored"
	noticeFlood     = "the flood guard is not built yet: ignored"
	noticeDNSBL     = "DNSBL look-ups are not built yet: ignored"
	noticeCommunity = "community reports and protection are not built yet: ignored"
	noticeFastPath  = "the fast path is not built yet, lists are enforced in the ordinary table"
	noticeIPTables  = "for the firewall policy only, bans are enforced by nftables"
	noticeDebugLog  = "accepted and ignored, the daemon logs to standard error and so to the journal"
	noticePermanent = "flood sources can be forged, their bans are never permanent"
	noticeAnswers   = "answers outside 127.0.0.0/8 and in 127.255.255.0/24 are errors of the list, never listings"
)

// keys are the keys of mef.conf, section [global], in the order of the documentation.
var keys = table[Config]{
	{name: "mode", value: "enforce", form: choice(func(c *Config, i int) { c.Observe = i == 1 }, "enforce", "observe"),
		doc: "with observe, bans are logged, not applied"},

	{name: "rules_dir", value: "/etc/mef/rules.d", form: path(maxPath, func(c *Config) *string { return &c.Paths.RulesDir }),
		doc: "detection rules, files *.conf"},
	{name: "webscan_dir", value: defaultWebscanDir, form: path(maxPath, func(c *Config) *string { return &c.Paths.WebscanDir }),
		doc: "rules with engine=webscan, files *.conf; if missing, webscan.d beside rules_dir"},
	{name: "whitelist_dir", value: "/etc/mef/whitelist", form: path(maxPath, func(c *Config) *string { return &c.Paths.WhitelistDir }),
		doc: "addresses that are never banned, files *.conf"},
	{name: "blacklist_dir", value: "/etc/mef/blacklist", form: path(maxPath, func(c *Config) *string { return &c.Paths.BlacklistDir }),
		doc: "addresses that are always banned, files *.conf"},
	{name: "cache_dir", value: DefaultStateDir, form: path(maxPath, func(c *Config) *string { return &c.Paths.StateDir }),
		doc: "state of the daemon; a directory below /etc, or one that it cannot write, is replaced by " + DefaultStateDir},
	{name: "control_socket", value: "/run/mef/mefdaemon.sock", form: path(maxSocket, func(c *Config) *string { return &c.Paths.ControlSocket }),
		doc: "unix socket through which mefctl controls the daemon"},
	{name: "whitelist_reload", value: "1m", form: reload(func(c *Config) *time.Duration { return &c.WhitelistReload }),
		doc: "how often whitelist files are read again in case a change was missed; with 0 or false, only mefctl reload does that"},
	{name: "blacklist_reload", value: "1m", form: reload(func(c *Config) *time.Duration { return &c.BlacklistReload }),
		doc: "how often blacklist files are read again in case a change was missed; with 0 or false, only mefctl reload does that"},
	{name: "blacklist_fastpath", value: "auto", form: choice(dropped[Config], "auto", "xdp", "tc", "disabled"),
		doc: "where blacklisted addresses are dropped before they reach the table", notice: noticeFastPath, when: is("xdp", "tc")},
	{name: "blacklist_fastpath_xdp_mode", value: "auto", form: choice(dropped[Config], "auto", "native", "generic"),
		doc: "XDP attach mode", notice: noticeFastPath, when: isNot("auto")},

	{name: "debug", value: "false", form: choice(func(c *Config, i int) { c.LogLevel = []slog.Level{slog.LevelDebug, slog.LevelInfo}[i] }, "true", "false"),
		doc: "log at level debug"},
	{name: "debug_log", value: "/tmp/mef.txt", form: path(maxPath, nowhere[Config, string]),
		doc: "a second log", notice: noticeDebugLog},
	{name: "ban_log_enabled", value: "false", form: boolean(func(c *Config) *bool { return &c.EventLog }),
		doc: "write every event and ban to a file as a line of JSON"},
	{name: "ban_log_path", value: DefaultEventLog, form: path(maxPath, func(c *Config) *string { return &c.EventLogPath }),
		doc: "file for ban_log_enabled; one that the daemon cannot write is replaced by " + DefaultEventLog},
	{name: "clear_bans_on_stop", value: "false", form: boolean(func(c *Config) *bool { return &c.ClearOnStop }),
		doc: "lift all bans when the daemon stops, instead of leaving them to the kernel until they end"},

	{name: "journal_since", value: "2 min ago", form: since(func(c *Config) *time.Duration { return &c.JournalSince }),
		doc: "how far back the journal is read when there is no saved position"},
	{name: "journal_mode", value: "all", form: choice(dropped[Config], "all", "exec"),
		doc: "how the journal is read; without effect, journalctl is always used"},
	{name: "file_recent_limit", value: "200", form: number(0, 100000, func(c *Config) *int { return &c.FileRecent.Lines }),
		doc: "how many lines are read from the end of a file without a saved position; 0: no limit"},
	{name: "file_recent_window", value: "24h", form: duration(0, year, func(c *Config) *time.Duration { return &c.FileRecent.Window }),
		doc: "maximum age of the lines read from such a file; 0: no limit"},
	{name: "syslog_listen", form: syslogSockets(),
		doc: "sockets on which syslog messages are received, in addition to the journal and log files"},
	{name: "syslog_senders", form: list("addresses and prefixes such as 192.0.2.7,2001:db8::/32", isPrefix, func(c *Config) *[]string { return &c.Syslog.Senders }),
		doc: "hosts whose messages over UDP and TCP are trusted; messages of other hosts are refused, those of this host lead to short bans only"},
	{name: "stdin", value: "false", form: boolean(func(c *Config) *bool { return &c.Stdin }),
		doc: "read log lines from standard input"},

	{name: "ipv6_prefix", value: "64", form: prefixLength(func(c *Config) *int { return &c.IPv6Prefix }),
		doc: "prefix length by which IPv6 sources are counted, and banned once a second address of the prefix attacks"},
	{name: "nat64_prefixes", form: list("IPv6 prefixes such as 2001:db8:64::/96, with commas", isPrefix, func(c *Config) *[]string { return &c.NAT64 }),
		doc: "IPv6 networks of NAT64 translators, whose addresses are counted one by one, in addition to 64:ff9b::/96 and 64:ff9b:1::/48"},
	{name: "protect_groups", value: "sudo,wheel,admin", form: list("names of groups, with commas", isName, func(c *Config) *[]string { return &c.ProtectGroups }),
		doc: "an address from which root or a member of these groups is logged in over SSH is not banned on the SSH ports"},
	{name: "proxies", form: list("addresses and prefixes such as 192.0.2.7,2001:db8::/32", isPrefix, func(c *Config) *[]string { return &c.Proxies }),
		doc: "reverse proxies and CDNs in front of this host: ports 80 and 443 stay open to them"},

	{name: "score_failure", value: "10", form: number(0, 1000, func(c *Config) *int { return &c.Score.Failure }),
		doc: "points of a failed login in the score across services"},
	{name: "score_contested", value: "25", form: number(0, 1000, func(c *Config) *int { return &c.Score.Contested }),
		doc: "points of a failed login with a user name that has never logged in here and that other networks try"},
	{name: "score_unknown_user", value: "35", form: number(0, 1000, func(c *Config) *int { return &c.Score.Absent }),
		doc: "points of the first attempt with a user name that the service reports as unknown; set it to score_failure to count such names like others"},
	{name: "score_hot_name", value: "100", form: number(0, 1000, func(c *Config) *int { return &c.Score.Hot }),
		doc: "points of an unknown user name that other networks try too; 0 counts such names like other unknown ones"},
	{name: "starter_names", value: "true", form: boolean(func(c *Config) *bool { return &c.StarterNames }),
		doc: "use the built-in list of user names that attackers try on any server, such as admin and test"},
	{name: "canaries", form: list("user names, with commas", isName, func(c *Config) *[]string { return &c.Canaries }),
		doc: "user names that nobody has: one attempt with such a name leads to a ban"},
	{name: "login_alarms", value: "true", form: boolean(func(c *Config) *bool { return &c.LoginAlarms }),
		doc: "report the first login from an address that has attacked, or of a user whose name is being guessed"},
	{name: "score_probe", value: "3", form: number(0, 1000, func(c *Config) *int { return &c.Score.Probe }),
		doc: "points of a connection without credentials (a probe)"},
	{name: "score_unverified", value: "2", form: number(0, 1000, func(c *Config) *int { return &c.Score.Unverified }),
		doc: "points of an event whose source can be forged"},
	{name: "score_halflife", value: "14d", form: duration(time.Minute, 30*day, func(c *Config) *time.Duration { return &c.Score.HalfLife }),
		doc: "time in which points lose half their value"},
	{name: "score_ban", value: "100", form: number(1, 1000000, func(c *Config) *int { return &c.Score.Ban }),
		doc: "a source with this many points is banned on all ports"},
	{name: "score_days", value: "3", form: number(0, 30, func(c *Config) *int { return &c.Score.Days }),
		doc: "number of days with failures, and no login, after which a source is banned by its score; 0: days do not matter"},
	{name: "score_after_ban", value: "75", form: number(0, 90, func(c *Config) *int { return &c.Score.AfterBan }),
		doc: "percent of score_ban that remain after a ban by score, so that a source that returns is banned soon; 0: none"},
	{name: "spray_limits", value: "true", form: boolean(func(c *Config) *bool { return &c.Score.Sprays }),
		doc: "lower the limits of unknown sources while many sources try one user name, attack from one network or fail at one service"},
	{name: "bantime", value: "10m", form: duration(time.Second, year, func(c *Config) *time.Duration { return &c.Ban.First }),
		doc: "length of the first ban by a rule without bantime"},
	{name: "bantime_score", value: "1d", form: duration(time.Second, year, func(c *Config) *time.Duration { return &c.Ban.Score }),
		doc: "length of the first ban by score"},
	{name: "bantime_names", value: "7d", form: duration(time.Second, year, func(c *Config) *time.Duration { return &c.Ban.Names }),
		doc: "length of the first ban by score of a source that mostly tried users that do not exist"},
	{name: "bantime_growth", value: "4", form: number(1, 100, func(c *Config) *int { return &c.Ban.Growth }),
		doc: "each repeated ban is this many times as long as the one before"},
	{name: "bantime_cap", value: "7d", form: duration(time.Second, year, func(c *Config) *time.Duration { return &c.Ban.Cap }),
		doc: "maximum length to which repeated bans grow"},
	{name: "bantime_history", value: "30d", form: duration(time.Minute, year, func(c *Config) *time.Duration { return &c.Ban.History }),
		doc: "time after which a past ban no longer counts as an earlier one"},
	{name: "known_ttl", value: "30d", form: duration(time.Hour, year, func(c *Config) *time.Duration { return &c.Known.TTL }),
		doc: "how long address and user stay known after a login"},
	{name: "known_per_user", value: "8", form: number(1, 1000, func(c *Config) *int { return &c.Known.PerUser }),
		doc: "maximum number of known addresses of a user"},
	{name: "known_total", value: "20000", form: number(1, 1000000, func(c *Config) *int { return &c.Known.Total }),
		doc: "maximum number of known logins"},
	{name: "known_shared", value: "3", form: number(2, 1000, func(c *Config) *int { return &c.Known.SharedMin }),
		doc: "an address with this many known users is shared: its bans are short and cover one service only"},
	{name: "known_burst", value: "15", form: number(0, 100, func(c *Config) *int { return &c.Known.Burst }),
		doc: "failures in a row that are forgiven to a user at an address from which this user has logged in"},
	{name: "known_retries", value: "300", form: number(0, 10000, func(c *Config) *int { return &c.Known.Retries }),
		doc: "failures a day that are forgiven to such a user at the pace of a forgotten device, about one in five minutes; 0: none"},
	{name: "known_limits", value: "true", form: boolean(func(c *Config) *bool { return &c.Known.Limits }),
		doc: "raise the limits of an address with the number of users who log in from it"},

	{name: "ps_enabled", value: "true", form: boolean(func(c *Config) *bool { return &c.Scan.Enabled }),
		doc: "ban sources that scan ports", notice: noticeScan, when: is("true")},
	{name: "ps_limit", value: "5", form: number(1, 65535, func(c *Config) *int { return &c.Scan.Limit }),
		doc: "more ports than this within ps_interval are a scan"},
	{name: "ps_interval", value: "300", form: duration(time.Second, 30*day, func(c *Config) *time.Duration { return &c.Scan.Interval }),
		doc: "time in which ports are counted"},
	{name: "ps_bantime", value: "3600", form: duration(time.Second, year, func(c *Config) *time.Duration { return &c.Scan.BanTime }),
		doc: "ban for a scan; at most 10m while the source is unverified"},
	{name: "ps_interface", value: "auto", form: list("auto, or names of interfaces, with commas", isInterface, nowhere[Config, []string]),
		doc: "interfaces on which scans count"},
	{name: "ps_interface_exclude", value: "lo", form: list("names of interfaces, with commas", isInterface, nowhere[Config, []string]),
		doc: "interfaces on which scans do not count"},
	{name: "ps_exclude_ports", value: "auto", form: excludedPorts(func(c *Config) *ban.Ports { return &c.Scan.Exclude }),
		doc: "ports that never count; ports on which a service listens never count either"},
	{name: "ps_exclude_ports_refresh", value: "1m", form: duration(0, day, nowhere[Config, time.Duration]),
		doc: "how often listening ports were read", notice: "accepted without effect, the kernel knows at every packet what listens"},
	{name: "ps_source_order", value: "packet,conntrack,journal", form: list("packet, conntrack and journal in any order", is("packet", "conntrack", "journal"), nowhere[Config, []string]),
		doc: "where packets were read", notice: noticeNFLOG},
	{name: "ps_conntrack_buffer_size", value: "8388608", form: number(0, 1<<30, nowhere[Config, int]),
		doc: "size of the conntrack buffer", notice: noticeNFLOG},
	{name: "ps_packet_udp", value: "false", form: boolean(func(c *Config) *bool { return &c.Scan.UDP }),
		doc: "count UDP ports too", notice: noticeScan, when: is("true")},
	{name: "ps_packet_kernel_drop", value: "true", form: boolean(nowhere[Config, bool]),
		doc: "detail of reading packets", notice: noticeNFLOG},
	{name: "ps_packet_rx_mode", value: "recvfrom", form: choice(dropped[Config], "auto", "recvfrom", "mmap"),
		doc: "detail of reading packets", notice: noticeNFLOG},
	{name: "ps_packet_fanout_sockets", value: "1", form: number(1, 64, nowhere[Config, int]),
		doc: "detail of reading packets", notice: noticeNFLOG},
	{name: "ps_stats", value: "true", form: boolean(nowhere[Config, bool]),
		doc: "log statistics", notice: noticeMetrics},
	{name: "ps_stats_interval", value: "300s", form: duration(0, day, nowhere[Config, time.Duration]),
		doc: "interval of the statistics", notice: noticeMetrics},
	{name: "ps_escalation_enabled", value: "true", form: boolean(nowhere[Config, bool]),
		doc: "longer bans for repeated scans; never permanent, because the source can be forged"},
	{name: "ps_escalation_window", value: "24h", form: duration(time.Second, year, nowhere[Config, time.Duration]),
		doc: "time in which repeated scans count"},
	{name: "ps_permanent_threshold", value: "3", form: number(0, 1000, nowhere[Config, int]),
		doc: "number of repeated scans"},

	{name: "rules_file", value: "/etc/mef/mef.rules", form: path(maxPath, func(c *Config) *string { return &c.Firewall.RulesFile }),
		doc: "the firewall policy that mef loads"},
	{name: "rules_on_stop", value: "clear", form: choice(func(c *Config, i int) { c.Firewall.KeepOnStop = i == 1 }, "clear", "keep"),
		doc: "whether systemctl stop mef removes the firewall policy from the kernel (clear) or not (keep)"},
	{name: "firewall_backend", value: "auto", form: choice(func(c *Config, i int) { c.Firewall.Backend = Backend(i) }, "auto", "nftables", "iptables"),
		doc: "how mef loads the firewall policy: auto uses nftables if nft is installed", notice: noticeIPTables, when: is("iptables")},
	{name: "firewall_family", value: "inet", form: text(64, nowhere[Config, string]), doc: "placement", notice: noticePlacement},
	{name: "firewall_table", value: "mef", form: text(64, nowhere[Config, string]), doc: "placement", notice: noticePlacement},
	{name: "firewall_chain", value: "mef", form: text(64, nowhere[Config, string]), doc: "placement", notice: noticePlacement},
	{name: "firewall_hook", value: "input", form: text(64, nowhere[Config, string]), doc: "placement", notice: noticePlacement},
	{name: "firewall_priority", value: "-100", form: text(64, nowhere[Config, string]), doc: "placement", notice: noticePlacement},
	{name: "firewall_log_enabled", value: "true", form: boolean(func(c *Config) *bool { return &c.Log.Enabled }),
		doc: "let the kernel log packets that bans drop, up to firewall_log_rate"},
	{name: "firewall_log_prefix", value: "MEF_", form: logPrefix(func(c *Config) *string { return &c.Log.Prefix }),
		doc: "prefix of those messages"},
	{name: "firewall_log_level", value: "warn", form: choice(func(c *Config, i int) { c.Log.Level = logLevels[i] }, logLevels...),
		doc: "log level of those messages"},
	{name: "firewall_log_rate", value: "1", form: number(1, 1000, func(c *Config) *int { return &c.Log.Rate }),
		doc: "messages a second, for verified and for unverified bans each"},
	{name: "firewall_log_burst", value: "5", form: number(1, 10000, func(c *Config) *int { return &c.Log.Burst }),
		doc: "number of messages before firewall_log_rate applies"},

	{name: "ddos_enabled", value: "false", form: boolean(nowhere[Config, bool]),
		doc: "limit the connections of a source to ddos_ports", notice: noticeFlood, when: is("true")},
	{name: "ddos_ports", value: "80,443", form: ports(nowhere[Config, ban.Ports]), doc: "guarded ports"},
	{name: "ddos_syn_rate", value: "100", form: number(1, 1000000, nowhere[Config, int]), doc: "SYN packets a second, per source and port"},
	{name: "ddos_syn_burst", value: "200", form: number(1, 1000000, nowhere[Config, int]), doc: "SYN packets before ddos_syn_rate applies"},
	{name: "ddos_newconn_rate", value: "60", form: number(1, 1000000, nowhere[Config, int]), doc: "new connections a second, per source and port"},
	{name: "ddos_newconn_burst", value: "120", form: number(1, 1000000, nowhere[Config, int]), doc: "new connections before ddos_newconn_rate applies"},
	{name: "ddos_connlimit", value: "80", form: number(1, 1000000, nowhere[Config, int]), doc: "connections at the same time, per source and port"},
	{name: "ddos_port_N_syn_rate", form: number(1, 1000000, nowhere[Config, int]), doc: "ddos_syn_rate for port N"},
	{name: "ddos_port_N_syn_burst", form: number(1, 1000000, nowhere[Config, int]), doc: "ddos_syn_burst for port N"},
	{name: "ddos_port_N_newconn_rate", form: number(1, 1000000, nowhere[Config, int]), doc: "ddos_newconn_rate for port N"},
	{name: "ddos_port_N_newconn_burst", form: number(1, 1000000, nowhere[Config, int]), doc: "ddos_newconn_burst for port N"},
	{name: "ddos_port_N_connlimit", form: number(1, 1000000, nowhere[Config, int]), doc: "ddos_connlimit for port N"},
	{name: "ddos_stage1_mode", value: "throttle", form: choice(dropped[Config], "throttle", "drop"), doc: "what happens above a limit"},
	{name: "ddos_stage1_timeout", value: "10m", form: duration(time.Second, day, nowhere[Config, time.Duration]), doc: "duration of that"},
	{name: "ddos_poll_interval", value: "5s", form: duration(time.Second, day, nowhere[Config, time.Duration]),
		doc: "how often the kernel was asked", notice: noticeNFLOG},
	{name: "ddos_signal_details_enabled", value: "true", form: boolean(nowhere[Config, bool]),
		doc: "log details of exceeded limits", notice: noticeNFLOG},
	{name: "ddos_escalation_enabled", value: "true", form: boolean(nowhere[Config, bool]), doc: "ban a source that exceeds limits repeatedly"},
	{name: "ddos_escalation_window", value: "10m", form: duration(time.Second, 30*day, nowhere[Config, time.Duration]), doc: "time in which exceeded limits count"},
	{name: "ddos_escalation_hits", value: "3", form: number(1, 1000, nowhere[Config, int]), doc: "number of exceeded limits that lead to a ban"},
	{name: "ddos_bantime", value: "1h", form: orPermanent(duration(time.Second, year, nowhere[Config, time.Duration])),
		doc: "length of that ban; at most 10m while the source is unverified", notice: noticePermanent, when: is("permanent")},

	{name: "rbl_enabled", value: "false", form: boolean(nowhere[Config, bool]),
		doc: "query DNS block lists about sources", notice: noticeDNSBL, when: is("true")},
	{name: "rbl_K_enabled", form: boolean(nowhere[Config, bool]), doc: "query the list K; if none is enabled, blocklist is queried"},
	{name: "rbl_K_zone", form: list("the name of a DNS zone", isHostName, nowhere[Config, []string]), doc: "DNS zone of the list; that of blocklist is bl.blocklist.de"},
	{name: "rbl_K_answer_match", form: list("answers such as 127.0.0.2 or 127.0.0.*", isAnswer, nowhere[Config, []string]),
		doc: "answers that mean listed", notice: noticeAnswers, when: hasOtherAnswers},
	{name: "rbl_K_ports", form: ports(nowhere[Config, ban.Ports]), doc: "ports of a ban for a listing"},
	{name: "rbl_K_bantime", form: duration(time.Second, year, nowhere[Config, time.Duration]), doc: "length of a ban for a listing"},
	{name: "rbl_K_timeout", form: duration(time.Second, time.Minute, nowhere[Config, time.Duration]), doc: "how long to wait for an answer"},
	{name: "rbl_K_positive_ttl", form: duration(time.Second, 30*day, nowhere[Config, time.Duration]), doc: "how long a listing is cached"},
	{name: "rbl_K_negative_ttl", form: duration(time.Second, 30*day, nowhere[Config, time.Duration]), doc: "how long the answer not listed is cached"},
	{name: "rbl_K_error_ttl", form: duration(time.Second, 30*day, nowhere[Config, time.Duration]), doc: "how long to wait after an error before the next query"},
	{name: "rbl_K_canary", form: list("addresses", isPrefix, nowhere[Config, []string]), doc: "address that the list must contain; if not, its answers are ignored"},
	{name: "rbl_K_action", form: choice(dropped[Config], "ban", "detect"), doc: "what a listing leads to"},

	{name: "community_report", value: "false", form: boolean(nowhere[Config, bool]),
		doc: "report bans to a community server", notice: noticeCommunity, when: is("true")},
	{name: "community_cloud_protection", value: "false", form: boolean(nowhere[Config, bool]),
		doc: "query that server about sources", notice: noticeCommunity, when: is("true")},
	{name: "community_cloud_ports", value: "all", form: ports(nowhere[Config, ban.Ports]), doc: "ports of a ban for a listing"},
	{name: "community_cloud_bantime", value: "1h", form: duration(time.Second, year, nowhere[Config, time.Duration]), doc: "length of a ban for a listing"},
	{name: "community_cloud_timeout", value: "2s", form: duration(time.Second, time.Minute, nowhere[Config, time.Duration]), doc: "how long to wait for an answer"},
	{name: "community_cloud_positive_ttl", value: "1h", form: duration(time.Second, 30*day, nowhere[Config, time.Duration]), doc: "how long a listing is cached"},
	{name: "community_cloud_negative_ttl", value: "15m", form: duration(time.Second, 30*day, nowhere[Config, time.Duration]), doc: "how long the answer not listed is cached"},
	{name: "community_cloud_error_ttl", value: "30s", form: duration(time.Second, 30*day, nowhere[Config, time.Duration]), doc: "how long to wait after an error before the next query"},
	{name: "community_server", form: text(255, nowhere[Config, string]), doc: "address of that server"},
	{name: "community_report_token", form: text(255, nowhere[Config, string]), secret: true, doc: "token that authenticates this host to that server"},
	{name: "community_report_insecure_tls", value: "false", form: boolean(nowhere[Config, bool]),
		doc: "do not check the certificate of that server", notice: "certificates are always checked: ignored", when: is("true")},
}

// logLevels are the levels of nft's log statement.
var logLevels = []string{"emerg", "alert", "crit", "err", "warn", "notice", "info", "debug"}

// logPrefix is a text without quotation marks: nft prints it in quotes and cannot escape them.
func logPrefix(field func(*Config) *string) form[Config] {
	const syntax = "at most 64 characters, none of them a quotation mark"
	return form[Config]{syntax: syntax, empty: true, set: func(c *Config, s setting) *fault {
		if len(s.value) > 64 || strings.Contains(s.value, `"`) {
			return wrong(0, s.value, syntax)
		}
		*field(c) = s.value
		return nil
	}}
}

// reload is a duration, or 0 or false for never.
func reload(field func(*Config) *time.Duration) form[Config] {
	f := duration(time.Second, day, field)
	set := f.set
	f.syntax += ", 0 or false"
	f.set = func(c *Config, s setting) *fault {
		if s.value == "0" || s.value == "false" {
			*field(c) = 0
			return nil
		}
		return set(c, s)
	}
	return f
}

// prefixLength is one of the lengths for which the kernel table has a set.
func prefixLength(field func(*Config) *int) form[Config] {
	lengths := []string{"48", "56", "64", "128"}
	return choice(func(c *Config, i int) { *field(c), _ = strconv.Atoi(lengths[i]) }, lengths...)
}

// since is a duration, or a time before now in the syntax of journalctl(1): "2 min ago".
func since(field func(*Config) *time.Duration) form[Config] {
	const syntax = `a time before now up to 30d, such as 10m or "2 min ago"`
	return form[Config]{syntax: syntax, set: func(c *Config, s setting) *fault {
		d, ok := parseSince(s.value)
		if !ok || d > 30*day {
			return wrong(0, s.value, syntax)
		}
		*field(c) = d
		return nil
	}}
}

func parseSince(value string) (time.Duration, bool) {
	words := strings.Fields(value)
	if len(words) < 2 || words[len(words)-1] != "ago" {
		d, err := ParseDuration(value)
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
		if err == nil && is(long...)(unit) {
			d, err := ParseDuration(fmt.Sprintf("%d%s", n, short))
			return d, err == nil
		}
	}
	return 0, false
}

// excludedPorts is a list of ports. The word "auto" in it changes nothing. All ports is an error: it would disable detection silently.
func excludedPorts(field func(*Config) *ban.Ports) form[Config] {
	f := ports(field)
	f.syntax = "auto, ports and ranges, with commas; not all of them"
	return form[Config]{syntax: f.syntax, set: func(c *Config, s setting) *fault {
		var listed []string
		for offset, word := range items(s.value) {
			if word == "auto" {
				continue
			}
			if p, err := ban.ParsePorts(word); err != nil || p == "" {
				return wrong(offset, word, f.syntax)
			}
			listed = append(listed, word)
		}
		if len(listed) == 0 {
			*field(c) = ""
			return nil
		}
		s.value = strings.Join(listed, ",")
		if p, err := ban.ParsePorts(s.value); err != nil || p == "" {
			return wrong(0, s.value, f.syntax)
		}
		return f.set(c, s)
	}}
}

// orPermanent adds the word "permanent" to f, which changes nothing.
func orPermanent(f form[Config]) form[Config] {
	return form[Config]{syntax: f.syntax + ", or permanent", set: func(c *Config, s setting) *fault {
		if s.value == "permanent" {
			return nil
		}
		return f.set(c, s)
	}}
}

// syslogSockets is a list of sockets.
func syslogSockets() form[Config] {
	const syntax = "sockets with commas, such as unix:/run/mef/log, udp:127.0.0.1:5514 or tcp:[::1]:5514"
	return form[Config]{syntax: syntax, empty: true, set: func(c *Config, s setting) *fault {
		c.Syslog.Sockets = nil
		for offset, word := range items(s.value) {
			network, address, _ := strings.Cut(word, ":")
			ok := false
			switch network {
			case "unix":
				ok = filepath.IsAbs(address) && len(address) <= maxSocket
			case "udp", "tcp":
				at, err := netip.ParseAddrPort(address)
				ok = err == nil && at.Port() > 0
			}
			if !ok {
				return wrong(offset, word, syntax)
			}
			c.Syslog.Sockets = append(c.Syslog.Sockets, SyslogSocket{network, address})
		}
		return nil
	}}
}

func isPrefix(s string) bool {
	_, err := ParsePrefix(s)
	return err == nil
}

// ParsePrefix reads an address or a network as an operator writes it: "192.0.2.7", "2001:db8::/64". The result is masked and never
// IPv4-mapped. An address with a zone is an error.
func ParsePrefix(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return netip.Prefix{}, err
		}
		return prefixset.Normalize(p), nil
	}
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return netip.Prefix{}, err
	case a.Zone() != "":
		return netip.Prefix{}, fmt.Errorf("address %q has a zone", s)
	}
	return prefixset.Normalize(netip.PrefixFrom(a, a.BitLen())), nil
}

// isInterface reports whether s can be the name of a network interface: at most 15 bytes (IFNAMSIZ).
func isInterface(s string) bool {
	return s != "" && len(s) <= 15 && !strings.ContainsAny(s, " \t/")
}

// isAnswer reports whether s is an IPv4 address with any of its ends replaced by "*".
func isAnswer(s string) bool {
	return strings.Trim(s, "0123456789.*") == ""
}

// hasOtherAnswers reports whether the value has answers that never mean "listed".
func hasOtherAnswers(value string) bool {
	for _, answer := range items(value) {
		if !strings.HasPrefix(answer, "127.") || strings.HasPrefix(answer, "127.255.255.") {
			return true
		}
	}
	return false
}
