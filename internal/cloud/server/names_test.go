package server

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mef/internal/cloud/reputation"
	"mef/internal/cloud/wire"
)

// names fetches the list of names.
func (h *host) names(query string) wire.NameList {
	h.t.Helper()
	h.seq++
	status, data := h.send("GET", "/v1/names"+query, nil)
	if status != http.StatusOK {
		h.t.Fatalf("%d %s", status, data)
	}
	l, err := wire.DecodeNameList(data, h.inv.Feed)
	if err != nil {
		h.t.Fatal(err)
	}
	return l
}

// hashed returns the hashes of names, for a batch.
func hashed(salt wire.Salt, names ...string) (all []wire.NameHash) {
	for _, n := range names {
		all = append(all, wire.NewNameHasher(salt).Sum(n))
	}
	slices.Sort(all)
	return all
}

// seesTried reports names with the salt that the server names.
func (h *host) seesTried(names ...string) (status int, text []byte) {
	h.t.Helper()
	w := h.names("").Weeks[0]
	body, _ := wire.NameBatch{Week: w.Week, Names: hashed(w.Salt, names...)}.Encode()
	h.seq++
	return h.send("POST", "/v1/names", body)
}

// spread puts each of some hosts in a system of its own: in tests all come from one address.
func spread(t *testing.T, s *running, hosts ...*host) {
	t.Helper()
	for i, h := range hosts {
		id := wire.KeyID(h.key.Public().(ed25519.PublicKey))
		if out, err := s.do(t.Context(), entry{Move: &move{Agent: id, System: fmt.Sprintf("AS%d", i+1)}}); err != nil || out.err != nil {
			t.Fatal(err, out.err)
		}
	}
}

// A name that three unrelated hosts see attacked is on the list of a fourth, and survives a restart, a backup and its restoration; what one sees is not shown; the revocation
// of a host ends what it reported.
func TestNamesAreShared(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	var hosts []*host
	for range 4 {
		hosts = append(hosts, join(t, s, reputation.Anchor))
	}
	spread(t, s, hosts...)
	for i, h := range hosts[:3] {
		if l := hosts[3].names(""); l.Len() != 0 {
			t.Errorf("after %d hosts, %d names are listed", i, l.Len())
		}
		if status, text := h.seesTried("hadoopadm", fmt.Sprintf("rare-name-%d", i)); status != http.StatusAccepted {
			t.Fatalf("%d %s", status, text)
		}
	}
	check := func(when string, h *host, want int) {
		t.Helper()
		l := h.names("")
		if match := l.Matcher(); l.Len() != want || match("hadoopadm") != (want > 0) || match("rare-name-1") {
			t.Errorf("%s: %d names, want %d", when, l.Len(), want)
		}
	}
	check("three hosts have reported", hosts[3], 1)
	s.stop()
	s = start(t, dir)
	for _, h := range hosts {
		h.inv.Server = s.Addr().String()
	}
	check("restarted", hosts[3], 1)

	backup, err := s.Backup()
	if err != nil {
		t.Fatal(err)
	}
	id := wire.KeyID(hosts[0].key.Public().(ed25519.PublicKey))
	if out, err := s.do(t.Context(), entry{Revoke: &id}); err != nil || out.err != nil {
		t.Fatal(err, out.err)
	}
	check("a host was revoked", hosts[3], 0)
	if status, _ := hosts[0].send("GET", "/v1/names", nil); status != http.StatusForbidden {
		t.Errorf("a host that was revoked fetches the list: %d", status)
	}
	s.stop()
	again := filepath.Join(t.TempDir(), "restored")
	if err := Restore(again, backup, false); err != nil {
		t.Fatal(err)
	}
	s = start(t, again)
	hosts[3].inv.Server = s.Addr().String()
	check("restored", hosts[3], 1)
}

// A host of the operator vetoes a name that exists there, before anybody gets it. Others cannot, and see no names that wait.
func TestOwnHostsVetoNames(t *testing.T) {
	s := start(t, t.TempDir())
	own, member := join(t, s, reputation.Own), join(t, s, reputation.Member)
	hosts := []*host{own, join(t, s, reputation.Anchor), join(t, s, reputation.Anchor), join(t, s, reputation.Anchor)}
	spread(t, s, hosts...)
	for i, h := range hosts {
		names := []string{"hadoopadm"}
		if i > 0 {
			names = append(names, "alice")
		}
		h.seesTried(names...)
	}
	if l := member.names(""); l.Len() != 0 {
		t.Errorf("%d names are hot before own hosts have had the time for a veto", l.Len())
	}
	l := own.names("?waiting=1")
	if match := l.Matcher(); !match("alice") || !match("hadoopadm") {
		t.Errorf("an own host is shown %d names that wait", l.Len())
	}
	if status, _ := member.send("GET", "/v1/names?waiting=1", nil); status != http.StatusForbidden {
		t.Errorf("a member that asks for names that wait gets %d", status)
	}
	veto := wire.NameBatch{Week: l.Weeks[0].Week, Names: hashed(l.Weeks[0].Salt, "hadoopadm"), Own: hashed(l.Weeks[0].Salt, "alice")}
	body, _ := veto.Encode()
	if status, text := member.send("POST", "/v1/names", body); status != http.StatusBadRequest || !strings.Contains(string(text), "only hosts of the operator") {
		t.Errorf("a member sends own names: %d %s", status, text)
	}
	if status, text := own.send("POST", "/v1/names", body); status != http.StatusAccepted {
		t.Errorf("%d %s", status, text)
	}
	if match := own.names("?waiting=1").Matcher(); match("alice") || !match("hadoopadm") {
		t.Error("after the veto of alice, want hadoopadm only")
	}
}

// Names that are forged, replayed, late, too many or of a host that does not exist change nothing, and the answer says what to do.
func TestBadNames(t *testing.T) {
	s := start(t, t.TempDir())
	h := join(t, s, reputation.Anchor)
	w := h.names("").Weeks[0]
	b := wire.NameBatch{Week: w.Week, Names: hashed(w.Salt, "hadoopadm")}
	good, _ := b.Encode()
	b.Week--
	late, _ := b.Encode()
	sign := func(h *host, at time.Time, seq uint64, body []byte) *http.Request {
		req, _ := http.NewRequest("POST", "https://"+h.inv.Server+"/v1/names", bytes.NewReader(body))
		wire.Sign(req, h.key, at, seq, body)
		return req
	}
	unsigned, _ := http.NewRequest("POST", "https://"+h.inv.Server+"/v1/names", bytes.NewReader(good))
	unsignedList, _ := http.NewRequest("GET", "https://"+h.inv.Server+"/v1/names", nil)
	elsewhere := sign(h, time.Now(), 1, good)
	elsewhere.URL.Path = "/v1/reports"
	for name, tt := range map[string]struct {
		req    *http.Request
		status int
		says   string
	}{
		"unsigned":          {unsigned, 401, "not signed"},
		"list, unsigned":    {unsignedList, 401, "not signed"},
		"of a stranger":     {sign(newHost(t, h.inv), time.Now(), 1, good), 401, "mefctl cloud join"},
		"too late":          {sign(h, time.Now().Add(-time.Hour), 1, good), 401, "clock"},
		"to another path":   {elsewhere, 401, "signature"},
		"of last week":      {sign(h, time.Now(), 1, late), 400, "fetch the list of names again"},
		"not compressed":    {sign(h, time.Now(), 1, []byte("{}")), 400, "gzip"},
		"too long":          {sign(h, time.Now(), 1, make([]byte, wire.MaxBody+1)), 413, "at most"},
		"cut":               {sign(h, time.Now(), 1, good[:len(good)/2]), 400, "damaged"},
		"of another method": {sign(h, time.Now(), 1, nil), 400, "gzip"},
	} {
		if status, text := h.do(tt.req); status != tt.status || !strings.Contains(string(text), tt.says) {
			t.Errorf("%s: %d %s, want %d and %q", name, status, text, tt.status, tt.says)
		}
	}
	s.mu.Lock()
	n := len(s.state.hotNames(w.Week, true))
	s.mu.Unlock()
	if n != 0 {
		t.Errorf("%d names are shown", n)
	}
	h.seq = 10
	if status, text := h.send("POST", "/v1/names", good); status != http.StatusAccepted {
		t.Errorf("%d %s", status, text)
	}
	h.seq = 9
	if status, text := h.send("POST", "/v1/names", good); status != http.StatusConflict || !strings.Contains(string(text), "mefctl cloud join") {
		t.Errorf("an older request again: %d %s", status, text)
	}
	h.seq = 11
	var last int
	for i := range 4 { // each of other names
		var many []string
		for j := range wire.MaxNames {
			many = append(many, fmt.Sprint(i, " ", j))
		}
		last, _ = h.seesTried(many...)
	}
	if last != http.StatusTooManyRequests {
		t.Errorf("the 800th name of a day: %d", last)
	}
}

// All servers with one key, which are those of one log, have the same salts, and others have other ones.
func TestSalts(t *testing.T) {
	one, two := &Server{feedKey: ed25519.NewKeyFromSeed(make([]byte, 32))}, &Server{feedKey: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))}
	if same := (&Server{feedKey: ed25519.NewKeyFromSeed(make([]byte, 32))}); one.salt(1) != same.salt(1) || one.salt(1) == one.salt(2) || one.salt(1) == two.salt(1) {
		t.Error("salts do not follow from key and week")
	}
}
