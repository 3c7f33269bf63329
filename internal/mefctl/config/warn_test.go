package config

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/host/docker"
	"mef/internal/mefctl/cli/clitest"
)

// reporter is a daemon that only tells its status.
type reporter struct {
	control.Service
	status control.Status
}

func (r reporter) Status(context.Context) (control.Status, error) { return r.status, nil }

// A rule whose lines nobody reads is named, with the reason, and a host on which bans are only said for long.
func TestWarningsOfADaemon(t *testing.T) {
	now := time.Now()
	path := filepath.Join(t.TempDir(), "mef.conf")
	old := now.Add(-8 * 24 * time.Hour)
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chtimes(path, old, old)); err != nil {
		t.Fatal(err)
	}
	shop := conf.Rule{Name: "shop", Enabled: true, Source: conf.SourceFile, Files: []string{"/nowhere/shop*.log"}}
	here := conf.Rule{Name: "here", Enabled: true, Source: conf.SourceFile, Files: []string{path}}
	mysql := shop
	mysql.Pos.File = conf.ShippedFile("mysql.conf") // whose service need not be here
	for name, tt := range map[string]struct {
		observe bool
		rules   []conf.Rule
		running *control.Status
		want    []string // the beginnings of all that is reported
	}{
		"all is well": {false, nil, &control.Status{Rules: []control.Rule{{Name: "sshd", Enabled: true, Live: "journal"}},
			Sources: []control.Source{{Name: "journal", State: "active", Rules: []string{"sshd"}}}}, nil},
		"nothing yet": {false, nil, &control.Status{Rules: []control.Rule{{Name: "sshd", Enabled: true, Live: "none", Reason: "no entries yet"}}},
			[]string{"rule sshd has no live source: no entries yet"}},
		"its file is not there": {false, nil, &control.Status{Rules: []control.Rule{{Name: "shop", Enabled: true, Live: "files"}},
			Sources: []control.Source{{Name: "/var/log/shop.log", State: "waiting", Reason: "no such file", Rules: []string{"shop"}}}},
			[]string{"rule shop has no live source: /var/log/shop.log is waiting (no such file)"}},
		"one of its files is": {false, nil, &control.Status{Rules: []control.Rule{{Name: "shop", Enabled: true, Live: "files"}},
			Sources: []control.Source{{Name: "/a", State: "waiting", Rules: []string{"shop"}}, {Name: "/b", State: "active", Rules: []string{"shop"}}}}, nil},
		"no daemon": {false, []conf.Rule{shop, here, mysql}, nil,
			[]string{"rule shop has no live source: there is no /nowhere/shop*.log", "mefdaemon is not running, so whether each rule has a log source is not known"}},
		"observing for a week, no daemon": {true, nil, nil, []string{"mefdaemon is not running", "mode=observe since " + old.Format(time.DateOnly) + ": no bans are applied; set mode=enforce"}},
		"observing for a week":            {true, nil, &control.Status{WatchingSince: &old}, []string{"mode=observe since " + old.Format(time.DateOnly)}},
		"observing since today":           {true, nil, &control.Status{WatchingSince: &now}, nil},
		"not confirmed for a week":        {false, nil, &control.Status{WatchingSince: &old, Armed: &control.Armed{Lapsed: true}}, []string{"mefctl enable was not confirmed, so no bans are applied since "}},
		"about to be reloaded":            {false, nil, &control.Status{WatchingSince: &old}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			client := control.NewClient(filepath.Join(t.TempDir(), "none"))
			if tt.running != nil {
				client = control.NewClient(clitest.Socket(t, reporter{status: *tt.running}))
			}
			got := warnings(t.Context(), &conf.Config{Path: path, Observe: tt.observe, Rules: tt.rules}, client, now)
			got = slices.DeleteFunc(got, func(text string) bool {
				return strings.HasPrefix(text, "sshd listens") || strings.HasPrefix(text, "no rule covers")
			}) // on this machine
			if !slices.EqualFunc(got, tt.want, strings.HasPrefix) {
				t.Errorf("warnings %q, want %q", got, tt.want)
			}
		})
	}
}

// A container whose log driver writes no file is named with the rule that is to read it.
func TestUnreadContainers(t *testing.T) {
	rule := conf.Rule{Name: "shop", Service: "shop", Enabled: true, Images: []string{"x/shop"}}
	got := unreadContainers([]conf.Rule{rule}, []docker.Container{{Name: "a", Image: "x/shop", Driver: "local"}, {Name: "b", Image: "x/shop:1", Driver: "json-file"}, {Name: "c", Image: "y", Driver: "local"}})
	if want := []string{`rule shop does not read container "a": its log driver is "local", not json-file`}; !slices.Equal(got, want) {
		t.Errorf("warnings %q, want %q", got, want)
	}
}
