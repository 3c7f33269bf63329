//go:build integration

package e2e_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"mef/internal/control"
	"mef/internal/lab"
)

// What the daemon has learned survives kill -9: hot names, alarms and what is acknowledged of them, and the points of sources. why shows
// how the points came about. Keys switch these off.
func TestLearnedThingsSurviveKill(t *testing.T) {
	const (
		name  = "qadmin7" // no starter name, and not near alice
		slow  = "198.51.100.31"
		thief = "203.0.113.32"
		last  = "203.0.113.200"
		off   = "203.0.113.201"
	)
	s := begin(t, "", nil)
	for _, from := range []string{"198.51.100.30", "203.0.113.30", "2001:db8:bad0::30"} { // unrelated networks
		s.fail(ssh, name, from)
	}
	s.fail(ssh, "qabsent", slow)
	s.fail(ssh, "qghost", thief)
	s.fail(ssh, "qspook", thief)
	if _, err := s.w.Client(thief).SSH(s.ctx, lab.SSHPort, "alice", lab.Alice.Password, ""); err != nil {
		t.Fatal(err)
	}
	s.until("an alarm", func() error { return s.alarms(1, false) })
	before := s.learned(name, slow)
	if !strings.Contains(before, "hot=true") || !strings.Contains(before, "now worth 35.0 points") {
		t.Errorf("learned:\n%s", before)
	}
	same := func(when string, acked bool) {
		t.Helper()
		s.until("what was not saved yet to be read again", func() error {
			if after := s.learned(name, slow); after != before {
				return fmt.Errorf("%s the daemon has learned\n%s\nbefore:\n%s", when, after, before)
			}
			return s.alarms(1, acked)
		})
	}
	s.stop(os.Kill)
	s.start("")
	same("after kill -9", false)
	s.mefctl("alarms", "ack")
	s.stop(os.Kill)
	s.start("")
	same("after a second kill -9", true)

	hot := name // one attempt leads to a ban
	if !strings.Contains(before, "networks=3") {
		hot = "admin" // networks are counted by hash, so that two may count as one, and too few others have tried name
	}
	s.fail(ssh, hot, last)
	if b := s.banned(last); !strings.Contains(b.Reason, hot) {
		t.Errorf("the reason is %q", b.Reason)
	}

	s.stop(os.Kill)
	s.start("[global]\nscore_hot_name=0\nlogin_alarms=false\n")
	s.fail(ssh, hot, off)
	s.fail(ssh, "qwraith", off)
	if _, err := s.w.Client(off).SSH(s.ctx, lab.SSHPort, "alice", lab.Alice.Password, ""); err != nil {
		t.Fatalf("with the name and the alarm switched off: %v", err)
	}
	s.sees(control.Record{Event: "success", Rule: "sshd", Addr: off, User: "alice"})
	if err := s.alarms(1, true); err != nil {
		t.Error(err)
	}
}

// alarms returns nil if there are so many, acknowledged or not.
func (s *scene) alarms(n int, acked bool) error {
	all, err := s.mef.Alarms(s.ctx)
	if err != nil {
		return err
	}
	if len(all) != n || n > 0 && (all[0].Acked != acked || all[0].User != "alice") {
		return fmt.Errorf("the alarms are %+v", all)
	}
	return nil
}

// learned returns what mefctl shows of a name, and what why shows of a source, without times.
func (s *scene) learned(name, source string) string {
	s.Helper()
	names, err := s.mef.Names(s.ctx, name, 0)
	why, whyErr := s.mef.Why(s.ctx, netip.MustParseAddr(source))
	if err := errors.Join(err, whyErr); err != nil {
		s.Fatal(err)
	}
	var out strings.Builder
	for _, n := range names {
		fmt.Fprintf(&out, "%s hot=%t networks=%d tries=%d %s %s\n", n.Name, n.Hot, n.Networks, n.Tries, n.Origin, n.Protected)
	}
	for _, line := range why.Arithmetic {
		line, _, _ = strings.Cut(line, "; last event") // how long ago
		fmt.Fprintln(&out, line)
	}
	fmt.Fprintf(&out, "score %.0f of %d: %q", why.Score, why.Limit, why.Evidence)
	return out.String()
}
