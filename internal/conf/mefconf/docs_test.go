package mefconf

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"mef/internal/conf/ini"
	"mef/internal/conf/rulefile"
)

const (
	configurationMD = "../../../docs/configuration.md"
	reputationMD    = "../../../docs/reputation.md"
	feedsMD         = "../../../docs/feeds.md"
	notificationsMD = "../../../docs/notifications.md"
	countriesMD     = "../../../docs/countries.md"
	confMan         = "../../../man/mef.conf.5"
	rulesMan        = "../../../man/mefdaemon.rules.5"
	listsMan        = "../../../man/mefdaemon.lists.5"
	exampleConf     = "../../../etc/mef.conf.example"
)

// A row is the documentation of a key.
type row struct {
	key, value, syntax, doc, notice string
	always                          bool // the notice holds whatever the value is
}

func rows[T any](t ini.Table[T]) []row {
	var out []row
	for _, s := range t {
		out = append(out, row{s.Name, s.Value, s.Form.Syntax, s.Doc, s.Notice, s.Notice != "" && s.When == nil})
	}
	return out
}

// unbuilt are the keys of stages to come, by the beginning of their names.
var unbuilt = map[string]string{"community_report_insecure_tls": "certificates are always checked", "blacklist_fastpath": noticeFastPath}

// without returns why a key is without effect, or "".
func (r row) without() string {
	if r.always {
		return r.notice
	}
	for prefix, why := range unbuilt {
		if strings.HasPrefix(r.key, prefix) {
			return strings.TrimSuffix(why, ": ignored")
		}
	}
	return ""
}

func inForce() []row {
	return slices.DeleteFunc(rows(keys), func(r row) bool { return r.without() != "" })
}

func notInForce() []row {
	return slices.DeleteFunc(rows(keys), func(r row) bool { return r.without() == "" })
}

func ofRules() []row {
	return rows(rulefile.Keys)
}

func ofWebRules() (all []row) {
	for _, part := range rulefile.WebKeys {
		for _, r := range rows(part.Keys) {
			r.key = "[" + part.Section + "] " + r.key
			all = append(all, r)
		}
	}
	return all
}

// markdown writes a table of keys.
func markdown(rows []row) string {
	var b strings.Builder
	b.WriteString("| key | default | value | meaning |\n|---|---|---|---|\n")
	for _, r := range rows {
		doc := r.doc
		if why := r.without(); why != "" {
			doc += " (" + why + ")"
		} else if r.notice != "" {
			doc += "; " + r.notice
		}
		value := ""
		if r.value != "" {
			value = "`" + r.value + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", r.key, value, strings.ReplaceAll(r.syntax, "|", `\|`), doc)
	}
	return b.String()
}

// sentence returns what a key means with a capital letter, unless it begins with the name of a key or with a value.
func sentence(r row) string {
	word := regexp.MustCompile(`^\w+`).FindString(r.doc)
	if strings.Contains(word, "_") || slices.Contains(strings.Split(r.syntax, " or "), word) {
		return r.doc
	}
	return strings.ToUpper(r.doc[:1]) + r.doc[1:]
}

// roff writes a list of keys in the macros of man(7).
func roff(rows []row) string {
	escape := strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace
	var b strings.Builder
	for _, r := range rows {
		fmt.Fprintf(&b, ".TP\n.BI %s =\n", escape(r.key))
		text := sentence(r) + "."
		if why := r.without(); why != "" {
			text += " Now: " + why + "."
		} else if r.notice != "" {
			text += " " + strings.ToUpper(r.notice[:1]) + r.notice[1:] + "."
		}
		text += "\nValue: " + r.syntax + "."
		if r.value != "" {
			text += " Default: " + r.value + "."
		}
		for line := range strings.Lines(text + "\n") {
			if line = escape(line); line[0] == '.' || line[0] == '\'' {
				line = `\&` + line
			}
			b.WriteString(line)
		}
	}
	return b.String()
}

// The tables in the documentation agree with those in the code.
func TestDocs(t *testing.T) {
	for _, tt := range []struct {
		file, name string
		write      func([]row) string
		rows       []row
	}{
		{configurationMD, "keys in force", markdown, inForce()},
		{configurationMD, "keys not in force", markdown, notInForce()},
		{feedsMD, "keys of feeds", markdown, rows(feedKeys)},
		{confMan, "keys of feeds", roff, rows(feedKeys)},
		{notificationsMD, "keys of notifications", markdown, rows(notifyKeys)},
		{confMan, "keys of notifications", roff, rows(notifyKeys)},
		{countriesMD, "keys of access", markdown, rows(accessKeys)},
		{confMan, "keys of access", roff, rows(accessKeys)},
		{configurationMD, "keys of rules", markdown, ofRules()},
		{confMan, "keys in force", roff, inForce()},
		{confMan, "keys not in force", roff, notInForce()},
		{configurationMD, "keys of webscan rules", markdown, ofWebRules()},
		{rulesMan, "keys of rules", roff, ofRules()},
		{rulesMan, "keys of webscan rules", roff, ofWebRules()},
	} {
		t.Run(tt.file+" "+tt.name, func(t *testing.T) {
			text, err := os.ReadFile(tt.file)
			if err != nil {
				t.Fatal(err)
			}
			section := regexp.MustCompile(`(?s)((?:<!--|\.\\") ` + tt.name + `: [^\n]*\n)(.*?)((?:<!--|\.\\") end)`)
			m := section.FindSubmatchIndex(text)
			if m == nil {
				t.Fatalf("no place for %s", tt.name)
			}
			golden(t, tt.file, string(text[:m[3]])+tt.write(tt.rows)+string(text[m[6]:]))
		})
	}
}

// Every example in the documentation is a valid file.
func TestDocExamples(t *testing.T) {
	var text []byte
	for _, page := range []string{configurationMD, reputationMD, feedsMD, notificationsMD, countriesMD} {
		more, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, more...)
	}
	examples := regexp.MustCompile("(?s)```(ini|text)\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	for _, page := range []struct{ file, kind string }{{confMan, "ini"}, {rulesMan, "ini"}, {listsMan, "text"}} {
		man, err := os.ReadFile(page.file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?s)\.RS\n(.*?)\.RE`).FindAllStringSubmatch(string(man), -1) {
			examples = append(examples, []string{m[0], page.kind, m[1]})
		}
	}
	if len(examples) < 8 {
		t.Fatalf("found %d examples", len(examples))
	}
	for _, e := range examples {
		files := make(map[string]string)
		switch {
		case e[1] == "text":
			files["whitelist/a.conf"] = e[2]
		case strings.HasPrefix(e[2], "[feed "), strings.HasPrefix(e[2], "[notify "):
			files["mef.conf"] = dirs + e[2]
		case strings.Contains(e[2], "[global]"):
			files["mef.conf"] = strings.Replace(e[2], "[global]\n", dirs, 1)
		case strings.Contains(e[2], "failregex"):
			files["rules.d/example.conf"] = e[2]
		default:
			files["rules.d/sshd.conf"] = e[2]
		}
		cfg, said := load(t, files)
		if cfg == nil || said != "" || len(cfg.ListErrors) > 0 {
			t.Errorf("example\n%s\nsays %s", e[2], said)
		}
	}
}

// The example parses and has every key that is in force, with its default.
func TestExample(t *testing.T) {
	text, err := os.ReadFile(exampleConf)
	if err != nil {
		t.Fatal(err)
	}
	if cfg, said := load(t, map[string]string{"mef.conf": strings.Replace(string(text), "[global]\n", dirs, 1)}); cfg == nil || said != "" {
		t.Errorf("as it is: %s", said)
	}
	live := regexp.MustCompile(`(?m)^#([a-z0-9_]+=)`).ReplaceAllString(string(text), "$1")
	l := loader
	l.Optional = true
	want, err := l.Load("/nonexistent/mef.conf")
	if err != nil {
		t.Fatal(err)
	}
	got, err := l.Load(tree(t, map[string]string{"mef.conf": live}) + "/mef.conf")
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Notices) > 0 {
		t.Errorf("notices %v", got.Notices)
	}
	for i, o := range got.Origins {
		if o.Value != want.Origins[i].Value {
			t.Errorf("%s=%s, the default is %s", o.Key, o.Value, want.Origins[i].Value)
		}
		set := o.Pos.Line > 0
		if shown := slices.ContainsFunc(inForce(), func(r row) bool { return r.key == o.Key }); set != shown {
			t.Errorf("key %s: in force %v, in the example %v", o.Key, shown, set)
		}
	}
}
