//go:build integration

package e2e_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"mef/internal/lab"
)

// The bans of a rule with ports=auto follow its service to another port, and no local user adds a port to them.
func TestBansFollowTheService(t *testing.T) {
	s := begin(t, "", map[string]string{"sshd.conf": "[rule]\nports=auto\n"})
	const from, moved, mallorys = "203.0.113.60", 2222, 2022
	ports := func() (ports, reason string) {
		for _, r := range s.status().Rules {
			if r.Name == "sshd" {
				return r.Ports, r.PortsReason
			}
		}
		return "", ""
	}
	if got, why := ports(); got != "22" || why != "ssh.service listens on 22" {
		t.Errorf("before, bans cover ports %s: %s", got, why)
	}
	own, err := s.w.StartOwnSSH(s.ctx, lab.Mallory, mallorys)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Stop(os.Kill)
	p, err := s.w.StartSSHOn(s.ctx, moved)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop(os.Kill)
	if got, why := ports(); got != "22,2222" || why != "ssh.service listens on 22; ssh@2222.service listens on 2222" {
		t.Errorf("with sshd at port 2222 too, bans cover ports %s: %s", got, why)
	}
	if out := s.mefctl("config", "check"); !strings.Contains(out, "rule sshd: its bans also cover port 2222, because ssh.service listens on 22; ssh@2222.service listens on 2222") {
		t.Errorf("config check does not show the port:\n%s", out)
	}
	s.fail(func(ctx context.Context, c lab.Client, user string) error {
		_, err := c.SSH(ctx, moved, user, wrong, "")
		return err
	}, "root", repeat(from, 5)...)
	ban := s.banned(from)
	if ban.Ports != "22,2222" || !strings.Contains(ban.Reason, "port 2222 too, because sshd listens there") {
		t.Errorf("banned on ports %s: %s", ban.Ports, ban.Reason)
	}
	s.silent(moved, from)
	s.silent(lab.SSHPort, from)
	s.reaches(mallorys, from)
	if err := p.Stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.until("status to show that sshd has left port 2222", func() error {
		if got, why := ports(); got != "22,2222" || !strings.Contains(why, "ssh.service listens on 22; ssh@2222.service listened on 2222 until ") {
			return fmt.Errorf("bans cover ports %s: %s", got, why)
		}
		return nil
	})
}
