package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"mef/internal/control"
	"mef/internal/mefctl/cli/clitest"
)

// A listKeeper is a control.Service that has lists and bans.
type listKeeper struct {
	control.Service
	asked control.AllowRequest
	batch control.Batch
	lists control.Lists

	status  control.Status
	refusal string // of Reload and Disallow, instead of the usual one
}

func (f *listKeeper) Lists(context.Context, string) (control.Lists, error) { return f.lists, nil }

func (f *listKeeper) Bans(context.Context) ([]control.Ban, error) { return nil, nil }
func (f *listKeeper) Allow(_ context.Context, req control.AllowRequest) (control.Entry, error) {
	f.asked = req
	e := control.Entry{Entry: req.Entry}
	if strings.HasSuffix(req.Entry, ".example") {
		e.Resolved = new(control.Resolved)
	}
	return e, nil
}
func (f *listKeeper) Disallow(_ context.Context, req control.AllowRequest) (control.Entry, error) {
	if f.refusal != "" {
		return control.Entry{}, &control.Error{Message: f.refusal}
	}
	return control.Entry{}, &control.Error{Message: req.Entry + " is not an entry of the allow list; see mefctl allow list"}
}
func (f *listKeeper) ClearBans(context.Context, string) (control.Cleared, error) {
	return control.Cleared{Lifted: 3, Listed: 2}, nil
}
func (f *listKeeper) Reload(context.Context, string) (control.Reloaded, error) {
	if f.refusal != "" {
		return control.Reloaded{}, &control.Error{Message: f.refusal}
	}
	return control.Reloaded{}, &control.Error{Message: "mef.conf:2:1: first\nmef.conf:3:1: second"}
}
func (f *listKeeper) Status(context.Context) (control.Status, error) {
	if f.status.Sources != nil {
		return f.status, nil
	}
	return control.Status{Rules: []control.Rule{
		{Name: "sshd", Enabled: true, Live: "journal"},
		{Name: "vsftpd", Enabled: true, Live: "none", Reason: "neither journal entries nor files of vsftpd yet"},
	}}, nil
}

// keeping serves f and returns a function that runs one command against it.
func keeping(t *testing.T, f *listKeeper) func(args ...string) (status int, out, errOut string) {
	t.Helper()
	path := clitest.Config(t, f, "mode=observe\n")
	return func(args ...string) (int, string, string) {
		var out, errOut strings.Builder
		status := execute(t.Context(), "test", append([]string{"--config", path}, args...), strings.NewReader(""), &out, &errOut)
		return status, out.String(), errOut.String()
	}
}

func (f *listKeeper) BanAll(_ context.Context, b control.Batch) (control.Done, error) {
	return f.note(b)
}
func (f *listKeeper) UnbanAll(_ context.Context, b control.Batch) (control.Done, error) {
	return f.note(b)
}
func (f *listKeeper) AllowAll(_ context.Context, b control.Batch) (control.Done, error) {
	return f.note(b)
}
func (f *listKeeper) DisallowAll(_ context.Context, b control.Batch) (control.Done, error) {
	return f.note(b)
}
func (f *listKeeper) note(b control.Batch) (control.Done, error) {
	f.batch = b
	d := control.Done{Done: len(b.Entries)}
	if len(b.Entries) > 0 && b.Entries[0] == "127.0.0.1" {
		d.Done--
		d.Refuse(b.Entries[0], errors.New("never banned: loopback"))
	}
	return d, nil
}

// Entries of a file go in one request, in the format of list files, and the errors in them is named by line.
func TestEntriesOfAFile(t *testing.T) {
	f := &listKeeper{}
	run := keeping(t, f)
	path := filepath.Join(t.TempDir(), "list")
	for name, tt := range map[string]struct {
		text, args string
		status     int
		entries    string
		says       string
	}{
		"bans":            {"192.0.2.1 # one\n\n2001:db8::/48\n", "bans add --for 2h --ports 22 --file", 0, "192.0.2.1 2001:db8::/48", "Banned 2 addresses and networks.\n"},
		"a range":         {"192.0.2.1-192.0.2.2\n", "bans add --file", 0, "192.0.2.1 192.0.2.2", "Banned 2 "},
		"refused":         {"127.0.0.1\n192.0.2.1\n", "bans add --file", 1, "127.0.0.1 192.0.2.1", "mefctl: 127.0.0.1: never banned: loopback\n"},
		"lifted":          {"192.0.2.1\n", "bans delete --file", 0, "192.0.2.1", "Lifted 1 bans.\n"},
		"allowed":         {"office.example\n192.0.2.1-192.0.2.9\n", "allow add --note audit --file", 0, "office.example 192.0.2.1-192.0.2.9", "Added 2 entries"},
		"no longer":       {"192.0.2.1\n", "allow delete --file", 0, "192.0.2.1", "Removed 1 entries"},
		"a name":          {"192.0.2.1\noffice.example\n", "bans add --file", 1, "", "list:2:1: \"office.example\" is a name; write addresses and networks\n"},
		"a mistake":       {"192.0.2.1\n192.0.2.999\n", "allow add --file", 1, "", "list:2:1: "},
		"nothing":         {"# none\n", "bans add --file", 1, "", "has no entry; write one per line"},
		"an address, too": {"192.0.2.1\n", "bans add 192.0.2.2 --file", 2, "", "takes either an entry or --file"},
	} {
		t.Run(name, func(t *testing.T) {
			f.batch = control.Batch{}
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			status, out, errOut := run(append(strings.Fields(tt.args), path)...)
			if got := strings.Join(f.batch.Entries, " "); status != tt.status || got != tt.entries || !strings.Contains(out+errOut, tt.says) {
				t.Errorf("exit status %d, entries %q, output\n%s%s\nwant %d, %q, %q", status, got, out, errOut, tt.status, tt.entries, tt.says)
			}
		})
	}
}

func TestListCommands(t *testing.T) {
	now := time.Now()
	hour, ago := now.Add(time.Hour+time.Minute), now.Add(-2*time.Hour)
	f := &listKeeper{lists: control.Lists{
		Files: []control.ListFile{{List: "whitelist", Path: "/etc/mef/whitelist/a.conf", Size: 12, Modified: ago, Entries: 1, Errors: []string{"a.conf:2:1: \"x\" is not an entry"}}},
		Entries: []control.Entry{
			{List: "whitelist", Entry: "192.0.2.7", Source: "/etc/mef/whitelist/a.conf:1:1", Note: "the office"},
			{List: "whitelist", Entry: "home.example", Source: control.ByCommand, Author: "alice", Since: &ago, Until: &hour,
				Resolved: &control.Resolved{Addrs: []string{"192.0.2.9"}, At: &ago, Ends: &hour, Error: "no addresses"}},
		},
		Kernel: []control.KernelList{{Name: "blacklist", Networks: 300000, Packets: 41}, {Name: "drop", Networks: -1}}, More: 290000,
	}}
	run := keeping(t, f)
	for name, tt := range map[string]struct {
		args   string
		status int
		says   []string
	}{
		"list": {"allow list", 0, []string{"192.0.2.7     whitelist  /etc/mef/whitelist/a.conf:1:1", `"the office"`,
			"mefctl allow add", "alice  2h   1h", "192.0.2.9, looked up 2h ago, dropped in 1h", "no addresses"}},
		"lists": {"lists", 0, []string{"/etc/mef/whitelist/a.conf  whitelist  1        12     2h ago   a.conf:2:1: \"x\" is not an entry", "home.example",
			"blacklist      300000    41\n", "drop           ?         0\n", "290000 more entries of the blacklist are not shown"}},
		"bans":               {"bans", 0, []string{"blacklist      300000    41\n", "No address is banned."}},
		"bans of one kind":   {"bans list --permanent", 0, []string{"There is no such ban."}},
		"json":               {"lists whitelist --json", 0, []string{`"source":"mefctl allow add"`}},
		"add":                {"allow add 192.0.2.7/24 --for 2h", 0, []string{"192.0.2.7/24 is never banned, until removed"}},
		"add name":           {"allow add office.example", 0, []string{"office.example is being resolved"}},
		"delete":             {"allow delete 192.0.2.7", 1, []string{"mefctl: 192.0.2.7 is not an entry of the allow list"}},
		"clear":              {"bans clear --yes", 0, []string{"Lifted 3 bans.", "2 networks of lists stay banned"}},
		"clear by mistake":   {"bans clear", 2, []string{"to do that, run mefctl bans clear --yes"}},
		"reload a bad file":  {"reload", 1, []string{"mefctl: mef.conf:2:1: first\nmefctl: mef.conf:3:1: second\n"}},
		"rule without lines": {"config check", 0, []string{"warning: rule vsftpd has no live source: neither journal entries nor files of vsftpd yet"}},
		"show":               {"config show --origin", 0, []string{"mef.conf:3:6", "bantime=10m", "default"}},
		"show as a file":     {"config show", 0, []string{"[global]\nmode=observe\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			status, out, errOut := run(strings.Fields(tt.args)...)
			if status != tt.status {
				t.Errorf("exit status %d, want %d; %s", status, tt.status, errOut)
			}
			for _, text := range tt.says {
				if !strings.Contains(out+errOut, text) {
					t.Errorf("does not say %q:\n%s%s", text, out, errOut)
				}
			}
		})
	}
	if status, _, errOut := run("allow", "add", "192.0.2.8", "--for", "2h", "--note", "for now"); status != 0 ||
		f.asked != (control.AllowRequest{Entry: "192.0.2.8", For: 2 * time.Hour, Note: "for now", Author: f.asked.Author}) || f.asked.Author == "" {
		t.Errorf("asked for %+v, %s", f.asked, errOut)
	}
}

// Whatever a stranger can name reaches the terminal only as text: log files, notes, users, in what people and what programs read.
func TestNamesOfStrangersAreShownAsText(t *testing.T) {
	const evil = "\x1b[2J\u009b31m\u202e\xff"
	f := &listKeeper{
		lists: control.Lists{Files: []control.ListFile{{List: "whitelist", Path: "/etc/" + evil, Errors: []string{evil}}},
			Entries: []control.Entry{{List: "whitelist", Entry: evil, Source: evil, Author: evil, Note: evil}}},
		status: control.Status{Missing: []string{evil}, Warnings: []string{evil}, Config: evil, Sources: []control.Source{{Name: evil, Reason: evil}}},
	}
	run := keeping(t, f)
	for _, args := range []string{"status", "status --json", "lists", "lists --json", "allow list", "reload", "allow delete 192.0.2.7"} {
		f.refusal = evil
		_, out, errOut := run(strings.Fields(args)...)
		if !strings.Contains(out+errOut, `[2J`) {
			t.Errorf("%s does not show the name at all: %q %q", args, out, errOut)
		}
		for _, r := range out + errOut {
			if r != '\n' && !unicode.IsPrint(r) {
				t.Errorf("%s lets %q through", args, r)
			}
		}
	}
	if _, out, _ := run("status", "--json"); !strings.Contains(out, `\u001b[2J\u009b31m\u202e`) {
		t.Errorf("JSON %q does not keep the name", out)
	}
}

// A counter is a control.Service that has counted and banned.
type counter struct{ control.Service }

func (counter) Status(context.Context) (control.Status, error) {
	return control.Status{Rules: []control.Rule{{Name: "sshd", Failures: 40, Bans: 2}, {Name: "idle"}, {Name: "exim", Failures: 50}}}, nil
}

func (counter) Bans(context.Context) ([]control.Ban, error) {
	soon := time.Now().Add(time.Hour)
	return []control.Ban{
		{Prefix: "192.0.2.7", Ports: "all", Rule: "sshd", Until: &soon, Count: 1, Kernel: true},
		{Prefix: "192.0.2.8", Ports: "all", Rule: "sshd", Until: &soon, Count: 3, Kernel: true},
		{Prefix: "192.0.2.9", Ports: "22", Rule: "manual", Kernel: true},
	}, nil
}

func (counter) Stats(_ context.Context, window, by string, n int) (control.Stats, error) {
	s := control.Stats{By: by, Rows: []control.StatRow{{Label: window + "-" + by, Attempts: 7, Bans: uint64(n)}}}
	if by == "names" {
		s.Rows = append(s.Rows, control.StatRow{Label: "\x1b[2J"})
	}
	return s, nil
}

func (counter) Picture(context.Context) (control.Picture, error) {
	return control.Picture{Level: control.Green, Counters: control.Counters{Attempts: 90, Bans: control.Tally{IPv4: 3, Total: 3}}}, nil
}

func TestStatsAndChoicesOfBans(t *testing.T) {
	path := clitest.Config(t, counter{}, "")
	for args, want := range map[string][]string{
		"stats":                               {"exim  50", "sshd  40", "day-services", "day-ports", "day-sources", "day-networks", `"day-names"`, `"\x1b[2J"`},
		"stats names --window year --limit 3": {`"year-names"  7         3`, `"\x1b[2J"`},
		"stats sources --json":                {`{"window":"day","tables":[{"by":"sources"`, `{"label":"day-sources","attempts":7`},
		"stats --json":                        {`"rules":[{"rule":"exim","failures":50`, `{"label":"\u001b[2J"`},
		"metrics":                             {"mef_protected 1\n", "mef_attempts_total 90\n", "mef_bans{family=\"ipv4\"} 3\n"},
		"bans list --permanent":               {"192.0.2.9  22"},
		"bans list --ips-only":                {"192.0.2.7\n192.0.2.8\n192.0.2.9\n"},
		"lists recidive":                      {"192.0.2.8  all"},
	} {
		var out, errOut strings.Builder
		status := execute(t.Context(), "test", append([]string{"--config", path}, strings.Fields(args)...), strings.NewReader(""), &out, &errOut)
		for _, text := range want {
			if status != 0 || !strings.Contains(out.String(), text) {
				t.Errorf("%s: exit status %d, want %q in\n%s%s", args, status, text, out.String(), errOut.String())
			}
		}
		if args == "lists recidive" && strings.Contains(out.String(), "192.0.2.7") {
			t.Errorf("%s lists a first ban:\n%s", args, out.String())
		}
	}
}
