package conf

import (
	"path/filepath"
	"strings"
	"time"

	"mef/internal/ban"
)

const noticeBackend = "accepted and ignored, all bans are in nftables"

// A draft is a rule while its file is read.
type draft struct {
	Rule
	shipped bool // the file is ours
	webscan bool // engine=webscan
	isJSON  bool // format=json
	addr    bool // some key other than a pattern reports where the address is
	notices []Notice
}

// ruleKeys are the keys of a rule file, section [rule], in the order of the documentation.
var ruleKeys = table[draft]{
	{name: "enabled", value: "true", form: boolean(func(d *draft) *bool { return &d.Enabled }),
		doc: "whether the rule is used"},
	{name: "name", form: name(func(d *draft) *string { return &d.Name }),
		doc: "name of the rule; if missing, the name of the file without .conf. A rule with the name of a built-in rule changes that rule"},
	{name: "service", form: name(func(d *draft) *string { return &d.Service }),
		doc: "the service it protects, as mefctl status shows it; if missing, the name of the rule"},
	{name: "engine", form: choice(func(d *draft, _ int) { d.webscan = true }, "webscan"),
		doc: "webscan for a rule about many requests of one source; see the keys of webscan rules"},

	{name: "source", value: "auto", form: choice(func(d *draft, i int) { d.Source = SourceKind(i) }, "auto", "journal", "file", "syslog", "stdin"),
		doc: "where its lines come from. auto: the journal, and the files that the service itself writes. Files that a syslog daemon writes (auth.log, secure, mail.log, messages) are read only if journald does not run, or with file. With syslog_listen or stdin in mef.conf, auto reads these as well"},
	{name: "programs", form: list("names of programs such as sshd, postfix/* or *, with commas", isProgram, func(d *draft) *[]string { return &d.Programs }),
		doc: "program names under which the service logs; sshd includes sshd-session, and postfix includes postfix/smtpd; any if missing or *"},
	{name: "units", form: list("names of system units such as ssh.service, with commas", isUnit, func(d *draft) *[]string { return &d.Units }),
		doc: "system units whose journal entries count; any system unit if missing"},
	{name: "uids", form: list("users, by name or number, with commas", isName, func(d *draft) *[]string { return &d.UIDs }),
		doc: "users besides root whose journal entries count"},
	{name: "files", adds: true, form: globs(func(d *draft) *[]string { return &d.Files }),
		doc: "log files to follow, with the wildcards * ? [ ] of the shell; may be repeated"},

	{name: "format", value: "text", form: choice(func(d *draft, i int) { d.setJSON(i == 1) }, "text", "json"),
		doc: "format of a line; json: one JSON object per line, whose values the keys from addr to probewhen name"},
	{name: "addr", form: jsonPath(func(j *JSON) *Path { return &j.Addr }),
		doc: "path of the address in a JSON object, with or without a port"},
	{name: "user", form: jsonPath(func(j *JSON) *Path { return &j.User }),
		doc: "path of the user name in a JSON object"},
	{name: "message", form: jsonPath(func(j *JSON) *Path { return &j.Message }),
		doc: "path of the text in a JSON object against which failregex and the other patterns are matched; with addr, they need no <HOST>"},
	{name: "when", adds: true, form: condition(func(j *JSON) *[]Condition { return &j.Fail }),
		doc: "condition that is true for a JSON object about a refused login"},
	{name: "okwhen", adds: true, form: condition(func(j *JSON) *[]Condition { return &j.OK }),
		doc: "condition that is true for one about a successful login"},
	{name: "probewhen", adds: true, form: condition(func(j *JSON) *[]Condition { return &j.Probe }),
		doc: "condition that is true for one about a connection that tried no login"},

	{name: "failregex", adds: true, form: patterns(true, func(r *Rule) *[]Pattern { return &r.Fail }),
		doc: "a refused login"},
	{name: "attemptregex", adds: true, form: patterns(true, func(r *Rule) *[]Pattern { return &r.Attempt }),
		doc: "a refused attempt that lines of other patterns may report too: it counts once"},
	{name: "echoregex", adds: true, form: patterns(true, func(r *Rule) *[]Pattern { return &r.Echo }),
		doc: "the same attempt reported again: it counts only if no other line of the session reports it"},
	{name: "proberegex", adds: true, form: patterns(true, func(r *Rule) *[]Pattern { return &r.Probe }),
		doc: "a connection that tried no login"},
	{name: "okregex", adds: true, form: patterns(true, func(r *Rule) *[]Pattern { return &r.OK }),
		doc: "a successful login"},
	{name: "orphanregex", adds: true, form: patterns(false, func(r *Rule) *[]Pattern { return &r.Orphan }),
		doc: "a refused login without address; a peerregex line of the same session has the address"},
	{name: "peerregex", adds: true, form: patterns(true, func(r *Rule) *[]Pattern { return &r.Peer }),
		doc: "a line that gives the address of a session, and has no other meaning"},
	{name: "ignoreregex", adds: true, form: patterns(false, func(r *Rule) *[]Pattern { return &r.Ignore }),
		doc: "a line that never counts"},

	{name: "maxretry", value: "5", form: number(1, 1000, func(d *draft) *int { return &d.MaxRetry }),
		doc: "number of failures within findtime that lead to a ban"},
	{name: "findtime", value: "10m", form: duration(time.Second, 30*day, func(d *draft) *time.Duration { return &d.FindTime }),
		doc: "time in which failures are counted"},
	{name: "bantime", form: duration(time.Second, year, func(d *draft) *time.Duration { return &d.BanTime }),
		doc: "length of the first ban; if missing, bantime of mef.conf. The first ban is never permanent: see permanent_threshold"},
	{name: "weight", value: "0", form: number(0, 1000, func(d *draft) *int { return &d.Weight }),
		doc: "points of a failure in the score across services; 0: score_failure of mef.conf"},
	{name: "transport", value: "tcp", form: choice(func(d *draft, i int) { d.UDP = i == 1 }, "tcp", "udp"),
		doc: "udp if the source address can be forged: bans are then short and cover new connections only"},
	{name: "ports", value: "all", form: banPorts(func(d *draft) *ban.Ports { return &d.Ports }),
		doc: "ports that its bans cover"},
	{name: "service_ports", form: banPorts(func(d *draft) *ban.Ports { return &d.ServicePorts }),
		doc: "ports of the service, for bans of addresses that many users share; if missing, those of ports="},
	{name: "action", value: "ban", form: choice(func(d *draft, i int) { d.Action = Action(i) }, "ban", "detect"),
		doc: "detect reports and counts, and never bans"},
	{name: "escalation_enabled", value: "false", form: boolean(func(d *draft) *bool { return &d.Escalation.Enabled }),
		doc: "ban sources permanently that keep coming back"},
	{name: "escalation_window", value: "24h", form: duration(time.Second, year, func(d *draft) *time.Duration { return &d.Escalation.Window }),
		doc: "time in which earlier bans count for that"},
	{name: "permanent_threshold", value: "0", form: number(0, 1000, func(d *draft) *int { return &d.Escalation.Threshold }),
		doc: "number of bans within escalation_window after which the next is permanent; 0: never"},
	{name: "backend", value: "auto", form: choice(dropped[draft], "auto", "nftables", "iptables"),
		doc: "how bans are enforced", notice: noticeBackend, when: is("iptables")},
}

// setJSON makes the rule one of JSON objects, or of plain text.
func (d *draft) setJSON(on bool) {
	d.isJSON = on
	if on {
		d.json()
	}
}

// maxFiles bounds the globs of a rule.
const maxFiles = 64

// globs adds absolute paths with wildcards.
func globs(field func(*draft) *[]string) form[draft] {
	f := list("absolute paths, with commas, in which * ? and [ ] are wildcards", isGlob, nowhere[draft, []string])
	f.set = func(d *draft, s setting) *fault {
		for offset, word := range items(s.value) {
			if !isGlob(word) || len(*field(d)) >= maxFiles {
				return wrong(offset, word, f.syntax)
			}
			*field(d) = append(*field(d), word)
		}
		return nil
	}
	return f
}

func isGlob(s string) bool {
	_, err := filepath.Match(s, "")
	return err == nil && filepath.IsAbs(s) && len(s) <= maxPath
}

// isProgram reports whether s selects programs: a name, the beginning of one and "*", or all.
func isProgram(s string) bool {
	return len(s) <= 128 && !strings.ContainsAny(strings.TrimSuffix(s, "*"), "* \t")
}

// isUnit reports whether s selects units.
func isUnit(s string) bool {
	return len(s) <= 255 && !strings.ContainsAny(s, " \t/")
}
