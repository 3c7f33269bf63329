package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"mef/internal/ban"
	"mef/internal/control"
	"mef/internal/enforce"
	"mef/internal/hostwatch"
	"mef/internal/lists/names"
	"mef/internal/prefixset"
)

// allows reports whether the packet filter accepts an address before any ban.
func (h *house) allows(addr string) bool {
	state, err := h.filter.Held(h.Context())
	return err == nil && state.Allow.Contains(netip.MustParseAddr(addr))
}

// TestListFilesArePickedUp changes files while the daemon runs. A second is what is promised; the test waits longer for slow
// machines, but not as long as the files would be looked at unasked.
func TestListFilesArePickedUp(t *testing.T) {
	h := settle(t, "whitelist_reload=1h\nblacklist_reload=1h\n", map[string]string{
		"deny/a.conf": "198.51.100.0/24 # known\n203.0.113.9\n",
	})
	h.await("the list of the start", func() bool { return h.listed() == "198.51.100.0/24 203.0.113.9" })
	h.ban("203.0.113.7")
	h.ban("203.0.113.64/28")
	began := time.Now()

	h.write("allow/a.conf", "203.0.113.7\nnonsense here\n203.0.113.66\n198.51.100.128/25\n")
	h.await("allowed, and lifted", func() bool {
		return h.allows("203.0.113.7") && h.allows("203.0.113.66") && h.listed() == "198.51.100.0/25 203.0.113.9" && h.banned() == "203.0.113.64/28"
	})
	t.Logf("picked up after %v", time.Since(began))
	h.await("the bad line is told", func() bool {
		return strings.Contains(strings.Join(h.status().Warnings, "\n"), h.dir+"/allow/a.conf:2:1: ")
	})
	h.write("deny/a.conf", "203.0.113.10\n203.0.113.9\n")
	h.write("deny/b.conf", "2001:db8:7::/48\n")
	h.await("deltas of the blacklist", func() bool { return h.listed() == "203.0.113.9 203.0.113.10 2001:db8:7::/48" })
	if err := errors.Join(os.Remove(h.dir+"/deny/b.conf"), os.Remove(h.dir+"/allow/a.conf")); err != nil {
		t.Fatal(err)
	}
	h.await("files that went", func() bool {
		return !h.allows("203.0.113.7") && h.listed() == "203.0.113.9 203.0.113.10" && h.banned() == "203.0.113.64/28"
	})
	lists, err := h.Lists(t.Context(), "blacklist")
	if err != nil || len(lists.Files) != 1 || lists.Files[0].Entries != 2 || lists.Entries[1].Source != h.dir+"/deny/a.conf:2:1" {
		t.Errorf("lists %+v, %v", lists, err)
	}
}

// TestDirectoryAppears: neither directory is there at first.
func TestDirectoryAppears(t *testing.T) {
	h := settle(t, "whitelist_reload=1h\nblacklist_reload=1h\n", map[string]string{"allow/a.conf": "203.0.113.7\n"})
	h.await("allowed", func() bool { return h.allows("203.0.113.7") })
	if err := os.Rename(h.dir+"/allow", h.dir+"/elsewhere"); err != nil {
		t.Fatal(err)
	}
	h.await("not allowed", func() bool { return !h.allows("203.0.113.7") })
	lists, err := h.Lists(t.Context(), "")
	if text, _ := json.Marshal(lists); err != nil || string(text) != `{"files":[],"entries":[]}` {
		t.Errorf("lists of nothing: %s, %v", text, err)
	}
	if err := os.Rename(h.dir+"/elsewhere", h.dir+"/allow"); err != nil {
		t.Fatal(err)
	}
	h.await("allowed again", func() bool { return h.allows("203.0.113.7") })
}

// TestNamesAreResolved by a name server that is asked for real.
func TestNamesAreResolved(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if rr, err := dns.NewRR(q.Question[0].Name + " 60 IN A 203.0.113.7"); err == nil && q.Question[0].Qtype == dns.TypeA {
			m.Answer = append(m.Answer, rr)
		}
		_ = w.WriteMsg(m)
	})}
	go server.ActivateAndServe()
	t.Cleanup(func() { server.Shutdown() })
	h := settle(t, "", nil)
	h.end()
	h.dns = conn.LocalAddr().String()
	h.start()
	h.ban("203.0.113.7")
	if _, err := h.Allow(t.Context(), control.AllowRequest{Entry: "Office.Example."}); err != nil {
		t.Fatal(err)
	}
	h.await("the name's address is allowed, and its ban lifted", func() bool { return h.allows("203.0.113.7") && h.banned() == "" })
	lists, err := h.Lists(t.Context(), "")
	if err != nil || len(lists.Entries) != 1 || lists.Entries[0].Entry != "office.example" || lists.Entries[0].Resolved.At == nil {
		t.Errorf("lists %+v, %v", lists, err)
	}
	if _, err := h.Disallow(t.Context(), control.AllowRequest{Entry: "office.example"}); err != nil || h.allows("203.0.113.7") {
		t.Errorf("delete: %v; still allowed: %v", err, h.allows("203.0.113.7"))
	}
}

func TestObserveListsBanNobody(t *testing.T) {
	h := settle(t, "mode=observe\n", map[string]string{"deny/a.conf": "203.0.113.9\n", "allow/a.conf": "203.0.113.7\n"})
	h.await("allowed", func() bool { return h.allows("203.0.113.7") })
	if got := h.listed(); got != "" {
		t.Errorf("list %s in observe mode", got)
	}
	h.configure("")
	if _, err := h.Reload(t.Context(), "alice"); err != nil {
		t.Fatal(err)
	}
	h.await("banned", func() bool { return h.listed() == "203.0.113.9" })
	h.configure("mode=observe\n")
	h.write("deny/a.conf", "203.0.113.10\n")
	if _, err := h.Reload(t.Context(), "alice"); err != nil {
		t.Fatal(err)
	}
	h.await("lifted, and no other banned", func() bool { return h.listed() == "" })
}

// Names beyond the limit are said to be left out, each where it is listed; and hundreds of names that are not resolved are few warnings.
func TestTooManyNames(t *testing.T) {
	var text strings.Builder
	for i := range names.MaxNames + 3 {
		fmt.Fprintf(&text, "n%03d.example.net\n", i)
	}
	h := settle(t, "", map[string]string{"allow/a.conf": text.String()})
	h.await("all names to be looked up in vain", func() bool {
		warnings := strings.Join(h.status().Warnings, "\n")
		return strings.Contains(warnings, "3 DNS names of the allow list are ignored: there are more than 256") &&
			strings.Contains(warnings, fmt.Sprintf("%d more names without an address", names.MaxNames-5)) && strings.Count(warnings, "\n") < 8
	})
	lists, err := h.Lists(t.Context(), "whitelist")
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range lists.Entries {
		if got := e.Resolved.Error == "ignored: there are more than 256 names"; got != (i >= names.MaxNames) {
			t.Errorf("%s: %q", e.Entry, e.Resolved.Error)
		}
	}
}

// TestAllowByCommand adds and takes back entries, which outlive the daemon.
func TestAllowByCommand(t *testing.T) {
	h := settle(t, "", map[string]string{"allow/a.conf": "192.0.2.1\n2001:db8::1-2001:db8::5\n"})
	records := h.everything()
	h.ban("203.0.113.7")
	e, err := h.Allow(t.Context(), control.AllowRequest{Entry: " 203.0.113.7 ", Note: "the office", Author: "alice"})
	if err != nil || e.Entry != "203.0.113.7" || e.Author != "alice" || e.Source != control.ByCommand || e.Until != nil {
		t.Fatalf("entry %+v, %v", e, err)
	}
	var told []string
	for rec := range records {
		if rec.Event == "ban" || rec.Event == "unban" {
			told = append(told, rec.Event+" "+rec.Prefix)
		}
		if rec.Event == "unban" {
			break
		}
	}
	if got := strings.Join(told, ", "); got != "ban 203.0.113.7/32, unban 203.0.113.7/32" {
		t.Errorf("told of %s", got)
	}
	if !h.allows("203.0.113.7") || h.banned() != "" {
		t.Errorf("allowed %v, bans %q, as soon as the command returns", h.allows("203.0.113.7"), h.banned())
	}
	if _, err := h.Ban(t.Context(), control.BanRequest{Prefix: "203.0.113.7"}); err == nil {
		t.Error("an allowed address can be banned")
	}
	why, err := h.Why(t.Context(), netip.MustParseAddr("203.0.113.7"))
	if err != nil || !strings.Contains(why.Allowed, "(203.0.113.7, mefctl allow add by alice)") {
		t.Errorf("why: %q, %v", why.Allowed, err)
	}
	if _, err := h.Allow(t.Context(), control.AllowRequest{Entry: "203.0.113.8", For: time.Second}); err != nil {
		t.Fatal(err)
	}
	st := h.status().Store
	if st.Problem != "" {
		t.Fatal(st.Problem)
	}
	h.await("the entry with an end ends", func() bool { return !h.allows("203.0.113.8") })
	if !h.allows("203.0.113.7") {
		t.Error("the entry without end ended too")
	}
	if _, err := h.Disallow(t.Context(), control.AllowRequest{Entry: "203.0.113.7"}); err != nil || h.allows("203.0.113.7") {
		t.Errorf("delete: %v; still allowed: %v", err, h.allows("203.0.113.7"))
	}
	for name, tt := range map[string]struct {
		do   func() error
		want string
	}{
		"what is no entry": {func() error {
			_, err := h.Allow(t.Context(), control.AllowRequest{Entry: "300.1.2.3"})
			return err
		}, `"300.1.2.3" is not an entry; write an address`},
		"two entries": {func() error {
			_, err := h.Allow(t.Context(), control.AllowRequest{Entry: "192.0.2.7\n192.0.2.8"})
			return err
		}, "write an address"},
		"too wide": {func() error {
			_, err := h.Allow(t.Context(), control.AllowRequest{Entry: "0.0.0.0/0"})
			return err
		}, "0.0.0.0/0 is wider than /16 (IPv6: /32), and no address in it would ever be banned: use --force"},
		"deleted before": {func() error {
			_, err := h.Disallow(t.Context(), control.AllowRequest{Entry: "203.0.113.7"})
			return err
		}, "203.0.113.7 is not an entry of the allow list; see mefctl allow list"},
		"in a file": {func() error {
			_, err := h.Disallow(t.Context(), control.AllowRequest{Entry: "192.0.2.1/32"})
			return err
		}, "192.0.2.1 is an entry of " + h.dir + "/allow/a.conf:1:1; remove it there"},
		"a range in a file, spelt otherwise": {func() error {
			_, err := h.Disallow(t.Context(), control.AllowRequest{Entry: "2001:DB8:0::1-2001:DB8::5"})
			return err
		}, "2001:db8::1-2001:db8::5 is an entry of " + h.dir + "/allow/a.conf:2:1; remove it there"},
		"no such list": {func() error {
			_, err := h.Lists(t.Context(), "greylist")
			return err
		}, `no list "greylist"`},
	} {
		t.Run(name, func(t *testing.T) {
			if err := tt.do(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

// TestAddedEntriesOutliveTheDaemon: what was added, and the last good answer of a name, count from the start of the next run.
func TestAddedEntriesOutliveTheDaemon(t *testing.T) {
	h := settle(t, "", map[string]string{"allow/a.conf": "office.invalid\n"})
	answer, err := json.Marshal(names.Answer{Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.9")}, At: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Allow(t.Context(), control.AllowRequest{Entry: "203.0.113.7", Author: "alice"}); err != nil {
		t.Fatal(err)
	}
	h.SaveNotes(map[string]string{"name office.invalid": string(answer)})
	h.end()
	h.start()
	h.await("both are allowed", func() bool { return h.allows("203.0.113.7") && h.allows("192.0.2.9") })
	lists, err := h.Lists(t.Context(), "whitelist")
	if err != nil || len(lists.Entries) != 2 || lists.Entries[1].Author != "alice" {
		t.Fatalf("lists %+v, %v", lists, err)
	}
	if r := lists.Entries[0].Resolved; r == nil || len(r.Addrs) != 1 || r.Addrs[0] != "192.0.2.9" {
		t.Errorf("the name: %+v", r)
	}
}

// A list of addresses that nobody should have also names some that a host cannot do without. Those are told, and not counted as bans.
func TestListedAddressesOfNoHost(t *testing.T) {
	h := settle(t, "", map[string]string{"deny/bogons.conf": "127.0.0.1\n169.254.0.0/16\nfe80::/64\n255.255.255.254/31\n203.0.113.0/24\n"})
	h.await("the others", func() bool { return h.listed() == "203.0.113.0/24 255.255.255.254" })
	lists, err := h.Lists(t.Context(), "blacklist")
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range lists.Entries {
		if got := e.Error == ""; got != (i >= 3) {
			t.Errorf("%s: %q", e.Entry, e.Error)
		}
	}
}

// A blacklist entry around a proxy leaves the proxy out: many clients are behind it.
func TestBlacklistLeavesProxiesOut(t *testing.T) {
	h := settle(t, "proxies=192.0.2.128\n", map[string]string{"deny/a.conf": "192.0.2.128/31\n"})
	h.await("the rest of the entry is banned", func() bool { return h.listed() == "192.0.2.129" })
}

// An address from which an administrator is or was logged in is left out of the entry around it, whoever wrote it there, until it is no
// administrator's any more.
func TestBlacklistLeavesAdministratorsOut(t *testing.T) {
	h := settle(t, "", map[string]string{"deny/a.conf": "203.0.113.9\n"})
	h.await("the list", func() bool { return h.listed() == "203.0.113.9" })
	admin := netip.MustParseAddr("198.51.100.78")
	session := func(a hostwatch.Admins) {
		t.Helper()
		if err := h.applyAdmins(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	session(hostwatch.Admins{Live: []netip.Addr{admin}})
	h.write("deny/a.conf", "198.51.100.0/24\n203.0.113.9\n203.0.113.10\n")
	without := func(addr string) string {
		var all []string
		rest := prefixset.New(netip.MustParsePrefix("198.51.100.0/24")).Subtract(prefixset.New(netip.MustParsePrefix(addr + "/32")))
		for _, p := range rest.Prefixes() {
			all = append(all, ban.Key{Prefix: p}.String())
		}
		return strings.Join(all, " ")
	}
	h.await("the rest of the list", func() bool { return h.listed() == without("198.51.100.78")+" 203.0.113.9 203.0.113.10" })
	lists, err := h.Lists(t.Context(), "blacklist")
	if err != nil || !strings.Contains(lists.Entries[0].Error, "left out: an administrator is logged in from 198.51.100.78") {
		t.Errorf("lists %+v, %v", lists.Entries, err)
	}
	if w := strings.Join(h.status().Warnings, "\n"); !strings.Contains(w, "1 addresses of blacklist files are left out") {
		t.Errorf("status warns of %q", w)
	}
	// One who comes later, over what the list had banned, is let in.
	late := netip.MustParseAddr("203.0.113.10")
	session(hostwatch.Admins{Live: []netip.Addr{late}, Recent: []netip.Addr{admin}})
	h.await("the newcomer is let in", func() bool { return h.listed() == without("198.51.100.78")+" 203.0.113.9" })
	session(hostwatch.Admins{})
	h.await("all of the list is in force", func() bool { return h.listed() == "198.51.100.0/24 203.0.113.9 203.0.113.10" })
}

// An address whose agent is that of a search engine is banned at once if its name is another, and never if it is the engine's.
func TestCrawlersAreLookedUp(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	records := map[string]string{
		"7.2.0.192.in-addr.arpa. PTR": "crawl-7.googlebot.com.", "crawl-7.googlebot.com. A": "192.0.2.7",
		"8.2.0.192.in-addr.arpa. PTR": "host-8.attacker.example.", "host-8.attacker.example. A": "192.0.2.8",
	}
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		key := q.Question[0].Name + " " + dns.TypeToString[q.Question[0].Qtype]
		if rr, err := dns.NewRR(q.Question[0].Name + " 60 IN " + dns.TypeToString[q.Question[0].Qtype] + " " + records[key]); err == nil && records[key] != "" {
			m.Answer = append(m.Answer, rr)
		}
		_ = w.WriteMsg(m)
	})}
	go server.ActivateAndServe()
	t.Cleanup(func() { server.Shutdown() })
	h := settle(t, "", map[string]string{"log/access.log": ""})
	h.end()
	h.dns = conn.LocalAddr().String()
	h.write("rules/webscan.conf", "[rule]\nsource=file\nfiles=HERE/log/access.log\n[webscan]\nmax_active_ips=16\n")
	h.start()
	h.await("the log is followed", func() bool { return h.active() == 1 })
	get := func(addr string) {
		f, err := os.OpenFile(h.dir+"/log/access.log", os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		fmt.Fprintf(f, `%s - - [%s] "GET / HTTP/1.1" 404 12 "-" "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"`+"\n",
			addr, time.Now().Format("02/Jan/2006:15:04:05 -0700"))
	}
	// Each request may be the first after the answer.
	h.await("the false one is banned", func() bool {
		get("192.0.2.7")
		get("192.0.2.8")
		return h.banned() != ""
	})
	if got := h.banned(); got != "192.0.2.8" {
		t.Errorf("banned: %s", got)
	}
	h.await("the true one is known", func() bool {
		get("192.0.2.7")
		why, err := h.Why(t.Context(), netip.MustParseAddr("192.0.2.7"))
		return err == nil && strings.Contains(fmt.Sprint(why.Requests), "a verified crawler of Google since ")
	})
	for i := range 40 {
		get(fmt.Sprintf("198.51.100.%d", i))
	}
	h.await("what had to be dropped is reported", func() bool {
		return strings.Contains(fmt.Sprint(h.status().Warnings), "rule webscan follows 16 sources at a time, and dropped ")
	})
	for _, r := range h.status().Rules {
		if r.Name == "webscan" && (r.Thresholds != 7 || r.MaxRetry != 0 || r.Bans != 1) {
			t.Errorf("status shows %+v", r)
		}
	}
}

// An earlier version banned each network of the blacklist for ever. What it left in the kernel is lifted, in observe mode too, and nothing else.
func TestFormerBlacklistIsLifted(t *testing.T) {
	for _, mode := range []string{"enforce", "observe"} {
		t.Run(mode, func(t *testing.T) {
			h := settle(t, "", map[string]string{"deny/a.conf": "198.51.100.0/24\n"})
			h.ban("203.0.113.7")
			h.ban("203.0.113.9")
			var note []byte
			var left enforce.Changes
			for _, p := range []string{"198.51.100.0/24", "203.0.113.9/32", "192.0.2.0/24", "2001:db8:7::/48"} {
				prefix := netip.MustParsePrefix(p)
				one, _ := prefix.MarshalBinary()
				note = append(append(note, byte(len(one))), one...)
				left.Bans = append(left.Bans, enforce.Change{Key: ban.Key{Prefix: prefix}, Timeout: enforce.Permanent})
			}
			h.SaveNotes(map[string]string{noteListed: string(note)})
			h.end()
			left.Bans = append(left.Bans[:1], left.Bans[2:]...)
			if _, err := h.filter.Apply(t.Context(), left); err != nil {
				t.Fatal(err)
			}
			if got := h.kernelBans(); got != "192.0.2.0/24 198.51.100.0/24 2001:db8:7::/48 203.0.113.7 203.0.113.9" {
				t.Fatalf("an earlier version has left %s", got)
			}
			h.configure("mode=" + mode + "\n")
			h.start()
			h.await("what the list banned to be lifted", func() bool { return h.kernelBans() == "203.0.113.7 203.0.113.9" })
			h.end()
			h.start()
			if got := h.kernelBans(); got != "203.0.113.7 203.0.113.9" {
				t.Errorf("after one more start: %s", got)
			}
		})
	}
}

// kernelBans returns what the packet filter holds.
func (h *house) kernelBans() string {
	h.Helper()
	state, err := h.filter.Held(context.Background())
	if err != nil {
		h.Fatal(err)
	}
	var all []string
	for _, b := range state.Bans {
		all = append(all, b.Key.String())
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}
