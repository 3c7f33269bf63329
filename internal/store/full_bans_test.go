package store_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/store"
)

// stormBan returns one of very many bans with all that a ban may say, its address at random.
func stormBan(r *rand.Rand) ban.Ban {
	a := netip.AddrFrom4([4]byte{byte(1 + r.IntN(120)), byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256))})
	b := ban.Ban{
		Key: ban.Key{Prefix: netip.PrefixFrom(a, 32)}, Start: noon, Until: noon.Add(time.Hour), Rule: "sshd", Service: "sshd", Count: 1,
		ID:     fmt.Sprintf("sshd %s/32 file:fe00:990052:0:%x:%d", a, r.Uint64(), r.IntN(1e7)),
		Reason: "5 failures in 12s (limit 5 in 10m); first ban in 30d: 10m",
	}
	for range ban.MaxEvidence {
		b.Evidence = append(b.Evidence, fmt.Sprintf("Nov 27 12:42:%02d mail sshd[%d]: Failed password for invalid user %x from %s port %d ssh2",
			r.IntN(60), r.IntN(1e6), r.Uint64(), a, r.IntN(65536)))
	}
	return b
}

// TestAllBansFit saves as many bans as may be in force at once, beside what the tracker keeps, in a file of the usual size: none of it is
// refused, and every ban can be read again.
func TestAllBansFit(t *testing.T) {
	if testing.Short() {
		t.Skip("fills the file")
	}
	const scale = 4 // the file and the bans in it are a fourth
	s := open(t, mefdb(t), store.Options{MaxSize: int64(store.DefaultMaxSize / scale)})
	n, r := 200_000/scale, rand.New(rand.NewPCG(5, 6))
	saved := map[ban.Key]bool{}
	for len(saved) < n {
		var u store.Update
		for range 1000 {
			b := stormBan(r)
			saved[b.Key] = true
			u.Bans = append(u.Bans, b)
		}
		u.Records = tallies(len(saved), len(saved)+200, false)
		if err := s.Commit(&u, noon); err != nil {
			t.Fatalf("after %d bans in %d MB: %v", len(saved), s.Size()>>20, err)
		}
	}
	if got := len(load(t, s, noon).Bans); got != len(saved) {
		t.Errorf("%d bans of %d are saved", got, len(saved))
	}
	t.Logf("%d bans, %d MB", len(saved), s.Size()>>20)
}
