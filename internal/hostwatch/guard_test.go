package hostwatch

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"mef/internal/host"
)

func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func TestGuard(t *testing.T) {
	session := func(user string, uid uint32, peer string) host.Session {
		return host.Session{User: user, UID: uid, Peer: netip.MustParseAddr(peer)}
	}
	in := func(user, addr string) login { return login{user, netip.MustParseAddr(addr)} }
	admin := func(user string) bool { return user == "root" || user == "alice" }
	for name, tt := range map[string]struct {
		sessions  []host.Session
		logins    []login
		connected []string
		broken    error
		peers     []string
		pending   int // logins that have to be looked at again
	}{
		"nobody":                          {},
		"root, by logind":                 {sessions: []host.Session{session("root", 0, "192.0.2.7")}, peers: []string{"192.0.2.7"}},
		"another name of root":            {sessions: []host.Session{session("toor", 0, "192.0.2.7")}, peers: []string{"192.0.2.7"}},
		"a member of a group":             {sessions: []host.Session{session("alice", 1000, "2001:db8::7")}, peers: []string{"2001:db8::7"}},
		"a user":                          {sessions: []host.Session{session("bob", 1001, "192.0.2.7")}},
		"by the log, still connected":     {logins: []login{in("alice", "192.0.2.7")}, connected: []string{"192.0.2.7"}, peers: []string{"192.0.2.7"}, pending: 1},
		"by the log, and gone":            {logins: []login{in("alice", "192.0.2.7")}, connected: []string{"192.0.2.8"}},
		"a user, by the log":              {logins: []login{in("bob", "192.0.2.7")}, connected: []string{"192.0.2.7"}},
		"by the log, connections unknown": {logins: []login{in("root", "192.0.2.7")}, broken: errors.New("no sock_diag"), peers: []string{"192.0.2.7"}, pending: 1},
		"by both: logind tells of the end": {sessions: []host.Session{session("root", 0, "192.0.2.7")}, logins: []login{in("root", "192.0.2.7")},
			connected: []string{"192.0.2.7"}, peers: []string{"192.0.2.7"}},
	} {
		t.Run(name, func(t *testing.T) {
			k := &sessions{logins: map[login]bool{}, looked: time.Now()}
			for _, l := range tt.logins {
				k.logins[l] = true
			}
			k.look(tt.sessions, admin, func() []uint16 { return []uint16{22} }, func([]uint16) (map[netip.Addr]bool, error) {
				open := map[netip.Addr]bool{}
				for _, a := range addrs(tt.connected...) {
					open[a] = true
				}
				return open, tt.broken
			})
			got := slices.SortedFunc(maps.Keys(k.peers), netip.Addr.Compare)
			if !slices.Equal(got, addrs(tt.peers...)) || len(k.logins) != tt.pending {
				t.Errorf("protected %v, %d to be looked at again; want %v and %d", got, len(k.logins), tt.peers, tt.pending)
			}
		})
	}
}
