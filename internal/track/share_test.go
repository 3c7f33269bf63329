package track

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// What hosts elsewhere see attacked weighs like a name that is hot here, unless it exists here, has logged in, or may be a typing error of such a name.
func TestSharedNameIsHot(t *testing.T) {
	shared := func(name string) bool {
		return slices.Contains([]string{"zork", "alice", "alcie", "daemon", "bob", "bbo1"}, name)
	}
	for name, tt := range map[string]struct {
		user  string
		users []string
		want  int
	}{
		"shared":                       {"zork", nil, 100},
		"differing in case and domain": {`EXAMPLE\Zork`, nil, 100},
		"not shared":                   {"zorx-other", nil, 35},
		"an account":                   {"alice", nil, 10},
		"near an account":              {"alcie", nil, 0},
		"an account of the system":     {"daemon", nil, 10},
		"logged in once":               {"bob", []string{"bob"}, 0},
		"near one who did":             {"bbo1", []string{"bob"}, 0},
	} {
		tr := New(namesConfig())
		tr.ShareNames(shared)
		for _, u := range tt.users {
			tr.Observe(line{0, "ok", u, "", 0}.event("sshd", "198.51.100.1"))
		}
		if got := missing(tr, 10, "192.0.2.7", tt.user); got != float64(tt.want) {
			t.Errorf("%s: a try of %q adds %v points, want %d", name, tt.user, got, tt.want)
		}
	}
	tr := New(namesConfig())
	if got := missing(tr, 1, "192.0.2.7", "zork"); got != 35 {
		t.Errorf("before the list: %v points", got)
	}
	tr.ShareNames(shared)
	if got := missing(tr, 2, "192.0.3.9", "zork"); got != 100 {
		t.Errorf("with the list: %v points", got)
	}
	for _, n := range tr.Names("zork", 0, time.Unix(3, 0)) {
		if !n.Hot || n.Origin != "community" {
			t.Errorf("mefctl names shows %+v", n)
		}
	}
	tr.ShareNames(nil)
	if got := missing(tr, 4, "198.51.100.7", "zork"); got != 35 {
		t.Errorf("without the list again: %v points", got)
	}
	off := namesConfig()
	off.Score.Hot = 0
	tr = New(off)
	tr.ShareNames(shared)
	if got := missing(tr, 1, "192.0.2.7", "zork"); got != 35 {
		t.Errorf("with score_hot_name=0: %v points", got)
	}
}

// The reason of the ban names who knows of it.
func TestSharedNameInReason(t *testing.T) {
	tr := New(namesConfig())
	tr.ShareNames(func(name string) bool { return name == "zork" })
	ev := line{1, "fail", "zork", "", 0}.event("sshd", "192.0.2.7")
	ev.UnknownUser = true
	if n := tr.Observe(ev).Name; n.Text != "no user here, and hosts of the community server see it attacked" || n.Networks != 0 {
		t.Errorf("the reason has %+v", n)
	}
}

// Each name is looked for once, as long as the list stays the same.
func TestSharedNamesAreAskedOnce(t *testing.T) {
	tr := New(namesConfig())
	asked := 0
	list := func(string) bool { asked++; return false }
	for range 2 {
		tr.ShareNames(list)
		for i := range 20 {
			missing(tr, float64(i), fmt.Sprintf("192.0.2.%d", i), "zork")
			missing(tr, float64(i), fmt.Sprintf("192.0.2.%d", i), "alice")
		}
	}
	if asked != 2 {
		t.Errorf("the lists are asked %d times, want once for each list", asked)
	}
}

// Only names that may be shared are offered: tried by two networks, not a user's, not near a user's, not a canary, not of the built-in list, and lately.
func TestNamesToShare(t *testing.T) {
	tr := New(namesConfig())
	now := 20 * 24 * 3600.0
	try := func(at float64, user string, addrs ...string) {
		for _, a := range addrs {
			missing(tr, at, a, user)
		}
	}
	try(1, "old", "192.0.2.7", "203.0.113.7")
	tr.Observe(line{now, "ok", "bob", "", 0}.event("sshd", "198.51.100.1"))
	try(now, "one", "192.0.2.7", "192.0.3.8", "192.0.2.9")
	try(now, "many", "192.0.2.7", "203.0.113.7", "100.64.0.1", "198.18.0.7")
	try(now, "two", "192.0.2.7", "203.0.113.7")
	for _, not := range []string{"alice", "alcie", "daemon", "bob", "bobb", "mallory.trap", "admin"} {
		try(now, not, "192.0.2.7", "203.0.113.7", "100.64.0.1")
	}
	tr.Observe(line{now, "fail", "exists", "", 0}.event("sshd", "192.0.2.7")) // the service does not report it as unknown
	tr.Observe(line{now, "fail", "exists", "", 0}.event("sshd", "203.0.113.7"))
	at := line{now, "fail", "", "", 0}.event("sshd", "192.0.2.7").Time
	attacked, users := tr.AttackedNames(10, at), tr.UserNames()
	if !slices.Equal(attacked, []string{"many", "two"}) {
		t.Errorf("offered are %q, want many and two", attacked)
	}
	if !slices.Equal(users, []string{"alice", "bob", "daemon"}) {
		t.Errorf("names of the host are %q", users)
	}
	if attacked = tr.AttackedNames(1, at); !slices.Equal(attacked, []string{"many"}) {
		t.Errorf("one is offered: %q", attacked)
	}
	tr.SetAccounts(map[string]bool{"many": false})
	if attacked = tr.AttackedNames(10, at); slices.Contains(attacked, "many") {
		t.Error("a name is offered that now exists")
	}
}
