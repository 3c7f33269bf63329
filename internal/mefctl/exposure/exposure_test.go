package exposure

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mef/internal/conf"
	"mef/internal/host"
)

func TestServicesAndTheirRules(t *testing.T) {
	all := netip.IPv6Unspecified()
	listeners := []host.Listener{
		{Protocol: "tcp", Addr: netip.IPv4Unspecified(), Port: 22, Program: "sshd"},
		{Protocol: "tcp", Addr: all, Port: 22, Program: "sshd"},
		{Protocol: "tcp", Addr: all, Port: 80, Program: "nginx", Unit: "nginx.service"},
		{Protocol: "tcp", Addr: all, Port: 993, Unit: "dovecot.service"},
		{Protocol: "tcp", Addr: netip.MustParseAddr("127.0.0.1"), Port: 5432, Program: "postgres"},
		{Protocol: "tcp", Addr: all, Port: 8443},
		{Protocol: "udp", Addr: all, Port: 22, Program: "mosh"},
	}
	log := filepath.Join(t.TempDir(), "panel.log")
	if err := os.WriteFile(log, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	rules := []conf.Rule{
		{Name: "sshd", Enabled: true, Programs: []string{"sshd"}},
		{Name: "dovecot", Enabled: true, Programs: []string{"dovecot"}, Ports: "143,993"},
		{Name: "nginx-auth", Programs: []string{"nginx"}},
		{Name: "panel", Enabled: true, Ports: "8440-8450"},
		{Name: "own-log", Enabled: true, Ports: "8443", Files: []string{log, "/none"}},
		{Name: "not-here", Enabled: true, Ports: "8443,993", Files: []string{filepath.Join(filepath.Dir(log), "other-*.log")}},
	}
	var got []string
	for _, s := range Services(listeners, rules, func(rule, program string) bool { return rule == program }) {
		got = append(got, fmt.Sprintf("%s/%d %s %v", s.Protocol, s.Port, s.Program, s.Rules))
	}
	want := "tcp/22 sshd [sshd]\ntcp/80 nginx []\ntcp/993 dovecot [dovecot]\ntcp/8443  [panel own-log]\nudp/22 mosh []"
	if text := strings.Join(got, "\n"); text != want {
		t.Errorf("services are\n%s\nwant\n%s", text, want)
	}
}

func TestCallerFromEnvironment(t *testing.T) {
	for connection, want := range map[string]string{
		"192.0.2.7 50000 192.0.2.1 22":        "192.0.2.7",
		"2001:db8::7 50000 2001:db8::1 22":    "2001:db8::7",
		"fe80::7%eth0 50000 fe80::1%eth0 22":  "fe80::7",
		"::ffff:192.0.2.7 50000 192.0.2.1 22": "192.0.2.7",
	} {
		if got, ok := Caller(connection); !ok || got.String() != want {
			t.Errorf("caller(%q) = %v, want %s", connection, got, want)
		}
	}
}

func TestCheckWarns(t *testing.T) {
	rules := []conf.Rule{{Name: "sshd", Enabled: true, Programs: []string{"sshd"}, Ports: "22"}}
	any4 := netip.MustParseAddr("0.0.0.0")
	for name, tt := range map[string]struct {
		listener host.Listener
		want     bool
	}{
		"on its port":     {host.Listener{Protocol: "tcp", Addr: any4, Port: 22, Program: "sshd"}, false},
		"elsewhere":       {host.Listener{Protocol: "tcp", Addr: any4, Port: 2222, Program: "sshd"}, true},
		"by its unit":     {host.Listener{Protocol: "tcp", Addr: any4, Port: 2222, Unit: "ssh.service"}, true},
		"only from here":  {host.Listener{Protocol: "tcp", Addr: netip.MustParseAddr("127.0.0.1"), Port: 2222, Program: "sshd"}, false},
		"another program": {host.Listener{Protocol: "tcp", Addr: any4, Port: 2222, Program: "nginx"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := UncoveredSSH([]host.Listener{tt.listener}, rules); (len(got) == 1) != tt.want {
				t.Errorf("warnings %q, want one: %v", got, tt.want)
			}
		})
	}
}

// What doveconf -h auth_verbose prints decides whether Dovecot's log shows wrong passwords.
func TestBlindDovecot(t *testing.T) {
	for value, want := range map[string]int{"no\n": 1, "yes\n": 0, "": 0} {
		if got := blindDovecot(value); len(got) != want || want == 1 && !strings.Contains(got[0], "auth_verbose=yes into /etc/dovecot/local.conf") {
			t.Errorf("doveconf prints %q: %q", value, got)
		}
	}
	// doveconf is asked only for a rule that reads its log.
	if got := Blind(t.Context(), func(string) bool { return false }); got != nil {
		t.Errorf("without the rule: %q", got)
	}
}
