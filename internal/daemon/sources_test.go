package daemon

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mef/internal/owner"
	"mef/internal/pipeline"
	"mef/internal/store"
)

// What is kept for a log file ends with it: its view and, in memory and on disk, its position.
func TestFilesThatWentAreForgotten(t *testing.T) {
	const files = 50
	h := settle(t, "", map[string]string{"rules/shop.conf": "[rule]\nfiles=HERE/log/*.log\nsource=file\nprograms=shop\nfailregex=^refused <HOST>$\n"})
	for i := range files {
		h.write(fmt.Sprintf("log/shop-%c%d.log", 'a'+i%26, i), "Jan  2 03:04:05 host shop[1]: hello\n")
	}
	known := func() (positions, views int) {
		err := owner.Do(t.Context(), h.Engine, func(s *pipeline.State) {
			for source := range s.Positions {
				if strings.HasPrefix(source, h.dir) {
					positions++
				}
			}
			views = len(s.Engine.Sources())
		})
		if err != nil {
			t.Fatal(err)
		}
		return positions, views
	}
	h.await("all files are read", func() bool { positions, _ := known(); return positions == files })
	h.end()
	logs, _ := filepath.Glob(filepath.Join(h.dir, "log", "*.log"))
	for _, path := range logs {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	h.start()
	h.await("they are forgotten", func() bool { positions, views := known(); return positions+views == 0 })
	h.end() // saves
	st, err := store.Open(filepath.Join(h.dir, "state", "mef.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	state, err := st.Load(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if len(state.Positions) > 0 {
		t.Errorf("%d positions are on disk", len(state.Positions))
	}
}

// Messages on a unix socket count by who sent them, those over UDP lead to bans of new connections only, and a reload closes a socket that
// is no longer named.
func TestSyslogSockets(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	udp := conn.LocalAddr().String()
	conn.Close()
	rule := fmt.Sprintf("[rule]\nsource=syslog\nprograms=shop\nuids=%d\nmaxretry=2\nfailregex=^refused <HOST>$\n", os.Getuid())
	h := settle(t, "syslog_listen=unix:HERE/log.sock,udp:"+udp+"\n", map[string]string{"rules/shop.conf": rule})
	h.await("both are open", func() bool { return h.active() == 2 })
	send := func(network, address, addr string) {
		out, err := net.Dial(network, address)
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		for i := range 2 {
			if _, err := fmt.Fprintf(out, "<38>Jan  2 03:04:0%d shop[%d]: refused %s", i, i, addr); err != nil {
				t.Fatal(err)
			}
		}
	}
	class := func(addr string) string {
		why, err := h.Why(t.Context(), netip.MustParseAddr(addr))
		if err != nil || len(why.Bans) == 0 {
			return ""
		}
		return why.Bans[0].Class
	}
	send("unixgram", h.dir+"/log.sock", "192.0.2.7")
	h.await("a ban", func() bool { return class("192.0.2.7") != "" })
	send("udp", udp, "192.0.2.8")
	h.await("another", func() bool { return class("192.0.2.8") != "" })
	if a, b := class("192.0.2.7"), class("192.0.2.8"); a != "verified" || b != "unverified" {
		t.Errorf("the bans are %s and %s", a, b)
	}
	for _, r := range h.status().Rules {
		if r.Name == "shop" && (r.Live != "syslog" || r.Reason != "source=syslog") {
			t.Errorf("the rule is %+v", r)
		}
	}
	h.configure("syslog_listen=unix:HERE/log.sock\n")
	if _, err := h.Reload(t.Context(), "test"); err != nil {
		t.Fatal(err)
	}
	h.await("one is closed", func() bool { return h.active() == 1 })
	send("unixgram", h.dir+"/log.sock", "192.0.2.9")
	h.await("the other goes on", func() bool { return class("192.0.2.9") == "verified" })
}
