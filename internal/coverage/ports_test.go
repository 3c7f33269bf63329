package coverage_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"mef/internal/conf"
	"mef/internal/conf/rulefile"
	"mef/internal/coverage"
	"mef/internal/filter"
	"mef/internal/host"
)

// follow is what the ports of shipped rules are known by.
func follow(t *testing.T) (look func(p *coverage.Ports, now time.Time, listeners ...host.Listener) bool, rule func(string) *conf.Rule) {
	t.Helper()
	rules, err := rulefile.Shipped(filter.Shipped())
	if err != nil {
		t.Fatal(err)
	}
	set, errs := filter.Compile(rules)
	if err := errs.Err(); err != nil {
		t.Fatal(err)
	}
	account := func(name string) (uint32, bool) { return 1500, name == "git" }
	look = func(p *coverage.Ports, now time.Time, listeners ...host.Listener) bool {
		return p.Look(rules, set, listeners, account, now)
	}
	return look, func(name string) *conf.Rule {
		for i := range rules {
			if rules[i].Name == name {
				return &rules[i]
			}
		}
		t.Fatalf("there is no rule %s", name)
		return nil
	}
}

func listener(port uint16, uid uint32, unit, program string) host.Listener {
	return host.Listener{Protocol: "tcp", Addr: netip.IPv6Unspecified(), Port: port, UID: uid, Unit: unit, Program: program}
}

// Only the service itself adds a port to the bans of its rule, never what a local user starts.
func TestOnlyTheServiceAddsPorts(t *testing.T) {
	local := listener(2222, 0, "ssh.service", "sshd")
	local.Addr = netip.MustParseAddr("127.0.0.1")
	udp := listener(2222, 0, "ssh.service", "sshd")
	udp.Protocol = "udp"
	for name, tt := range map[string]struct {
		rule string
		l    host.Listener
		want bool
	}{
		"its unit":                                {"sshd", listener(2222, 0, "ssh.service", "sshd"), true},
		"its socket":                              {"sshd", listener(2222, 0, "ssh.socket", "systemd"), true},
		"root's, without a unit":                  {"sshd", listener(2222, 0, "", "sshd"), true},
		"root's, by hand":                         {"sshd", listener(2222, 0, "session-3.scope", "sshd"), true},
		"a user's":                                {"sshd", listener(2222, 1001, "session-3.scope", "sshd"), false},
		"a user's service":                        {"sshd", listener(2222, 1001, "user@1001.service", "sshd"), false},
		"a user's, without a unit":                {"sshd", listener(2222, 1001, "", "sshd"), false},
		"a user's session in the unit":            {"sshd", listener(2222, 1001, "ssh.service", "sshd"), false},
		"a web server's":                          {"sshd", listener(2222, 33, "apache2.service", "sshd"), false},
		"a system account's, without a unit":      {"sshd", listener(2222, 33, "", "sshd"), false},
		"for this host only":                      {"sshd", local, false},
		"a UDP socket":                            {"sshd", udp, false},
		"a system account in the unit":            {"postgresql", listener(2222, 110, "postgresql@15-main.service", "postgres"), true},
		"an account that the rule names":          {"gitea", listener(2222, 1500, "gitea.service", "gitea"), true},
		"that account outside of its unit":        {"gitea", listener(2222, 1500, "session-9.scope", "gitea"), false},
		"another ordinary account in its unit":    {"gitea", listener(2222, 1501, "gitea.service", "gitea"), false},
		"a rule whose ports do not follow at all": {"sftpgo", listener(2222, 0, "sftpgo.service", "sftpgo"), false},
	} {
		t.Run(name, func(t *testing.T) {
			look, _ := follow(t)
			var p coverage.Ports
			look(&p, time.Now(), tt.l)
			if got := p.All()[tt.rule] != ""; got != tt.want {
				t.Errorf("port 2222 is added to rule %s: %v, want %v", tt.rule, got, tt.want)
			}
		})
	}
}

// UDP ports follow the service of a rule with transport=udp, but not those from which it sends: these are open for a moment only, or above
// all that services have.
func TestUDPPortsFollowAService(t *testing.T) {
	look, _ := follow(t)
	p := new(coverage.Ports)
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	udp := func(port uint16) host.Listener {
		l := listener(port, 0, "asterisk.service", "asterisk")
		l.Protocol = "udp"
		return l
	}
	tcp := listener(5062, 0, "asterisk.service", "asterisk")
	for _, step := range []struct {
		what    string
		after   time.Duration
		listen  []host.Listener
		ports   string
		waiting bool
	}{
		{"it starts", 0, []host.Listener{udp(700), udp(5070), udp(9999), udp(40000), tcp}, "700,5062", true},
		{"at once again", time.Second, []host.Listener{udp(700), udp(5070), udp(9998), udp(40000), tcp}, "700,5062", true},
		{"later", 20 * time.Second, []host.Listener{udp(700), udp(5070), udp(9997), udp(40000), tcp}, "700,5062,5070", true},
		{"without questions", 20 * time.Second, []host.Listener{udp(700), udp(5070), tcp}, "700,5062,5070", false},
		{"it restarts", time.Second, nil, "700,5062,5070", false},
		{"it is back", time.Second, []host.Listener{udp(700), udp(5070), tcp}, "700,5062,5070", false},
	} {
		now = now.Add(step.after)
		look(p, now, step.listen...)
		if got := string(p.All()["asterisk"]); got != step.ports || p.Waiting(now) != step.waiting {
			t.Errorf("%s: ports %s, waiting %v; want %s, %v", step.what, got, p.Waiting(now), step.ports, step.waiting)
		}
	}
}

// Ports follow a service that moves, stay while it is restarted, and go to another service that has them.
func TestPortsFollowAService(t *testing.T) {
	look, rule := follow(t)
	p := new(coverage.Ports)
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	ssh := func(port uint16) host.Listener { return listener(port, 0, "ssh.service", "sshd") }
	for _, step := range []struct {
		what    string
		after   time.Duration
		listen  []host.Listener
		changed bool
		ports   string
		reason  string
	}{
		{"nothing listens", 0, nil, false, "", "the usual ports, because sshd does not listen"},
		{"it starts", time.Second, []host.Listener{ssh(22)}, true, "22", "ssh.service listens on 22"},
		{"again", time.Second, []host.Listener{ssh(22)}, false, "22", "ssh.service listens on 22"},
		{"it moves", time.Second, []host.Listener{ssh(2222), ssh(2223)}, true, "22,2222-2223",
			"ssh.service listens on 2222, 2223; ssh.service listened on 22 until 2026-01-02 03:04:07"},
		{"it restarts", time.Second, nil, false, "22,2222-2223", "ssh.service listened on 22 until 2026-01-02 03:04:07; " +
			"ssh.service listened on 2222 until 2026-01-02 03:04:08; ssh.service listened on 2223 until 2026-01-02 03:04:08"},
		{"another service has its port", time.Second, []host.Listener{ssh(2222), listener(22, 0, "tarpit.service", "tarpit")}, true, "2222-2223",
			"ssh.service listens on 2222; ssh.service listened on 2223 until 2026-01-02 03:04:08"},
		{"a week later", 7 * 24 * time.Hour, []host.Listener{ssh(2222)}, true, "2222", "ssh.service listens on 2222"},
	} {
		now = now.Add(step.after)
		changed := look(p, now, step.listen...)
		got := fmt.Sprint(changed, " ", p.All()["sshd"], " ", p.Reason(rule("sshd")))
		if want := fmt.Sprint(step.changed, " ", step.ports, " ", step.reason); got != want {
			t.Errorf("%s: %s\nwant %s", step.what, got, want)
		}
		if text, due := p.Save(changed, now); due {
			p = coverage.RestorePorts(text) // a restart of the daemon changes nothing
			look(p, now, step.listen...)
		}
	}
	if got := coverage.RestorePorts("[garbage").All(); len(got) != 0 {
		t.Errorf("garbage was restored as %v", got)
	}
}

// A service that opens ports all the time does not change the ports of its bans all the time.
func TestPortsAreBounded(t *testing.T) {
	look, _ := follow(t)
	var p coverage.Ports
	now, changes := time.Now(), 0
	for round := range 100 {
		open := []host.Listener{listener(22, 0, "ssh.service", "sshd")}
		for i := range 5 {
			open = append(open, listener(uint16(10_000+10*round+2*i), 0, "ssh.service", "sshd"))
		}
		if look(&p, now, open...) {
			changes++
		}
		now = now.Add(30 * time.Second)
	}
	ports := string(p.All()["sshd"])
	if n := len(strings.Split(ports, ",")); n != 16 || !strings.HasPrefix(ports, "22,10000,") || changes > 4 {
		t.Errorf("%d ports after %d changes: %s; want 16, the first ones", n, changes, ports)
	}
}
