package logins

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"mef/internal/track/netkey"
)

// Nothing of logins and guests is left once they are forgotten.
func TestForget(t *testing.T) {
	table := New()
	table.Configure(Limits{Total: 500, PerUser: 8, TTL: time.Hour, IPv6Prefix: 56})
	addr := func(i int) netkey.Key {
		if i%2 == 0 {
			return netkey.Exact(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
		}
		return netkey.Exact(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(i), 7}))
	}
	for i := range 2000 {
		of := Pair{addr(i % 100), "sshd", fmt.Sprint("user", i%300)}
		table.Succeed(of, int64(i))
		table.AddGuest(Pair{of.From, "dovecot", of.User}).At = int64(i)
	}
	if table.Len() > 500 || len(table.guests) > 500 || len(table.within) == 0 {
		t.Fatalf("%d logins, %d guests in a table of 500, %d networks", table.Len(), len(table.guests), len(table.within))
	}
	table.Forget(int64(100 * time.Hour))
	if table.Len()+len(table.users)+len(table.within)+len(table.guests)+len(table.guest) != 0 || table.known != (list{}) || table.strays != (list{}) {
		t.Errorf("left: %d logins, %d users, %d networks, %d guests at %d addresses", table.Len(), len(table.users), len(table.within), len(table.guests), len(table.guest))
	}
}
