//go:build integration

package e2e_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"mef/internal/host/docker/dockertest"
)

// A service in a container of Docker is protected without configuration: mefdaemon follows its output as soon as the container is there, and
// again when it is made anew. The ban covers the port at which the container is published.
func TestContainerIsProtected(t *testing.T) {
	const from, again, root = "203.0.113.70", "203.0.113.71", "/var/lib/docker"
	s := begin(t, "", nil)
	t.Cleanup(func() { os.RemoveAll(root) })
	d := dockertest.In(t, root)
	git := d.Run("git", "codeberg.org/forgejo/forgejo:12", 3000, "json-file")
	guess := func(c *dockertest.Container, addr string, n int) {
		for i := range n {
			c.Print("stdout", fmt.Sprintf("%s ...ers/web/auth/auth.go:%d:SignInPost() [W] Failed authentication attempt for boris from %s:4%03d: user's password is invalid [uid: 7, name: boris]\n",
				time.Now().Format("2006/01/02 15:04:05"), 200+i, addr, i))
		}
	}
	follows := func(lines uint64) func() error {
		return func() error {
			all := s.status().Sources
			for _, source := range all {
				if source.Name == "container git" && source.Lines >= lines {
					return nil
				}
			}
			return fmt.Errorf("the sources are %+v", all)
		}
	}
	guess(git, from, 2)
	s.until("the rule to read the container from its first line", follows(2))
	git.Rotate()
	guess(git, from, 3)
	ban := s.banned(from)
	if !strings.Contains(ban.Ports, "3000") || ban.Rule != "gitea" {
		t.Errorf("rule %s bans on ports %s", ban.Rule, ban.Ports)
	}
	s.silent(3000, from)
	git.Remove()
	git = d.Run("git", "codeberg.org/forgejo/forgejo:13", 3001, "json-file")
	guess(git, again, 5)
	if ban := s.banned(again); !strings.Contains(ban.Ports, "3001") {
		t.Errorf("the ban covers ports %s", ban.Ports)
	}
	s.until("status to name the container", func() error {
		for _, r := range s.status().Rules {
			if r.Name == "gitea" && strings.Contains(r.Reason, `container "git" of image "codeberg.org/forgejo/forgejo:13"`) {
				return nil
			}
		}
		return fmt.Errorf("rules %+v", s.status().Rules)
	})
	if out := s.mefctl("services"); !strings.Contains(out, "container git") || !strings.Contains(out, "gitea") {
		t.Errorf("services do not show the container:\n%s", out)
	}
}
