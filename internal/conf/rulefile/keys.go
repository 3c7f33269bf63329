package rulefile

import (
	"path/filepath"
	"strings"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/conf/diag"
	"mef/internal/conf/ini"
	"mef/internal/duration"
)

const noticeBackend = "accepted and ignored, firewall_backend in mef.conf decides"

// A draft is a rule while its file is read.
type draft struct {
	conf.Rule
	shipped bool // the file is ours
	webscan bool // engine=webscan
	isJSON  bool // format=json
	addr    bool // some key other than a pattern reports where the address is
	notices []diag.Notice
}

// Keys are the keys of a rule file, section [rule], in the order of the documentation.
var Keys = ini.Table[draft]{
	{Name: "enabled", Value: "true", Form: ini.Bool(func(d *draft) *bool { return &d.Enabled }),
		Doc: "whether the rule is used"},
	{Name: "name", Form: ini.Name(func(d *draft) *string { return &d.Name }),
		Doc: "name of the rule; if missing, the name of the file without .conf. A rule with the name of a built-in rule changes that rule"},
	{Name: "service", Form: ini.Name(func(d *draft) *string { return &d.Service }),
		Doc: "the service it protects, as mefctl status shows it; if missing, the name of the rule"},
	{Name: "engine", Form: ini.Choice(func(d *draft, _ int) { d.webscan = true }, "webscan"),
		Doc: "webscan for a rule about many requests of one source; see the keys of webscan rules"},

	{Name: "source", Value: "auto", Form: ini.Choice(func(d *draft, i int) { d.Source = conf.SourceKind(i) }, "auto", "journal", "file", "syslog", "stdin"),
		Doc: "where its lines come from. auto: the journal, and the files that the service itself writes. Files that a syslog daemon writes (auth.log, secure, mail.log, messages) are read only if journald does not run, or with file. With syslog_listen or stdin in mef.conf, auto reads these as well"},
	{Name: "programs", Form: ini.List("names of programs such as sshd, postfix/* or *, with commas", isProgram, func(d *draft) *[]string { return &d.Programs }),
		Doc: "program names under which the service logs; sshd includes sshd-session, and postfix includes postfix/smtpd; any if missing or *"},
	{Name: "units", Form: ini.List("names of system units such as ssh.service, with commas", isUnit, func(d *draft) *[]string { return &d.Units }),
		Doc: "system units whose journal entries count; any system unit if missing"},
	{Name: "uids", Form: ini.List("users, by name or number, with commas", ini.IsName, func(d *draft) *[]string { return &d.UIDs }),
		Doc: "users besides root whose journal entries count"},
	{Name: "files", Adds: true, Form: globs(func(d *draft) *[]string { return &d.Files }),
		Doc: "log files to follow, with the wildcards * ? [ ] of the shell; may be repeated"},
	{Name: "containers", Form: ini.List("names of containers such as vaultwarden or shop-web-*, with commas", isContainer, func(d *draft) *[]string { return &d.Containers }),
		Doc: "containers of Docker whose output is read, by name; * stands for any text. The container needs the log driver json-file, Docker's default"},
	{Name: "images", Form: ini.List("names of images such as grafana/grafana, without tag, with commas", isImage, func(d *draft) *[]string { return &d.Images }),
		Doc: "containers of Docker whose output is read, by their image, without tag and without the host name of a registry: vaultwarden/server; * stands for any text"},

	{Name: "format", Value: "text", Form: ini.Choice(func(d *draft, i int) { d.setJSON(i == 1) }, "text", "json"),
		Doc: "format of a line; json: one JSON object per line, whose values the keys from addr to probewhen name"},
	{Name: "addr", Form: jsonPath(func(j *conf.JSON) *conf.Path { return &j.Addr }),
		Doc: "path of the address in a JSON object, with or without a port"},
	{Name: "user", Form: jsonPath(func(j *conf.JSON) *conf.Path { return &j.User }),
		Doc: "path of the user name in a JSON object"},
	{Name: "message", Form: jsonPath(func(j *conf.JSON) *conf.Path { return &j.Message }),
		Doc: "path of the text in a JSON object against which failregex and the other patterns are matched; with addr, they need no <HOST>"},
	{Name: "when", Adds: true, Form: condition(func(j *conf.JSON) *[]conf.Condition { return &j.Fail }),
		Doc: "condition that is true for a JSON object about a refused login"},
	{Name: "okwhen", Adds: true, Form: condition(func(j *conf.JSON) *[]conf.Condition { return &j.OK }),
		Doc: "condition that is true for one about a successful login"},
	{Name: "probewhen", Adds: true, Form: condition(func(j *conf.JSON) *[]conf.Condition { return &j.Probe }),
		Doc: "condition that is true for one about a connection that tried no login"},

	{Name: "failregex", Adds: true, Form: patterns(true, func(r *conf.Rule) *[]conf.Pattern { return &r.Fail }),
		Doc: "a refused login"},
	{Name: "attemptregex", Adds: true, Form: patterns(true, func(r *conf.Rule) *[]conf.Pattern { return &r.Attempt }),
		Doc: "a refused attempt that lines of other patterns may report too: it counts once"},
	{Name: "echoregex", Adds: true, Form: patterns(true, func(r *conf.Rule) *[]conf.Pattern { return &r.Echo }),
		Doc: "the same attempt reported again: it counts only if no other line of the session reports it"},
	{Name: "proberegex", Adds: true, Form: patterns(true, func(r *conf.Rule) *[]conf.Pattern { return &r.Probe }),
		Doc: "a connection that tried no login"},
	{Name: "okregex", Adds: true, Form: patterns(true, func(r *conf.Rule) *[]conf.Pattern { return &r.OK }),
		Doc: "a successful login"},
	{Name: "orphanregex", Adds: true, Form: patterns(false, func(r *conf.Rule) *[]conf.Pattern { return &r.Orphan }),
		Doc: "a refused login without address; a peerregex line of the same session has the address"},
	{Name: "peerregex", Adds: true, Form: patterns(true, func(r *conf.Rule) *[]conf.Pattern { return &r.Peer }),
		Doc: "a line that gives the address of a session, and has no other meaning"},
	{Name: "ignoreregex", Adds: true, Form: patterns(false, func(r *conf.Rule) *[]conf.Pattern { return &r.Ignore }),
		Doc: "a line that never counts"},

	{Name: "maxretry", Value: "5", Form: ini.Number(1, 1000, func(d *draft) *int { return &d.MaxRetry }),
		Doc: "number of failures within findtime that lead to a ban"},
	{Name: "findtime", Value: "10m", Form: ini.Duration(time.Second, 30*duration.Day, func(d *draft) *time.Duration { return &d.FindTime }),
		Doc: "time in which failures are counted"},
	{Name: "bantime", Form: ini.Duration(time.Second, duration.Year, func(d *draft) *time.Duration { return &d.BanTime }),
		Doc: "length of the first ban; if missing, bantime of mef.conf. The first ban is never permanent: see permanent_threshold"},
	{Name: "weight", Value: "0", Form: ini.Number(0, 1000, func(d *draft) *int { return &d.Weight }),
		Doc: "points of a failure in the score across services; 0: score_failure of mef.conf"},
	{Name: "transport", Value: "tcp", Form: ini.Choice(func(d *draft, i int) { d.UDP = i == 1 }, "tcp", "udp"),
		Doc: "udp if the source address can be forged: bans are then short and cover new connections only"},
	{Name: "ports", Value: "all", Form: autoPorts(func(d *draft) (*ban.Ports, *bool) { return &d.Ports, &d.PortsAuto }),
		Doc: "ports that its bans cover. With auto, also the ports at which the service listens, UDP ports only with transport=udp: auto,25,465 are these two and those, and auto alone is those, or service_ports= while nothing is known to listen"},
	{Name: "service_ports", Form: autoPorts(func(d *draft) (*ban.Ports, *bool) { return &d.ServicePorts, &d.ServiceAuto }),
		Doc: "ports of the service, for bans of addresses that many users share; auto is as in ports=; if missing, the ports of ports="},
	{Name: "action", Value: "ban", Form: ini.Choice(func(d *draft, i int) { d.Action = conf.Action(i) }, "ban", "detect"),
		Doc: "detect reports and counts, and never bans"},
	{Name: "escalation_enabled", Value: "false", Form: ini.Bool(func(d *draft) *bool { return &d.Escalation.Enabled }),
		Doc: "ban sources permanently that keep coming back"},
	{Name: "escalation_window", Value: "24h", Form: ini.Duration(time.Second, duration.Year, func(d *draft) *time.Duration { return &d.Escalation.Window }),
		Doc: "time in which earlier bans count for that"},
	{Name: "permanent_threshold", Value: "0", Form: ini.Number(0, 1000, func(d *draft) *int { return &d.Escalation.Threshold }),
		Doc: "number of bans within escalation_window after which the next is permanent; 0: never"},
	{Name: "backend", Value: "auto", Form: ini.Choice(ini.Dropped[draft], "auto", "nftables", "iptables"),
		Doc: "how bans are enforced", Notice: noticeBackend, When: ini.Is("iptables")},
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
func globs(field func(*draft) *[]string) ini.Form[draft] {
	f := ini.List("absolute paths, with commas, in which * ? and [ ] are wildcards", isGlob, ini.Nowhere[draft, []string])
	f.Set = func(d *draft, s ini.Setting) *ini.Fault {
		for offset, word := range ini.Items(s.Value) {
			if !isGlob(word) || len(*field(d)) >= maxFiles {
				return ini.Wrong(offset, word, f.Syntax)
			}
			*field(d) = append(*field(d), word)
		}
		return nil
	}
	return f
}

func isGlob(s string) bool {
	_, err := filepath.Match(s, "")
	return err == nil && filepath.IsAbs(s) && len(s) <= ini.MaxPath
}

// autoPorts is a list of ports that may begin with the word auto.
func autoPorts(field func(*draft) (*ban.Ports, *bool)) ini.Form[draft] {
	f := ini.BanPorts(func(d *draft) *ban.Ports {
		ports, _ := field(d)
		return ports
	})
	list := f.Set
	f.Syntax = `"all", or "auto", ports and ranges from 1 to 65535 such as 22,8000-8010 or auto,22`
	f.Set = func(d *draft, s ini.Setting) *ini.Fault {
		ports, auto := field(d)
		first, rest, more := strings.Cut(s.Value, ",")
		if *auto = strings.TrimSpace(first) == "auto"; !*auto {
			return list(d, s)
		}
		if !more {
			*ports = ""
			return nil
		}
		s.Value = rest
		fault := list(d, s)
		if fault == nil && *ports == "" {
			return ini.Wrong(len(first)+1, rest, f.Syntax)
		}
		if fault != nil {
			fault.Offset += len(first) + 1
		}
		return fault
	}
	return f
}

// isProgram reports whether s selects programs: a name, the beginning of one and "*", or all.
func isProgram(s string) bool {
	return len(s) <= 128 && !strings.ContainsAny(strings.TrimSuffix(s, "*"), "* \t")
}

// isContainer reports whether s selects containers by name.
func isContainer(s string) bool {
	return len(s) <= 255 && !strings.ContainsFunc(s, func(r rune) bool { return !ini.IsNameRune(r) && r != '*' })
}

// isImage reports whether s selects containers by image. A tag would select nothing.
func isImage(s string) bool {
	return len(s) <= 255 && !strings.ContainsFunc(s, func(r rune) bool { return !ini.IsNameRune(r) && r != '*' && r != '/' })
}

// isUnit reports whether s selects units.
func isUnit(s string) bool {
	return len(s) <= 255 && !strings.ContainsAny(s, " \t/")
}
