//go:build integration

package cloud_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mef/internal/control"
	"mef/internal/netnstest"
)

const namesRule = `[rule]
programs=names
service_ports=22
source=file
files=%s/auth.log
failregex=^(?P<unknownuser>no such user) <USER> from <HOST>$
okregex=^login of <USER> from <HOST>$
maxretry=9
`

// write writes a log line of the program names.
func (h *host) write(format string, args ...any) {
	h.Helper()
	f, err := os.OpenFile(filepath.Join(h.dir, "auth.log"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		h.Fatal(err)
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, "%s host names[1]: %s\n", time.Now().Format("Jan _2 15:04:05"), fmt.Sprintf(format, args...)); err != nil {
		h.Fatal(err)
	}
}

// dictionary answers mefctl names.
func (h *host) dictionary() map[string]control.Name {
	h.Helper()
	var all []control.Name
	if err := json.Unmarshal([]byte(h.mefctl("names", "--json", "--limit", "0")), &all); err != nil {
		h.Fatal(err)
	}
	names := make(map[string]control.Name)
	for _, n := range all {
		names[n.Name] = n
	}
	return names
}

// Names that networks try on three hosts of different networks ban a source on a fourth at its first attempt, except those with which somebody has logged in there; names that two hosts see are
// not shared; and the server has none of them.
func testHostsShareNames(t *testing.T, bin string) {
	dir := filepath.Join(t.TempDir(), "cloud")
	hub := netnstest.New(t)
	hub.Addr(t, "lo", "198.18.0.1/32")
	var hosts []*host
	for i, name := range []string{"one", "two", "three", "four"} {
		ns := netnstest.New(t)
		up, down := fmt.Sprintf("10.%d.0.1", i+1), fmt.Sprintf("10.%d.0.2", i+1)
		netnstest.Join(t, hub, ns, up+"/30", down+"/30")
		ns.Route(t, "198.18.0.1/32", up)
		h := begin(t, ns, name, bin, down)
		if err := os.WriteFile(filepath.Join(h.dir, "rules.d/names.conf"), fmt.Appendf(nil, namesRule, h.dir), 0o600); err != nil {
			t.Fatal(err)
		}
		h.mefctl("reload")
		hosts = append(hosts, h)
	}
	four := hosts[3]
	f := &fleet{T: t, dir: dir, bin: bin}
	f.server = start(t, hub, filepath.Join(t.TempDir(), "mefcloud.log"), filepath.Join(bin, "mefcloud"), "serve", "--data", dir, "--listen", "198.18.0.1:8443", "--name", "198.18.0.1:8443")
	join := func(h *host) {
		var invitation string
		h.until("an invitation", func() (err error) {
			invitation, err = f.mefcloud("invite", "--anchor")
			return err
		})
		h.mefctl("cloud", "join", strings.TrimSpace(invitation))
	}

	var names []string // each host leaves out some of them by its key
	for i := range 40 {
		names = append(names, fmt.Sprintf("%x", sha256.Sum256([]byte{byte(i)}))[:12])
	}
	shared, known, rare := names[:20], names[20:30], names[30:]
	for i, h := range hosts[:3] {
		for n, name := range names {
			if n < 30 || i < 2 {
				h.write("no such user %s from 203.0.113.%d", name, n+1)
				h.write("no such user %s from 198.51.100.%d", name, n+1)
				for network := range 4 { // networks are counted by hash, so that some may count as one
					h.write("no such user %s from 2001:db8:%x::%d", name, network<<12, n+1)
				}
			}
		}
		last := shared[len(shared)-1]
		h.until("names are learned", func() error {
			if n := h.dictionary()[last]; !n.Hot || n.Origin != "learned" {
				return fmt.Errorf("%q is %+v", last, n)
			}
			return nil
		})
		join(h)
		h.until("names are reported", func() error {
			if c := h.cloud(); c.Names == nil || c.Names.Reported < len(rare) {
				return fmt.Errorf("the status has %+v, %v", c.Names, c.Problems)
			}
			return nil
		})
		if preview := h.mefctl("cloud", "preview"); !strings.Contains(preview, `"week"`) || strings.Contains(preview, last) {
			t.Errorf("the preview has no hashes, or a name:\n%s", preview)
		}
	}

	for n, name := range known {
		four.write("login of %s from 192.0.2.%d", name, n+1)
	}
	join(four)
	four.until("names are listed", func() error {
		if c := four.cloud(); c.Names == nil || c.Names.Of == nil || c.Names.Listed == 0 {
			return fmt.Errorf("the status has %+v, %v", c.Names, c.Problems)
		}
		return nil
	})
	for n, name := range names {
		four.write("no such user %s from 100.64.%d.7", name, n)
	}
	four.write("no such user the-very-last from 100.64.200.7")
	four.until("all lines are read", func() error {
		if _, ok := four.dictionary()["the-very-last"]; !ok {
			return fmt.Errorf("the last name is not there")
		}
		return nil
	})
	dictionary, banned := four.dictionary(), 0
	for n, name := range names {
		addr := fmt.Sprintf("100.64.%d.7", n)
		entry := dictionary[name]
		why := four.mefctl("why", addr)
		hot := strings.Contains(why, "BANNED")
		if hot {
			banned++
		}
		switch {
		case n >= len(shared) && hot:
			t.Errorf("%s is banned for one attempt with %q, which is %+v\n%s", addr, name, entry, why)
		case hot && (entry.Origin != "community" || !strings.Contains(why, "hosts of the community server see it attacked")):
			t.Errorf("%q is %+v, and the reason of the ban does not name the community server:\n%s", name, entry, why)
		case entry.Hot != hot:
			t.Errorf("%q is %+v, and its source is banned: %v", name, entry, hot)
		}
	}
	if banned == 0 {
		t.Errorf("none of %d names that three hosts see attacked bans on the fourth", len(shared))
	}
	t.Logf("%d of %d names are shared", banned, len(shared))
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		for _, name := range names {
			if strings.Contains(string(text), name) {
				t.Errorf("the server has %q in %s", name, path)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
