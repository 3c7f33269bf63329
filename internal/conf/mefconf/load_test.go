package mefconf

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mef/internal/conf"
	"mef/internal/conf/diag"
	"mef/internal/conf/ini"
	"mef/internal/duration"
)

var update = flag.Bool("update", false, "write golden files and the tables in docs instead of comparing")

// golden compares got with a file of testdata.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

// tree writes files, by path below a new directory, and returns the directory.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "DIR", dir)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// dirs is the mef.conf of a tree.
const dirs = "[global]\nrules_dir=DIR/rules.d\nwhitelist_dir=DIR/whitelist\nblacklist_dir=DIR/blacklist\n"

// complete adds what a tree must have to files.
func complete(files map[string]string) map[string]string {
	out := map[string]string{"mef.conf": dirs, "rules.d/.keep": "", "whitelist/.keep": "", "blacklist/.keep": ""}
	for name, text := range files {
		out[name] = text
	}
	return out
}

// loader reads the test's shipped rules and may write anywhere.
var loader = Loader{Shipped: os.DirFS("testdata/shipped"), Writable: func(string) bool { return true }}

// load reads a tree and returns what the operator sees, without the names of temporary directories.
func load(t *testing.T, files map[string]string) (*conf.Config, string) {
	t.Helper()
	dir := tree(t, complete(files))
	cfg, err := loader.Load(dir + "/mef.conf")
	if err != nil {
		var errs diag.Errors
		if !errors.As(err, &errs) {
			t.Fatalf("Load returned %T, want Errors", err)
		}
		return nil, strings.ReplaceAll(err.Error(), dir+"/", "")
	}
	var out []string
	for _, n := range cfg.Notices {
		out = append(out, n.Pos.String()+": "+n.Text)
	}
	return cfg, strings.ReplaceAll(strings.Join(out, "\n"), dir+"/", "")
}

// testTree returns the files below dir.
func testTree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(filepath.Join(dir, path))
		files[path] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func ruleNamed(t *testing.T, cfg *conf.Config, name string) conf.Rule {
	t.Helper()
	i := slices.IndexFunc(cfg.Rules, func(r conf.Rule) bool { return r.Name == name })
	if i < 0 {
		t.Fatalf("no rule %q", name)
	}
	return cfg.Rules[i]
}

// Whoever asks the daemon finds it whatever is wrong elsewhere.
func TestControlSocket(t *testing.T) {
	for name, tt := range map[string]struct{ text, want, err string }{
		"named":            {"[global]\ncontrol_socket=/run/x.sock # ours\n", "/run/x.sock", ""},
		"not named":        {"[global]\nmode=observe\n", "/run/mef/mefdaemon.sock", ""},
		"among mistakes":   {"garbage\n[global]\nmdoe=observe\nrules_dir=/nowhere\ncontrol_socket=/run/x.sock\n[nonsense]\n", "/run/x.sock", ""},
		"a mistake itself": {"[global]\ncontrol_socket=x.sock\n", "", `mef.conf:2:16: control_socket: wrong value "x.sock"; write an absolute path`},
		"twice":            {"[global]\ncontrol_socket=/a\ncontrol_socket=/b\n", "", `mef.conf:3:1: "control_socket" is set twice`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := tree(t, map[string]string{"mef.conf": tt.text})
			got, err := ControlSocket(dir + "/mef.conf")
			if tt.err != "" {
				if err == nil || !strings.HasPrefix(strings.ReplaceAll(err.Error(), dir+"/", ""), tt.err) {
					t.Errorf("error %v, want %s", err, tt.err)
				}
			} else if err != nil || got != tt.want {
				t.Errorf("%q, %v; want %q", got, err, tt.want)
			}
		})
	}
	if _, err := ControlSocket(t.TempDir() + "/none.conf"); err == nil {
		t.Error("a file that does not exist: no error")
	}
}

func TestMissingFileIsDefault(t *testing.T) {
	l := loader
	l.Optional = true
	cfg, err := l.Load("/nonexistent/mef.conf")
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Ban != (conf.BanTimes{First: 10 * time.Minute, Score: duration.Day, Names: 7 * duration.Day, Growth: 4, Cap: 7 * duration.Day, History: 30 * duration.Day}) {
		t.Errorf("ban times %+v", cfg.Ban)
	}
	if cfg.Score != (conf.Score{Failure: 10, Probe: 3, Unverified: 2, Contested: 25, Absent: 35, Hot: 100, HalfLife: 14 * duration.Day, Ban: 100, Days: 3, AfterBan: 75, Sprays: true}) {
		t.Errorf("scores %+v", cfg.Score)
	}
	if cfg.Known != (conf.Known{TTL: 30 * duration.Day, PerUser: 8, Total: 20000, SharedMin: 3, Burst: 15, Retries: 300, Limits: true}) {
		t.Errorf("known logins %+v", cfg.Known)
	}
	if cfg.IPv6Prefix != 64 || cfg.Paths.ControlSocket != "/run/mef/mefdaemon.sock" || cfg.Paths.StateDir != "/var/lib/mef" {
		t.Errorf("config %+v", cfg)
	}
	if _, err := loader.Load("/nonexistent/mef.conf"); err == nil || err.Error() != "/nonexistent/mef.conf: no such file or directory" {
		t.Errorf("a file that was asked for: %v", err)
	}
}

func TestEmptyFileIsValid(t *testing.T) {
	cfg, said := load(t, nil)
	if said != "" {
		t.Fatal(said)
	}
	if len(cfg.Rules) != 2 || cfg.Rules[0].Name != "sshd" || cfg.Rules[1].Name != "vsftpd" {
		t.Fatalf("rules %+v", cfg.Rules)
	}
	sshd := cfg.Rules[0]
	if !sshd.Enabled || sshd.Service != "sshd" || sshd.Source != conf.SourceAuto || sshd.MaxRetry != 5 || sshd.FindTime != 10*time.Minute ||
		sshd.BanTime != 10*time.Minute || sshd.Ports != "22" || !sshd.Fail[0].Shipped || sshd.Pos.File != "shipped/sshd.conf" {
		t.Errorf("sshd %+v", sshd)
	}
	if got := cfg.Rules[1].BanTime; got != 20*time.Minute {
		t.Errorf("vsftpd names its own ban time, got %v", got)
	}
}

func TestBantimeOfConfigIsForRulesThatNameNone(t *testing.T) {
	cfg, said := load(t, map[string]string{"mef.conf": dirs + "bantime=3m\n"})
	if cfg == nil {
		t.Fatal(said)
	}
	if a, b := ruleNamed(t, cfg, "sshd").BanTime, ruleNamed(t, cfg, "vsftpd").BanTime; a != 3*time.Minute || b != 20*time.Minute {
		t.Errorf("ban times %v and %v, want 3m and 20m", a, b)
	}
}

// A whole MEF 1.0 installation loads, with notices about what has changed.
func TestMEF10Loads(t *testing.T) {
	cfg, said := load(t, testTree(t, "testdata/mef10"))
	if cfg == nil {
		t.Fatal(said)
	}
	golden(t, "testdata/mef10/notices.txt", said+"\n")
	if len(cfg.ListErrors) > 0 {
		t.Error(cfg.ListErrors)
	}

	sshd := ruleNamed(t, cfg, "sshd")
	if len(sshd.Fail) != 2 || !sshd.Fail[0].Shipped || sshd.Fail[1].Text != `^Timeout before authentication for (?P<ip>\S+)` || sshd.Fail[1].Shipped {
		t.Errorf("patterns of sshd %+v", sshd.Fail)
	}
	if sshd.Source != conf.SourceJournal || sshd.MaxRetry != 4 || sshd.BanTime != time.Hour || sshd.Ports != "" || !slices.Equal(sshd.Files, []string{"/var/log/auth.log"}) ||
		len(sshd.OK) != 1 || !slices.Equal(sshd.Units, []string{"ssh.service", "sshd.service"}) {
		t.Errorf("sshd %+v", sshd)
	}
	shop := ruleNamed(t, cfg, "shop")
	if len(shop.Fail) != 1 || len(shop.Files) != 3 || shop.Action != conf.ActionDetect || shop.Escalation != (conf.Escalation{Enabled: true, Window: duration.Day, Threshold: 5}) || !shop.Enabled {
		t.Errorf("shop %+v", shop)
	}
	if forum := ruleNamed(t, cfg, "forum"); forum.Enabled || len(forum.Fail) != 0 {
		t.Errorf("forum has no pattern left and is enabled: %+v", forum)
	}
	if n := len(cfg.Rules); n != 6 {
		t.Errorf("%d rules, want sshd, vsftpd, shop, forum and two webscan rules", n)
	}
	if web := ruleNamed(t, cfg, "webscan-shop").Web; web == nil || len(web.Thresholds) != 1 || web.Thresholds[0].Name != "rotating" ||
		web.Thresholds[0].Window != time.Minute || web.Thresholds[0].Agents != 5 || web.MaxSources != 10000 || len(web.Patterns) != 1 ||
		!slices.Equal(web.AllowURIs, []string{"/health*", "*.css", "*.js"}) || !slices.Equal(web.AllowExtensions, []string{"jpg", "png"}) {
		t.Errorf("webscan-shop counts by %+v", web)
	}
	if len(cfg.Whitelist) != 6 || len(cfg.Blacklist) != 2 || cfg.Whitelist[0].Text != "192.0.2.99" || cfg.Whitelist[4].Note != "office" {
		t.Errorf("lists %+v %+v", cfg.Whitelist, cfg.Blacklist)
	}
	if cfg.Scan.Exclude != "22,100-500" && cfg.Scan.Exclude != "22,100-500,443" {
		t.Errorf("excluded ports %q", cfg.Scan.Exclude)
	}
}

// testdata/mef10/mef.conf is worth something only while it has every key of MEF 1.0.
func TestMEF10HasEveryKey(t *testing.T) {
	text, err := os.ReadFile("testdata/mef10/mef.conf")
	if err != nil {
		t.Fatal(err)
	}
	ours := []string{"mode", "control_socket", "ipv6_prefix", "protect_groups", "proxies", "score_failure", "score_probe", "score_unverified",
		"score_halflife", "score_ban", "bantime", "bantime_growth", "bantime_cap", "bantime_history", "known_ttl", "known_per_user",
		"known_total", "known_shared", "known_burst", "known_retries", "nat64_prefixes", "score_contested", "score_unknown_user",
		"score_hot_name", "starter_names", "canaries", "login_alarms", "score_days", "score_after_ban", "spray_limits", "known_limits", "ban_networks", "bantime_score", "bantime_names", "rbl_servers", "rbl_connection_ports", "rbl_K_canary", "rbl_K_action", "rbl_K_weight", "rbl_K_codes", "rbl_K_rate", "rbl_K_inflight", "community_cloud_lookup",
		"report_abuseipdb", "report_abuseipdb_key_file", "report_blocklist_de", "report_blocklist_de_server", "report_blocklist_de_key_file", "community_server", "community_fleet", "community_names", "rules_file", "rules_on_stop", "syslog_listen", "syslog_senders", "stdin", "geo_databases", "block_page", "block_page_contact", "block_page_certificate", "block_page_key", "block_page_sum", "block_page_sum_total", "page", "page_groups", "page_password_file", "page_certificate", "page_key", "metrics"}
	settings := ini.Scan("mef.conf", text, "global").Settings
	for _, k := range keys {
		theirs := slices.ContainsFunc(settings, func(s ini.Setting) bool { return k.Name == s.Key || k.Is(s.Key) })
		if theirs == slices.Contains(ours, k.Name) {
			t.Errorf("key %s: in the file %v", k.Name, theirs)
		}
	}
}

// A firewall is loaded by what can be read of a configuration with mistakes.
func TestSettingsWithMistakes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mef.conf")
	text := "[global]\nrules_file=/srv/mef.rules\nfirewall_backend=nft\nrules_on_stop=keep\nbantme=3\n"
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg, err := Settings(path)
	if want := (conf.Firewall{RulesFile: "/srv/mef.rules", KeepOnStop: true}); cfg.Firewall != want {
		t.Errorf("%+v, want %+v", cfg.Firewall, want)
	}
	want := path + `:3:18: firewall_backend: wrong value "nft"; write auto or nftables or iptables` + "\n" + path + `:5:1: unknown key "bantme"; did you mean "bantime"?`
	if err == nil || err.Error() != want {
		t.Errorf("mistakes:\n%v\nwant\n%s", err, want)
	}
	if cfg, err := Settings(filepath.Join(t.TempDir(), "none.conf")); err == nil || cfg.Firewall.RulesFile != "/etc/mef/mef.rules" {
		t.Errorf("of a file that is not there: %+v, %v", cfg.Firewall, err)
	}
}

func TestErrorsAreSaidAllAtOnce(t *testing.T) {
	_, got := load(t, map[string]string{
		"mef.conf":          dirs + "bantme=10m\nscore_ban=abc\n[globl]\n",
		"rules.d/a.conf":    "[rule]\nname=shop\nfailregex=^no <HOST>$\nmaxretry=0\n",
		"rules.d/b.conf":    "[rule]\nname=shop\nfailregex=^no <HOST>$\n",
		"rules.d/ssh.conf":  "[rule]\nmaxretry=3\n",
		"rules.d/c d.conf":  "[rule]\nfailregex=^no <HOST>$\n",
		"rules.d/blog.conf": "[rule]\nprograms=blog\n[detect]\nfailregex=^no (?!way) <HOST>$\n",
	})
	want := `mef.conf:5:1: unknown key "bantme"; did you mean "bantime"?
mef.conf:6:11: score_ban: wrong value "abc"; write a number from 0 to 1000000
mef.conf:7:1: unknown section "globl"; did you mean "global"?
rules.d/a.conf:4:10: maxretry: wrong value "0"; write a number from 1 to 1000
rules.d/b.conf:2:6: rule "shop" is defined twice; first at rules.d/a.conf:1:1
rules.d/blog.conf:3:1: unknown section "detect"; there is [rule]
rules.d/c d.conf: the file's name "c d" is not a valid name for a rule; add name=
rules.d/ssh.conf:1:1: rule "ssh" has no pattern, and no built-in rule has that name; did you mean "sshd"?`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Each mistake in mef.conf, behind the line [global].
func TestConfigErrors(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"unknown key":                   {"ps_limt=3", `:2:1: unknown key "ps_limt"; did you mean "ps_limit"?`},
		"unlike any key":                {"colour=red", `:2:1: unknown key "colour"`},
		"indexed key":                   {"ddos_port_22_syn_rat=3", `:2:1: unknown key "ddos_port_22_syn_rat"; did you mean "ddos_port_N_syn_rate"?`},
		"index out of range":            {"ddos_port_99999_syn_rate=3", `:2:1: unknown key "ddos_port_99999_syn_rate"; did you mean "ddos_port_N_syn_rate"?`},
		"upper case":                    {"Mode=observe", `:2:1: unknown key "Mode"; did you mean "mode"?`},
		"twice":                         {"mode=observe\nmode=enforce", `:3:1: "mode" is set twice; first at mef.conf:2:1`},
		"no value":                      {"mode=   # none", `:2:6: mode: no value; write enforce or observe, or remove the line`},
		"no equals sign":                {"mode observe", `:2:1: "mode observe" is not a setting; write key=value`},
		"no key":                        {"=observe", `:2:1: "=observe" is not a setting; write key=value`},
		"boolean":                       {"debug=yes", `:2:7: debug: wrong value "yes"; write true or false`},
		"choice":                        {"firewall_backend=nftable", `:2:18: firewall_backend: wrong value "nftable"; did you mean "nftables"?`},
		"number too large":              {"bantime_growth=101", `:2:16: bantime_growth: wrong value "101"; write a number from 1 to 100`},
		"number with unit":              {"score_ban = 100 points", `:2:13: score_ban: wrong value "100 points"; write a number from 0 to 1000000`},
		"duration":                      {"known_ttl=1 month", `:2:11: known_ttl: wrong value "1 month"; write a duration from 1h to 365d such as 90, 10m or 7d`},
		"duration too short":            {"bantime=0", `:2:9: bantime: wrong value "0"; write a duration from 1s to 365d such as 90, 10m or 7d`},
		"negative duration":             {"bantime=-1", `:2:9: bantime: wrong value "-1"; write a duration from 1s to 365d such as 90, 10m or 7d`},
		"since":                         {"journal_since=yesterday", `:2:15: journal_since: wrong value "yesterday"; write a time before now up to 30d, such as 10m or "2 min ago"`},
		"relative path":                 {"cache_dir=mef", `:2:11: cache_dir: wrong value "mef"; write an absolute path`},
		"quoted path":                   {`cache_dir="/var/mef"`, `:2:11: cache_dir: wrong value "\"/var/mef\""; write an absolute path`},
		"socket too long":               {"control_socket=/" + strings.Repeat("x", 107), `:2:16: control_socket: wrong value "/` + strings.Repeat("x", 79) + `…"; write an absolute path`},
		"prefix length":                 {"ipv6_prefix=63", `:2:13: ipv6_prefix: wrong value "63"; did you mean "64"?`},
		"one item of a list":            {"proxies=192.0.2.1, 192.0.2.300,::1", `:2:20: proxies: wrong value "192.0.2.300"; write addresses and prefixes such as 192.0.2.7,2001:db8::/32`},
		"socket":                        {"syslog_listen=unix:/run/log,udp:localhost:514", `:2:29: syslog_listen: wrong value "udp:localhost:514"; write sockets with commas, such as unix:/run/mef/log, udp:127.0.0.1:5514 or tcp:[::1]:5514`},
		"socket for others":             {"syslog_listen=tcp:127.0.0.1:514, udp:[::]:514", `:2:34: syslog_listen: other hosts reach "udp:[::]:514", and none of them is trusted; listen on 127.0.0.1 or [::1], or name the hosts in syslog_senders`},
		"one port of a list":            {"ddos_ports=22, 0-3", `:2:16: ddos_ports: wrong value "0-3"; write "all", or ports and ranges from 1 to 65535 such as 22,8000-8010`},
		"no port is scanned":            {"ps_exclude_ports=auto,all", `:2:23: ps_exclude_ports: wrong value "all"; write auto, ports and ranges, with commas; not all of them`},
		"nor if spelt out":              {"ps_exclude_ports=1-100,101-65535", `:2:18: ps_exclude_ports: wrong value "1-100,101-65535"; write auto, ports and ranges, with commas; not all of them`},
		"cap below first":               {"bantime=2h\nbantime_cap=1h", `:3:13: bantime_cap: bantime_cap is shorter than bantime; write at least bantime_cap=2h`},
		"first above cap":               {"bantime=8d", `:2:9: bantime: bantime_cap is shorter than bantime; write at least bantime_cap=8d`},
		"no such directory":             {"rules_dir=/nonexistent/rules.d", `:2:11: rules_dir: "/nonexistent/rules.d": no such file or directory`},
		"quote in log prefix":           {`firewall_log_prefix=a" drop`, `:2:21: firewall_log_prefix: wrong value "a\" drop"; write at most 64 characters, none of them a quotation mark`},
		"control character":             {"mode=observe\x00", `:2:13: byte 0x0 is not text; save the file as UTF-8`},
		"invalid UTF-8":                 {"mode=\xe9observe", `:2:6: byte 0xe9 is not text; save the file as UTF-8`},
		"semicolon":                     {"; mode=observe", `:2:1: ";" does not begin a comment here; begin comments with #`},
		"section without end":           {"[global", `:2:1: section "[global" does not end with ]; write [section] on a line of its own`},
		"section twice":                 {"[global]", `:2:1: section "[global]" occurs twice; first at mef.conf:1:1`},
		"feed without a url":            {"[feed own]\nrefresh=1h", `:2:1: [feed own]: no url; add url=https://HOST/PATH`},
		"feed, misspelt":                {"[feed spamhaus-dorp]", `:2:1: [feed spamhaus-dorp]: no url; add url=https://HOST/PATH, or use a built-in feed: did you mean "spamhaus-drop"?`},
		"name of a feed":                {"[feed My_List]\nurl=https://example.org/", `:2:1: feed "My_List": wrong name; write [feed NAME], a name of lower-case letters, digits and - up to 32 characters`},
		"taken name of a feed":          {"[feed community]\nurl=https://example.org/", `:2:1: feed "community": wrong name; write [feed NAME], a name of lower-case letters, digits and - up to 32 characters`},
		"feed over http":                {"[feed own]\nurl=http://example.org/x", `:3:5: url: "http://example.org/x" can be changed on its way; write https://HOST/PATH or file:///PATH`},
		"feed of nowhere":               {"[feed own]\nurl=https:///x", `:3:5: url: wrong value "https:///x"; write https://HOST/PATH or file:///PATH`},
		"key of a feed":                 {"[feed own]\nurl=https://example.org/\nformt=csv", `:4:1: unknown key "formt"; did you mean "format"?`},
		"action of a feed":              {"[feed own]\nurl=https://example.org/\naction=ban", `:4:8: action: wrong value "ban"; write drop or detect or score`},
		"name of a notification":        {"[notify My]\nmail=root@example.org", `:2:1: notify "My": wrong name; write [notify NAME], a name of lower-case letters, digits and - up to 32 characters`},
		"notification by nothing":       {"[notify ops]\nevents=bans", `:2:1: [notify ops]: no destination is set; add url=https://HOST/PATH, command=/PATH/PROGRAM or mail=ADDRESS`},
		"notification in two ways":      {"[notify ops]\nurl=https://example.org/\nmail=root@example.org", `:4:1: [notify ops]: url and mail in one section; write a section for each`},
		"format of a notification":      {"[notify ops]\nurl=https://example.org/\nformat=telegramm", `:4:8: format: wrong value "telegramm"; did you mean "telegram"?`},
		"chat of a notification":        {"[notify ops]\nformat=telegram\nkey_file=/etc/mef/k", `:3:8: [notify ops]: format=telegram needs to; add to=, the number of the chat or the identifier of the room`},
		"key of a notification":         {"[notify ops]\nurl=https://example.org/{key}", `:3:5: [notify ops]: {key} in url needs key_file; add key_file=/etc/mef/ops.key, a file with the key`},
		"password in a URL":             {"[notify ops]\nurl=https://a:b@example.org/", `:3:5: url: a URL with a user or password in it; write the secret to key_file, and {key} in the URL where it belongs`},
		"key in a host name":            {"[notify ops]\nurl=https://{key}.example.org/", `:3:5: url: wrong value "https://{key}.example.org/"; write https://HOST/PATH`},
		"events of a notification":      {"[notify ops]\nmail=root@example.org\nevents=status, ban", `:4:16: events: wrong value "ban"; did you mean "bans"?`},
		"address of a notification":     {"[notify ops]\nmail=root@example.org,-x y@example.org", `:3:23: mail: wrong value "-x y@example.org"; write mail addresses separated by commas`},
		"mail server":                   {"[notify ops]\nmail=root@example.org\nsmtp=mail.example.org", `:4:6: smtp: wrong value "mail.example.org"; write smtp://HOST:PORT or smtps://HOST:PORT`},
		"password of a mail server":     {"[notify ops]\nmail=root@example.org\nsmtp_user=mef", `:4:1: [notify ops]: smtp_user needs key_file; add key_file=/etc/mef/ops.key, a file with the password`},
		"program of a notification":     {"[notify ops]\ncommand=logger -t x", `:3:9: command: wrong value "logger -t x"; write the absolute path of a program, and arguments separated by spaces`},
		"placeholder of a notification": {"[notify ops]\nurl=https://example.org/\nformat=own\nbody=mef: {titel}", `:5:11: body: unknown placeholder {titel}; did you mean "title"?`},
		"body of a notification":        {"[notify ops]\nurl=https://example.org/\nformat=own\nbody={\"content\": {title}}", `:5:6: body: it begins as JSON and is none; put each placeholder in quotation marks, as in {"content": "{title}"}`},
		"no body of a notification":     {"[notify ops]\nurl=https://example.org/\nformat=own", `:4:8: [notify ops]: format=own needs body; add body=, such as {"content": "{title}"}`},
		"share of a feed":               {"[feed own]\nurl=https://example.org/\nmax_share=0", `:4:11: max_share: wrong value "0"; write a number from 1 to 100`},
		"section of rule files":         {"[rule]\nmaxretry=3", `:2:1: unknown section "rule"; there is [global]`},
		"terminal escapes":              {"mode=\x1b[2J", `:2:6: byte 0x1b is not text; save the file as UTF-8`},
		"long word":                     {strings.Repeat("k", 100) + "=1", `:2:1: unknown key "` + strings.Repeat("k", 80) + `…"`},
		"answer of a block list":        {"rbl_x_answer_match=yes", `:2:20: rbl_x_answer_match: wrong value "yes"; write answers such as 127.0.0.2, 127.0.0.4-7 or 127.0.0.*`},
		"range in an answer":            {"rbl_x_answer_match=127.0.2-3.1", `:2:20: rbl_x_answer_match: wrong value "127.0.2-3.1"; write answers such as 127.0.0.2, 127.0.0.4-7 or 127.0.0.*`},
		"code without action":           {"rbl_x_codes=127.0.0.2=60,127.0.0.3", `:2:26: rbl_x_codes: wrong value "127.0.0.3"; write answers with points or an action, such as 127.0.0.2=60, 127.0.0.4-7=ban, 127.0.0.10=detect`},
		"action of a code":              {"rbl_x_codes=127.0.0.2=drop", `:2:13: rbl_x_codes: wrong value "127.0.0.2=drop"; write answers with points or an action, such as 127.0.0.2=60, 127.0.0.4-7=ban, 127.0.0.10=detect`},
		"list without a zone":           {"rbl_enabled=true\nrbl_x_enabled=true", `:3:1: rbl_x_enabled: no DNS zone is known for "x"; add rbl_x_zone=ZONE, or use a list whose zone is known: blocklist, dronebl, spamcop, spamhaus`},
		"zone":                          {"rbl_x_zone=127.0.0.1", `:2:12: rbl_x_zone: wrong value "127.0.0.1"; write the name of a DNS zone`},
		"mail address":                  {"report_blocklist_de_server=mef@localhost", `:2:28: report_blocklist_de_server: wrong value "mef@localhost"; write a mail address such as mef@example.org`},
		"server not registered":         {"report_blocklist_de=true", `:2:1: report_blocklist_de: it is not known how this host is registered there; add report_blocklist_de_server=ADDRESS, the mail address of this server in your account`},
		"name server":                   {"rbl_servers=127.0.0.1,dns.example", `:2:23: rbl_servers: wrong value "dns.example"; write addresses of name servers such as 127.0.0.1 or [2001:db8::53]:5353, with commas`},
		"community by DNS":              {"community_cloud_lookup=dns", `:2:24: community_cloud_lookup: wrong value "dns"; write feed, prefix, or the name of a DNS zone such as bl.example.org`},
		"two lists of a name":           {"community_cloud_protection=true\ncommunity_cloud_lookup=prefix\nrbl_enabled=true\nrbl_community_enabled=true\nrbl_community_zone=bl.example", `:3:1: community_cloud_lookup: rbl_community_enabled has another list of the name community; name that one otherwise`},
		"action":                        {"rbl_x_action=block", `:2:14: rbl_x_action: wrong value "block"; write score or ban or detect`},
		"access to nothing":             {"[access ssh]\nports=22", `:2:1: [access ssh]: nothing is denied; add deny=@country:XX, or allow_only=@country:XX`},
		"both ways":                     {"[access ssh]\ndeny=@country:CN\nallow_only=@country:DE", `:4:1: [access ssh]: deny and allow_only together; remove one: allow_only denies everything else`},
		"the United Kingdom":            {"[access ssh]\ndeny=@country:DE,@country:UK", `:3:18: deny: "UK" is not the code of a country; write @country:GB`},
		"a bare code":                   {"[access ssh]\nallow_only=de", `:3:12: allow_only: "de" is neither a country nor an autonomous system; write @country:DE`},
		"a name of an AS":               {"[access ssh]\ndeny=@as:AS64500", `:3:6: deny: "AS64500" is not the number alone; write @as:64500`},
		"no databases":                  {"[access ssh]\ndeny=@country:DE", `:2:1: [access ssh]: no database has its addresses; add geo_databases=PATH to [global], such as /usr/share/GeoIP/GeoLite2-Country.mmdb or /var/lib/GeoIP/GeoLite2-Country.mmdb`},
		"name of an access":             {"[access My_SSH]\ndeny=@country:DE", `:2:1: access "My_SSH": wrong name; write [access NAME], a name of lower-case letters, digits and - up to 32 characters`},
		"a relative database":           {"geo_databases=GeoLite2.mmdb", `:2:15: geo_databases: wrong value "GeoLite2.mmdb"; write absolute paths of mmdb files, with commas`},
	} {
		t.Run(name, func(t *testing.T) {
			_, got := load(t, map[string]string{"mef.conf": "[global]\n" + tt.text + "\n"})
			if want := "mef.conf" + tt.want; got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
	t.Run("setting before section", func(t *testing.T) {
		_, got := load(t, map[string]string{"mef.conf": "mode=observe\ndebug=maybe\n"})
		want := "mef.conf:1:1: setting before the first section; write [global] in front of it\n" +
			`mef.conf:2:7: debug: wrong value "maybe"; write true or false`
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}

// A file that is no configuration at all is left before its mistakes fill the screen.
func TestMistakesAreBounded(t *testing.T) {
	for name, text := range map[string]string{
		"no settings":  strings.Repeat("nonsense\n", 100000),
		"unknown keys": strings.Repeat("nonsense=1\n", 80000),
		"sections":     strings.Repeat("[nonsense]\n", 80000),
	} {
		t.Run(name, func(t *testing.T) {
			_, got := load(t, map[string]string{"rules.d/a.conf": "[rule]\n" + text})
			if n := strings.Count(got, "\n"); n > 210 || !strings.Contains(got, "too many mistakes, the rest of the file is not read") {
				t.Errorf("%d lines:\n%.1000s", n, got)
			}
		})
	}
}

func TestUnreadableFilesAreErrors(t *testing.T) {
	dir := tree(t, complete(map[string]string{"mef.conf": dirs, "big.conf": strings.Repeat("#\n", 1<<20)}))
	for name, target := range map[string]string{"dangling.conf": "nowhere", "folder.conf": ".", "big.conf": "../big.conf", "null.conf": "/dev/null"} {
		if err := os.Symlink(target, filepath.Join(dir, "rules.d", name)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := loader.Load(dir + "/mef.conf")
	want := `rules.d/big.conf: larger than 1 MiB
rules.d/dangling.conf: no such file or directory
rules.d/folder.conf: not a regular file
rules.d/null.conf: not a regular file`
	if err == nil || strings.ReplaceAll(err.Error(), dir+"/", "") != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestValues(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		got  func(*conf.Config) any
		want any
	}{
		"seconds":             {"bantime=90", func(c *conf.Config) any { return c.Ban.First }, 90 * time.Second},
		"days":                {"bantime_cap=14d", func(c *conf.Config) any { return c.Ban.Cap }, 14 * duration.Day},
		"days and hours":      {"bantime_cap=1d12h", func(c *conf.Config) any { return c.Ban.Cap }, 36 * time.Hour},
		"since with a word":   {"journal_since=3 hours ago", func(c *conf.Config) any { return c.JournalSince }, 3 * time.Hour},
		"since without space": {"journal_since=5min ago", func(c *conf.Config) any { return c.JournalSince }, 5 * time.Minute},
		"since as a duration": {"journal_since=10m", func(c *conf.Config) any { return c.JournalSince }, 10 * time.Minute},
		"observe":             {"mode=observe", func(c *conf.Config) any { return c.Observe }, true},
		"white space":         {" \t mode \t=\t observe \t", func(c *conf.Config) any { return c.Observe }, true},
		"carriage return":     {"mode=observe\r", func(c *conf.Config) any { return c.Observe }, true},
		"comment":             {"mode=observe # for now", func(c *conf.Config) any { return c.Observe }, true},
		"hash in a value":     {"firewall_log_prefix=MEF#1", func(c *conf.Config) any { return c.Log.Prefix }, "MEF#1"},
		"debug":               {"debug=true", func(c *conf.Config) any { return c.LogLevel.String() }, "DEBUG"},
		"list":                {"proxies= 192.0.2.7 ,, 2001:db8::/32", func(c *conf.Config) any { return strings.Join(c.Proxies, " ") }, "192.0.2.7 2001:db8::/32"},
		"sockets":             {"syslog_listen=unix:/run/log, udp:0.0.0.0:5514\nsyslog_senders=192.0.2.0/24", func(c *conf.Config) any { return fmt.Sprint(c.Syslog) }, "{[{unix /run/log} {udp 0.0.0.0:5514}] [192.0.2.0/24]}"},
		"empty list":          {"protect_groups=", func(c *conf.Config) any { return len(c.ProtectGroups) }, 0},
		"no window":           {"file_recent_window=0", func(c *conf.Config) any { return c.FileRecent.Window }, time.Duration(0)},
		"path":                {"control_socket=/run//mef/./x.sock", func(c *conf.Config) any { return c.Paths.ControlSocket }, "/run/mef/x.sock"},
		"ports of no scan":    {"ps_exclude_ports=auto,443,22", func(c *conf.Config) any { return string(c.Scan.Exclude) }, "22,443"},
		"byte order mark":     {"", func(c *conf.Config) any { return c.Observe }, false},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, said := load(t, map[string]string{"mef.conf": "\xef\xbb\xbf" + dirs + tt.text + "\n"})
			if cfg == nil {
				t.Fatal(said)
			}
			if got := tt.got(cfg); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestNotices(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"nothing":            {"mode=observe", ""},
		"placement, once":    {"firewall_table=mef\nmode=observe\nfirewall_hook=input", "mef.conf:5:1: firewall_table, firewall_hook: accepted and ignored, the table is always inet mefdaemon"},
		"bans that are none": {"rbl_enabled=true\nrbl_blocklist_bantime=1h\nrbl_blocklist_ports=22", "mef.conf:7:1: rbl_blocklist_ports: a listing adds points to the score; ports and bantime have an effect with rbl_blocklist_action=ban"},
		"not built, off":     {"rbl_enabled=false\nps_enabled=false\nddos_enabled=false\ncommunity_report=false", ""},
		"floods, iptables":   {"firewall_backend=iptables\nddos_enabled=true", ""},
		"clamped":            {"ddos_bantime=permanent", "mef.conf:5:1: ddos_bantime: the source of a scan or flood can be forged, so nothing is dropped for longer than 10m"},
		"wildcard answers":   {"rbl_x_answer_match=127.0.0.2,*", "mef.conf:5:1: rbl_x_answer_match: answers outside 127.0.0.0/8 and in 127.255.255.0/24 are errors of the list, never listings"},
		"open web hook":      {"[notify x]\nurl=http://example.org/", "mef.conf:6:5: url: what is sent there, the key among it, can be read on its way; write https:// if the server has it"},
		"web hook, here":     {"[notify x]\nurl=http://127.0.0.1:8080/\nformat=ntfy", ""},
		"mail over a hook":   {"[notify x]\nurl=https://example.org/\nsmtp_user=x\nkey_file=/etc/mef/k", "mef.conf:7:1: smtp_user has an effect with mail only"},
		"state below /etc":   {"cache_dir=/etc/mef/cache", `mef.conf:5:1: cache_dir: the daemon cannot write "/etc/mef/cache", its state is in /var/lib/mef`},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, said := load(t, map[string]string{"mef.conf": dirs + tt.text + "\n"})
			if cfg == nil || said != tt.want {
				t.Errorf("got  %s\nwant %s", said, tt.want)
			}
		})
	}
}

func TestUnwritableStateDirIsReplaced(t *testing.T) {
	dir := tree(t, complete(map[string]string{"mef.conf": dirs + "cache_dir=DIR/cache\n"}))
	for writable, want := range map[bool]string{true: dir + "/cache", false: "/var/lib/mef"} {
		l := loader
		l.Writable = func(string) bool { return writable }
		cfg, err := l.Load(dir + "/mef.conf")
		if err != nil {
			t.Fatal(err)
		}
		if cfg.Paths.StateDir != want || len(cfg.Notices) == 0 != writable {
			t.Errorf("writable %v: state in %s, notices %v", writable, cfg.Paths.StateDir, cfg.Notices)
		}
	}
	cfg, err := loader.Load(tree(t, complete(map[string]string{"mef.conf": dirs + "cache_dir=DIR/cache\n", "cache": "a file"})) + "/mef.conf")
	if err != nil || cfg.Paths.StateDir != "/var/lib/mef" || len(cfg.Notices) != 1 {
		t.Errorf("a file as directory: %+v, %v", cfg, err)
	}
	if !writable(dir + "/to/be/made") {
		t.Error("a directory that can be made is not writable")
	}
	if writable(dir + "/mef.conf/below") {
		t.Error("a directory below a file is writable")
	}
}

func TestUnwritableEventLogIsReplaced(t *testing.T) {
	for name, tt := range map[string]struct {
		settings string
		writable bool
		want     string
		notices  int
	}{
		"writable":   {"ban_log_enabled=true\nban_log_path=DIR/bans.log\n", true, "DIR/bans.log", 0},
		"not":        {"ban_log_enabled=true\nban_log_path=DIR/bans.log\n", false, "/var/log/mef.log", 1},
		"no folder":  {"ban_log_enabled=true\nban_log_path=DIR/none/bans.log\n", true, "/var/log/mef.log", 1},
		"not wanted": {"ban_log_path=DIR/bans.log\n", false, "DIR/bans.log", 0},
		"default":    {"ban_log_enabled=true\n", false, "/var/log/mef.log", 0}, // the daemon will say if it cannot
	} {
		t.Run(name, func(t *testing.T) {
			dir := tree(t, complete(map[string]string{"mef.conf": dirs + tt.settings}))
			l := loader
			l.Writable = func(path string) bool { return tt.writable || path == conf.DefaultStateDir }
			cfg, err := l.Load(dir + "/mef.conf")
			if err != nil {
				t.Fatal(err)
			}
			if want := strings.ReplaceAll(tt.want, "DIR", dir); cfg.EventLogPath != want || len(cfg.Notices) != tt.notices {
				t.Errorf("event log %s, notices %v; want %s and %d", cfg.EventLogPath, cfg.Notices, want, tt.notices)
			}
		})
	}
}

// What is no regular file would make the daemon wait for a reader, or lose the log.
func TestEventLogMustBeARegularFile(t *testing.T) {
	for name, tt := range map[string]struct{ path, want string }{
		"a folder": {"DIR", "is a directory, not a regular file"},
		"a pipe":   {"DIR/pipe", "is a named pipe, not a regular file"},
		"a device": {"/dev/null", "is a device, not a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := tree(t, complete(map[string]string{"mef.conf": dirs + "ban_log_enabled=true\nban_log_path=" + tt.path + "\n"}))
			if err := syscall.Mkfifo(dir+"/pipe", 0o600); err != nil {
				t.Fatal(err)
			}
			l := loader
			l.Writable = func(string) bool { return true }
			_, err := l.Load(dir + "/mef.conf")
			var errs diag.Errors
			if !errors.As(err, &errs) || len(errs) != 1 || !strings.Contains(errs[0].Msg, tt.want) || errs[0].Pos.Line == 0 || errs[0].Hint == "" {
				t.Errorf("%v; want one error with its line and a hint: %s", err, tt.want)
			}
		})
	}
}

func TestOrigins(t *testing.T) {
	cfg, said := load(t, map[string]string{"mef.conf": dirs + "bantime=3m # short\ncommunity_report_token=s3cret\ncache_dir=/etc/x\nddos_port_22_syn_rate=4\n"})
	if cfg == nil {
		t.Fatal(said)
	}
	got := make(map[string]string)
	for _, o := range cfg.Origins {
		where := "default"
		if o.Pos.Line > 0 {
			where = filepath.Base(o.Pos.String())
		}
		got[o.Key] = o.Value + " " + where
	}
	for key, want := range map[string]string{
		"bantime":                "3m mef.conf:5:9",
		"bantime_cap":            "7d default",
		"community_report_token": "(not shown) mef.conf:6:24",
		"cache_dir":              "/var/lib/mef mef.conf:7:11",
		"ddos_port_22_syn_rate":  "4 mef.conf:8:23",
		"proxies":                " default",
	} {
		if got[key] != want {
			t.Errorf("%s: %s, want %s", key, got[key], want)
		}
	}
	for _, k := range keys {
		if _, ok := got[k.Name]; !ok && !strings.ContainsAny(k.Name, "NK") {
			t.Errorf("key %s has no origin", k.Name)
		}
	}
}

func TestListErrorsLeaveTheRest(t *testing.T) {
	cfg, said := load(t, map[string]string{
		"whitelist/a.conf": "192.0.2.1\n192.0.2.300\n",
		"blacklist/b.conf": "oops # what\n203.0.113.0/24\n",
	})
	if cfg == nil {
		t.Fatal(said)
	}
	if len(cfg.Whitelist) != 1 || len(cfg.Blacklist) != 1 || len(cfg.ListErrors) != 2 {
		t.Errorf("%v %v %v", cfg.Whitelist, cfg.Blacklist, cfg.ListErrors)
	}
	if p, ok := cfg.Blacklist[0].Prefixes(); !ok || p[0] != netip.MustParsePrefix("203.0.113.0/24") {
		t.Errorf("blacklist %v", p)
	}
}

// A list that cannot be read must not keep the daemon from starting: a whole host would go without protection for it.
func TestUnreadableListsLeaveTheRest(t *testing.T) {
	dir := tree(t, complete(map[string]string{"mef.conf": dirs, "whitelist/a.conf": "192.0.2.1\n", "blacklist/b.conf": "203.0.113.0/24\n"}))
	for name, target := range map[string]string{"blacklist/dangling.conf": "nowhere", "whitelist/folder.conf": "."} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := loader.Load(dir + "/mef.conf")
	if err != nil {
		t.Fatal(err)
	}
	want := "whitelist/folder.conf: not a regular file\nblacklist/dangling.conf: no such file or directory"
	if got := strings.ReplaceAll(cfg.ListErrors.Error(), dir+"/", ""); got != want || len(cfg.Whitelist) != 1 || len(cfg.Blacklist) != 1 {
		t.Errorf("%v %v, and %s", cfg.Whitelist, cfg.Blacklist, got)
	}
}

// Reading lists again can be switched off.
func TestReloadOff(t *testing.T) {
	for value, want := range map[string]time.Duration{"0": 0, "false": 0, "90": 90 * time.Second, "1m": time.Minute} {
		dir := tree(t, map[string]string{"mef.conf": "[global]\nwhitelist_reload=" + value + "\nblacklist_reload=" + value + "\n"})
		cfg, err := Settings(dir + "/mef.conf")
		if err != nil || cfg.WhitelistReload != want || cfg.BlacklistReload != want {
			t.Errorf("%s: %v, %v, %v; want %v", value, cfg.WhitelistReload, cfg.BlacklistReload, err, want)
		}
	}
}

func TestAccess(t *testing.T) {
	cfg, said := load(t, map[string]string{"mef.conf": dirs + "geo_databases=/a.mmdb, /b.mmdb\n[access web]\ndeny=@country:kp,@as:7,@country:KP\nenabled=false\n[access ssh]\nallow_only=@country:DE\nports=22,2222\n"})
	if len(said) > 0 || !slices.Equal(cfg.GeoDatabases, []string{"/a.mmdb", "/b.mmdb"}) || len(cfg.Access) != 2 {
		t.Fatalf("%v, %+v", said, cfg)
	}
	if a := cfg.Access[0]; a.Name != "ssh" || !a.Enabled || a.Text() != "allow_only=@country:DE" || a.Ports != "22,2222" {
		t.Errorf("%+v", a)
	}
	if a := cfg.Access[1]; a.Name != "web" || a.Enabled || a.Text() != "deny=@as:7,@country:KP" || a.Ports != "" {
		t.Errorf("%+v", a)
	}
}

// A section of a feed is complete by itself, or changes a built-in one; without a section these are there, and off.
func TestFeeds(t *testing.T) {
	cfg, said := load(t, map[string]string{"mef.conf": dirs + "[feed own]\nurl=file:///srv/own.csv\nformat=csv\ncolumn=3\nports=25,22\nmax_size=2\n" +
		"[feed tor-exits]\ndirection=both\n[feed cins]\nenabled=false\n"})
	if cfg == nil || said != "" {
		t.Fatal(said)
	}
	byName := make(map[string]conf.Feed)
	for _, f := range cfg.Feeds {
		byName[f.Name] = f
	}
	if own := byName["own"]; !own.Enabled || own.URL != "file:///srv/own.csv" || own.Format != conf.FeedCSV || own.Column != 3 || own.Ports != "22,25" ||
		own.Both || own.MaxSize != 2 || own.MaxShare != 20 || own.Refresh != 6*time.Hour {
		t.Errorf("own: %+v", own)
	}
	if tor := byName["tor-exits"]; !tor.Enabled || !tor.Both || !strings.HasPrefix(tor.URL, "https://") || tor.Refresh != time.Hour {
		t.Errorf("tor-exits: %+v", tor)
	}
	if drop := byName["spamhaus-drop"]; drop.Enabled || drop.Format != conf.FeedJSON || drop.Member != "cidr" || byName["cins"].Enabled {
		t.Errorf("spamhaus-drop: %+v", drop)
	}
}
