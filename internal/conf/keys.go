package conf

import (
	"fmt"
	"log/slog"
	"net/netip"
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
	noticeNFLOG     = "accepted without effect, packets are watched in the kernel, which tells what it saw by NFLOG"
	noticeMetrics   = "accepted without effect, mefctl status has the numbers"
	noticeScan      = "port scan detection is not built yet: ignored"
	noticeFlood     = "the flood guard is not built yet: ignored"
	noticeDNSBL     = "DNSBL look-ups are not built yet: ignored"
	noticeCommunity = "community reports and protection are not built yet: ignored"
	noticeFastPath  = "the fast path is not built yet, lists are enforced in the ordinary table"
	noticeIPTables  = "for the static policy only, bans are enforced by nftables"
	noticeDebugLog  = "accepted and ignored, the daemon logs to standard error and so to the journal"
	noticePermanent = "flood sources can be forged, their bans are never permanent"
	noticeAnswers   = "answers outside 127.0.0.0/8 and in 127.255.255.0/24 are errors of the list, never listings"
)

// keys are the keys of mef.conf, section [global], in the order of the documentation.
var keys = table[Config]{
	{name: "mode", value: "enforce", form: choice(func(c *Config, i int) { c.Observe = i == 1 }, "enforce", "observe"),
		doc: "observe does everything except write bans, and says what would be banned"},

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
		doc: "unix socket on which mefctl talks to the daemon"},
	{name: "whitelist_reload", value: "1m", form: reload(func(c *Config) *time.Duration { return &c.WhitelistReload }),
		doc: "how often whitelist files are read again, should a change go unnoticed; with 0 or false only mefctl reload reads them again"},
	{name: "blacklist_reload", value: "1m", form: reload(func(c *Config) *time.Duration { return &c.BlacklistReload }),
		doc: "how often blacklist files are read again, should a change go unnoticed; with 0 or false only mefctl reload reads them again"},
	{name: "blacklist_fastpath", value: "auto", form: choice(dropped[Config], "auto", "xdp", "tc", "disabled"),
		doc: "where listed addresses are dropped ahead of the table", notice: noticeFastPath, when: is("xdp", "tc")},
	{name: "blacklist_fastpath_xdp_mode", value: "auto", form: choice(dropped[Config], "auto", "native", "generic"),
		doc: "how XDP is attached", notice: noticeFastPath, when: isNot("auto")},

	{name: "debug", value: "false", form: choice(func(c *Config, i int) { c.LogLevel = []slog.Level{slog.LevelDebug, slog.LevelInfo}[i] }, "true", "false"),
		doc: "log details"},
	{name: "debug_log", value: "/tmp/mef.txt", form: path(maxPath, nowhere[Config, string]),
		doc: "a second log", notice: noticeDebugLog},
	{name: "ban_log_enabled", value: "false", form: boolean(func(c *Config) *bool { return &c.EventLog }),
		doc: "write every event and ban as a line of JSON"},
	{name: "ban_log_path", value: DefaultEventLog, form: path(maxPath, func(c *Config) *string { return &c.EventLogPath }),
		doc: "file for ban_log_enabled; one that the daemon cannot write is replaced by " + DefaultEventLog},
	{name: "clear_bans_on_stop", value: "false", form: boolean(func(c *Config) *bool { return &c.ClearOnStop }),
		doc: "lift all bans when the daemon stops, instead of leaving them to the kernel until they end"},

	{name: "journal_since", value: "2 min ago", form: since(func(c *Config) *time.Duration { return &c.JournalSince }),
		doc: "how far back the journal is read when there is no saved position"},
	{name: "journal_mode", value: "all", form: choice(dropped[Config], "all", "exec"),
		doc: "how the journal is read; both follow journalctl so far"},
	{name: "file_recent_limit", value: "200", form: number(0, 100000, func(c *Config) *int { return &c.FileRecent.Lines }),
		doc: "how many lines are read of a file without saved position; 0 is no limit"},
	{name: "file_recent_window", value: "24h", form: duration(0, year, func(c *Config) *time.Duration { return &c.FileRecent.Window }),
		doc: "how old a line of such a file may be; 0 is no limit"},

	{name: "ipv6_prefix", value: "64", form: prefixLength(func(c *Config) *int { return &c.IPv6Prefix }),
		doc: "IPv6 sources count and are banned by prefixes of this length"},
	{name: "nat64_prefixes", form: list("IPv6 prefixes such as 2001:db8:64::/96, with commas", isPrefix, func(c *Config) *[]string { return &c.NAT64 }),
		doc: "IPv6 networks of translators, whose addresses count one by one, beside 64:ff9b::/96 and 64:ff9b:1::/48"},
	{name: "protect_groups", value: "sudo,wheel,admin", form: list("names of groups, with commas", isName, func(c *Config) *[]string { return &c.ProtectGroups }),
		doc: "an address with a live SSH session of root or a member of these groups is not banned on the SSH ports"},
	{name: "proxies", form: list("addresses and prefixes such as 192.0.2.7,2001:db8::/32", isPrefix, func(c *Config) *[]string { return &c.Proxies }),
		doc: "reverse proxies and CDNs in front of this host: ports 80 and 443 stay open to them"},

	{name: "score_failure", value: "10", form: number(0, 1000, func(c *Config) *int { return &c.Score.Failure }),
		doc: "points of a failed login, for the score across services"},
	{name: "score_contested", value: "25", form: number(0, 1000, func(c *Config) *int { return &c.Score.Contested }),
		doc: "points of a failed login with a name that never logged in here and that other networks try"},
	{name: "score_unknown_user", value: "35", form: number(0, 1000, func(c *Config) *int { return &c.Score.Absent }),
		doc: "points of the first try of a user that the service says it does not have; as score_failure, to weigh such names like others"},
	{name: "score_hot_name", value: "100", form: number(0, 1000, func(c *Config) *int { return &c.Score.Hot }),
		doc: "points of a user that the service does not have and that other networks try too; 0 weighs such names like others that do not exist"},
	{name: "starter_names", value: "true", form: boolean(func(c *Config) *bool { return &c.StarterNames }),
		doc: "begin with a list of names that attacks on any server have in common, such as admin and test"},
	{name: "canaries", form: list("user names, with commas", isName, func(c *Config) *[]string { return &c.Canaries }),
		doc: "names that no user has: one try of them bans"},
	{name: "login_alarms", value: "true", form: boolean(func(c *Config) *bool { return &c.LoginAlarms }),
		doc: "report a first login from an address that attacked, or of a user whose name is being guessed"},
	{name: "score_probe", value: "3", form: number(0, 1000, func(c *Config) *int { return &c.Score.Probe }),
		doc: "points of touching a service without credentials"},
	{name: "score_unverified", value: "2", form: number(0, 1000, func(c *Config) *int { return &c.Score.Unverified }),
		doc: "points of an event whose source can be forged"},
	{name: "score_halflife", value: "14d", form: duration(time.Minute, 30*day, func(c *Config) *time.Duration { return &c.Score.HalfLife }),
		doc: "after this time points count half"},
	{name: "score_ban", value: "100", form: number(1, 1000000, func(c *Config) *int { return &c.Score.Ban }),
		doc: "a source with this many points is banned on all ports"},
	{name: "bantime", value: "10m", form: duration(time.Second, year, func(c *Config) *time.Duration { return &c.Ban.First }),
		doc: "first ban, for rules that name no bantime"},
	{name: "bantime_score", value: "1d", form: duration(time.Second, year, func(c *Config) *time.Duration { return &c.Ban.Score }),
		doc: "first ban by score"},
	{name: "bantime_names", value: "7d", form: duration(time.Second, year, func(c *Config) *time.Duration { return &c.Ban.Names }),
		doc: "first ban by score of a source that mostly tried users that do not exist"},
	{name: "bantime_growth", value: "4", form: number(1, 100, func(c *Config) *int { return &c.Ban.Growth }),
		doc: "each repeat of a ban lasts this many times longer"},
	{name: "bantime_cap", value: "7d", form: duration(time.Second, year, func(c *Config) *time.Duration { return &c.Ban.Cap }),
		doc: "no ban grows beyond this"},
	{name: "bantime_history", value: "30d", form: duration(time.Minute, year, func(c *Config) *time.Duration { return &c.Ban.History }),
		doc: "after this time a ban is forgotten, and the next one is a first one again"},
	{name: "known_ttl", value: "30d", form: duration(time.Hour, year, func(c *Config) *time.Duration { return &c.Known.TTL }),
		doc: "how long a login makes its address and user known"},
	{name: "known_per_user", value: "8", form: number(1, 1000, func(c *Config) *int { return &c.Known.PerUser }),
		doc: "how many known addresses a user has at most"},
	{name: "known_total", value: "20000", form: number(1, 1000000, func(c *Config) *int { return &c.Known.Total }),
		doc: "how many known logins are remembered at most"},
	{name: "known_shared", value: "3", form: number(2, 1000, func(c *Config) *int { return &c.Known.SharedMin }),
		doc: "an address with this many known users is shared: its bans are short and cover one service only"},
	{name: "known_burst", value: "15", form: number(0, 100, func(c *Config) *int { return &c.Known.Burst }),
		doc: "failures in a row that are forgiven to a user at an address where he has logged in"},
	{name: "known_retries", value: "300", form: number(0, 10000, func(c *Config) *int { return &c.Known.Retries }),
		doc: "failures a day that are forgiven to such a user at the pace of a forgotten device; 0 forgives nothing"},

	{name: "ps_enabled", value: "true", form: boolean(func(c *Config) *bool { return &c.Scan.Enabled }),
		doc: "ban sources that scan ports", notice: noticeScan, when: is("true")},
	{name: "ps_limit", value: "5", form: number(1, 65535, func(c *Config) *int { return &c.Scan.Limit }),
		doc: "more distinct ports than this are a scan"},
	{name: "ps_interval", value: "300", form: duration(time.Second, 30*day, func(c *Config) *time.Duration { return &c.Scan.Interval }),
		doc: "time in which the ports are counted"},
	{name: "ps_bantime", value: "3600", form: duration(time.Second, year, func(c *Config) *time.Duration { return &c.Scan.BanTime }),
		doc: "ban for a scan; at most 10m while the source is unverified"},
	{name: "ps_interface", value: "auto", form: list("auto, or names of interfaces, with commas", isInterface, nowhere[Config, []string]),
		doc: "interfaces on which scans count"},
	{name: "ps_interface_exclude", value: "lo", form: list("names of interfaces, with commas", isInterface, nowhere[Config, []string]),
		doc: "interfaces on which they do not"},
	{name: "ps_exclude_ports", value: "auto", form: excludedPorts(func(c *Config) *ban.Ports { return &c.Scan.Exclude }),
		doc: "ports that never count; auto, those on which something listens, always holds"},
	{name: "ps_exclude_ports_refresh", value: "1m", form: duration(0, day, nowhere[Config, time.Duration]),
		doc: "how often those were looked for", notice: "accepted without effect, the kernel knows at every packet what listens"},
	{name: "ps_source_order", value: "packet,conntrack,journal", form: list("packet, conntrack and journal in any order", is("packet", "conntrack", "journal"), nowhere[Config, []string]),
		doc: "where packets were read", notice: noticeNFLOG},
	{name: "ps_conntrack_buffer_size", value: "8388608", form: number(0, 1<<30, nowhere[Config, int]),
		doc: "buffer of that", notice: noticeNFLOG},
	{name: "ps_packet_udp", value: "false", form: boolean(func(c *Config) *bool { return &c.Scan.UDP }),
		doc: "count UDP ports too", notice: noticeScan, when: is("true")},
	{name: "ps_packet_kernel_drop", value: "true", form: boolean(nowhere[Config, bool]),
		doc: "detail of reading packets", notice: noticeNFLOG},
	{name: "ps_packet_rx_mode", value: "recvfrom", form: choice(dropped[Config], "auto", "recvfrom", "mmap"),
		doc: "detail of reading packets", notice: noticeNFLOG},
	{name: "ps_packet_fanout_sockets", value: "1", form: number(1, 64, nowhere[Config, int]),
		doc: "detail of reading packets", notice: noticeNFLOG},
	{name: "ps_stats", value: "true", form: boolean(nowhere[Config, bool]),
		doc: "numbers in the log", notice: noticeMetrics},
	{name: "ps_stats_interval", value: "300s", form: duration(0, day, nowhere[Config, time.Duration]),
		doc: "how often", notice: noticeMetrics},
	{name: "ps_escalation_enabled", value: "true", form: boolean(nowhere[Config, bool]),
		doc: "longer bans for repeated scans; never permanent, because the source can be forged"},
	{name: "ps_escalation_window", value: "24h", form: duration(time.Second, year, nowhere[Config, time.Duration]),
		doc: "time in which repeats count"},
	{name: "ps_permanent_threshold", value: "3", form: number(0, 1000, nowhere[Config, int]),
		doc: "number of repeats"},

	{name: "rules_file", value: "/etc/mef/mef.rules", form: path(maxPath, func(c *Config) *string { return &c.Firewall.RulesFile }),
		doc: "the static policy, which mef loads"},
	{name: "rules_on_stop", value: "clear", form: choice(func(c *Config, i int) { c.Firewall.KeepOnStop = i == 1 }, "clear", "keep"),
		doc: "whether systemctl stop mef removes the static policy from the kernel"},
	{name: "firewall_backend", value: "auto", form: choice(func(c *Config, i int) { c.Firewall.Backend = Backend(i) }, "auto", "nftables", "iptables"),
		doc: "how mef loads the static policy: auto takes nftables where there is nft", notice: noticeIPTables, when: is("iptables")},
	{name: "firewall_family", value: "inet", form: text(64, nowhere[Config, string]), doc: "placement", notice: noticePlacement},
	{name: "firewall_table", value: "mef", form: text(64, nowhere[Config, string]), doc: "placement", notice: noticePlacement},
	{name: "firewall_chain", value: "mef", form: text(64, nowhere[Config, string]), doc: "placement", notice: noticePlacement},
	{name: "firewall_hook", value: "input", form: text(64, nowhere[Config, string]), doc: "placement", notice: noticePlacement},
	{name: "firewall_priority", value: "-100", form: text(64, nowhere[Config, string]), doc: "placement", notice: noticePlacement},
	{name: "firewall_log_enabled", value: "true", form: boolean(func(c *Config) *bool { return &c.Log.Enabled }),
		doc: "let the kernel log dropped packets, within the rate"},
	{name: "firewall_log_prefix", value: "MEF_", form: logPrefix(func(c *Config) *string { return &c.Log.Prefix }),
		doc: "what those messages begin with"},
	{name: "firewall_log_level", value: "warn", form: choice(func(c *Config, i int) { c.Log.Level = logLevels[i] }, logLevels...),
		doc: "their level"},
	{name: "firewall_log_rate", value: "1", form: number(1, 1000, func(c *Config) *int { return &c.Log.Rate }),
		doc: "how many a second, of verified bans and of unverified ones each"},
	{name: "firewall_log_burst", value: "5", form: number(1, 10000, func(c *Config) *int { return &c.Log.Burst }),
		doc: "how many at once"},

	{name: "ddos_enabled", value: "false", form: boolean(nowhere[Config, bool]),
		doc: "limit what one source may open to the ports of ddos_ports", notice: noticeFlood, when: is("true")},
	{name: "ddos_ports", value: "80,443", form: ports(nowhere[Config, ban.Ports]), doc: "guarded ports"},
	{name: "ddos_syn_rate", value: "100", form: number(1, 1000000, nowhere[Config, int]), doc: "SYN packets a second, per source and port"},
	{name: "ddos_syn_burst", value: "200", form: number(1, 1000000, nowhere[Config, int]), doc: "how many at once"},
	{name: "ddos_newconn_rate", value: "60", form: number(1, 1000000, nowhere[Config, int]), doc: "new connections a second, per source and port"},
	{name: "ddos_newconn_burst", value: "120", form: number(1, 1000000, nowhere[Config, int]), doc: "how many at once"},
	{name: "ddos_connlimit", value: "80", form: number(1, 1000000, nowhere[Config, int]), doc: "connections at the same time, per source and port"},
	{name: "ddos_port_N_syn_rate", form: number(1, 1000000, nowhere[Config, int]), doc: "ddos_syn_rate for port N"},
	{name: "ddos_port_N_syn_burst", form: number(1, 1000000, nowhere[Config, int]), doc: "ddos_syn_burst for port N"},
	{name: "ddos_port_N_newconn_rate", form: number(1, 1000000, nowhere[Config, int]), doc: "ddos_newconn_rate for port N"},
	{name: "ddos_port_N_newconn_burst", form: number(1, 1000000, nowhere[Config, int]), doc: "ddos_newconn_burst for port N"},
	{name: "ddos_port_N_connlimit", form: number(1, 1000000, nowhere[Config, int]), doc: "ddos_connlimit for port N"},
	{name: "ddos_stage1_mode", value: "throttle", form: choice(dropped[Config], "throttle", "drop"), doc: "what happens above a limit"},
	{name: "ddos_stage1_timeout", value: "10m", form: duration(time.Second, day, nowhere[Config, time.Duration]), doc: "for how long"},
	{name: "ddos_poll_interval", value: "5s", form: duration(time.Second, day, nowhere[Config, time.Duration]),
		doc: "how often the kernel was asked", notice: noticeNFLOG},
	{name: "ddos_signal_details_enabled", value: "true", form: boolean(nowhere[Config, bool]),
		doc: "details of that", notice: noticeNFLOG},
	{name: "ddos_escalation_enabled", value: "true", form: boolean(nowhere[Config, bool]), doc: "ban a source that keeps crossing limits"},
	{name: "ddos_escalation_window", value: "10m", form: duration(time.Second, 30*day, nowhere[Config, time.Duration]), doc: "time in which that counts"},
	{name: "ddos_escalation_hits", value: "3", form: number(1, 1000, nowhere[Config, int]), doc: "how often"},
	{name: "ddos_bantime", value: "1h", form: orPermanent(duration(time.Second, year, nowhere[Config, time.Duration])),
		doc: "that ban; at most 10m while the source is unverified", notice: noticePermanent, when: is("permanent")},

	{name: "rbl_enabled", value: "false", form: boolean(nowhere[Config, bool]),
		doc: "ask DNS block lists about sources", notice: noticeDNSBL, when: is("true")},
	{name: "rbl_K_enabled", form: boolean(nowhere[Config, bool]), doc: "ask the list K; without any, blocklist is asked"},
	{name: "rbl_K_zone", form: list("the name of a DNS zone", isHostName, nowhere[Config, []string]), doc: "its zone; that of blocklist is bl.blocklist.de"},
	{name: "rbl_K_answer_match", form: list("answers such as 127.0.0.2 or 127.0.0.*", isAnswer, nowhere[Config, []string]),
		doc: "answers that mean listed", notice: noticeAnswers, when: hasOtherAnswers},
	{name: "rbl_K_ports", form: ports(nowhere[Config, ban.Ports]), doc: "ports of a ban for it"},
	{name: "rbl_K_bantime", form: duration(time.Second, year, nowhere[Config, time.Duration]), doc: "ban for it"},
	{name: "rbl_K_timeout", form: duration(time.Second, time.Minute, nowhere[Config, time.Duration]), doc: "how long an answer is waited for"},
	{name: "rbl_K_positive_ttl", form: duration(time.Second, 30*day, nowhere[Config, time.Duration]), doc: "how long a listing is remembered"},
	{name: "rbl_K_negative_ttl", form: duration(time.Second, 30*day, nowhere[Config, time.Duration]), doc: "how long its absence is"},
	{name: "rbl_K_error_ttl", form: duration(time.Second, 30*day, nowhere[Config, time.Duration]), doc: "how long after an error it is asked again"},
	{name: "rbl_K_canary", form: list("addresses", isPrefix, nowhere[Config, []string]), doc: "address that the list must hold, or it is not believed"},
	{name: "rbl_K_action", form: choice(dropped[Config], "ban", "detect"), doc: "what a listing leads to"},

	{name: "community_report", value: "false", form: boolean(nowhere[Config, bool]),
		doc: "report bans to a community server", notice: noticeCommunity, when: is("true")},
	{name: "community_cloud_protection", value: "false", form: boolean(nowhere[Config, bool]),
		doc: "ask that server about sources", notice: noticeCommunity, when: is("true")},
	{name: "community_cloud_ports", value: "all", form: ports(nowhere[Config, ban.Ports]), doc: "ports of a ban for it"},
	{name: "community_cloud_bantime", value: "1h", form: duration(time.Second, year, nowhere[Config, time.Duration]), doc: "ban for it"},
	{name: "community_cloud_timeout", value: "2s", form: duration(time.Second, time.Minute, nowhere[Config, time.Duration]), doc: "how long an answer is waited for"},
	{name: "community_cloud_positive_ttl", value: "1h", form: duration(time.Second, 30*day, nowhere[Config, time.Duration]), doc: "how long a listing is remembered"},
	{name: "community_cloud_negative_ttl", value: "15m", form: duration(time.Second, 30*day, nowhere[Config, time.Duration]), doc: "how long its absence is"},
	{name: "community_cloud_error_ttl", value: "30s", form: duration(time.Second, 30*day, nowhere[Config, time.Duration]), doc: "how long after an error it is asked again"},
	{name: "community_server", form: text(255, nowhere[Config, string]), doc: "address of that server"},
	{name: "community_report_token", form: text(255, nowhere[Config, string]), secret: true, doc: "what this host shows it"},
	{name: "community_report_insecure_tls", value: "false", form: boolean(nowhere[Config, bool]),
		doc: "do not check its certificate", notice: "certificates are always checked: ignored", when: is("true")},
}

// logLevels are the levels of nft's log statement.
var logLevels = []string{"emerg", "alert", "crit", "err", "warn", "notice", "info", "debug"}

// logPrefix is what nft can show in quotes, which it has no way to escape.
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

// prefixLength is one of the lengths for which the kernel table has a set.
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

func prefixLength(field func(*Config) *int) form[Config] {
	lengths := []string{"48", "56", "64", "128"}
	return choice(func(c *Config, i int) { *field(c), _ = strconv.Atoi(lengths[i]) }, lengths...)
}

// since is a duration, or how journalctl(1) is told one: "2 min ago".
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

// excludedPorts is a port list that may say "auto", which changes nothing. All ports would switch detection off, silently.
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

// hasOtherAnswers reports whether answers that can be no listing are among those of the list.
func hasOtherAnswers(value string) bool {
	for _, answer := range items(value) {
		if !strings.HasPrefix(answer, "127.") || strings.HasPrefix(answer, "127.255.255.") {
			return true
		}
	}
	return false
}
