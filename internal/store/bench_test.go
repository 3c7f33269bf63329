package store_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"mef/internal/ban"
	"mef/internal/store"
)

// fill puts n bans, in the random order in which attackers come, a thousand at a time.
func fill(b *testing.B, s *store.Store, n int) {
	b.Helper()
	order := rand.New(rand.NewPCG(1, 2)).Perm(n)
	for len(order) > 0 {
		some := order[:min(1000, len(order))]
		order = order[len(some):]
		var u store.Update
		for _, i := range some {
			u.Bans = append(u.Bans, sampleBan(i))
		}
		commit(b, s, &u, noon)
	}
}

// BenchmarkOpen opens a file of so many bans and loads them, as a start of the daemon does.
func BenchmarkOpen(b *testing.B) {
	for _, n := range []int{1000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("%d bans", n), func(b *testing.B) {
			path := mefdb(b)
			s := open(b, path, store.Options{})
			fill(b, s, n)
			s.Close()
			var got int
			for b.Loop() {
				s := open(b, path, store.Options{})
				st, err := s.Load(noon)
				if err != nil {
					b.Fatal(err)
				}
				got = len(st.Bans)
				s.Close()
			}
			info, _ := os.Stat(path)
			b.ReportMetric(float64(got), "bans")
			b.ReportMetric(float64(info.Size()>>10)/1024, "MB")
		})
	}
}

// BenchmarkCommit changes a thousand tallies, of as many as the tracker holds, and a position: a busy second.
func BenchmarkCommit(b *testing.B) {
	for _, n := range []int{1000, 20_000, 100_000} {
		b.Run(fmt.Sprintf("1000 of %d tallies", n), func(b *testing.B) {
			s := open(b, mefdb(b), store.Options{})
			record := func(i int) store.Record {
				key := binary.BigEndian.AppendUint64([]byte("s"), uint64(i)*0x9E3779B97F4A7C15)
				return store.Record{Key: key, Value: []byte(strings.Repeat("tally", 20))}
			}
			for at := 0; at < n; at += 1000 {
				var u store.Update
				for i := range 1000 {
					u.Records = append(u.Records, record(at+i))
				}
				commit(b, s, &u, noon)
			}
			r := rand.New(rand.NewPCG(3, 4))
			for b.Loop() {
				u := store.Update{Positions: map[string]string{"journal": fmt.Sprint(r.Uint64())}}
				for range 1000 {
					u.Records = append(u.Records, record(r.IntN(n)))
				}
				commit(b, s, &u, noon)
			}
			b.ReportMetric(float64(s.Size()>>10)/1024, "MB")
		})
	}
}

// BenchmarkStorm writes ten thousand new bans at once.
func BenchmarkStorm(b *testing.B) {
	bans := make([]ban.Ban, 10_000)
	for i := range bans {
		bans[i] = sampleBan(i * 7)
	}
	for b.Loop() {
		b.StopTimer()
		s := open(b, mefdb(b), store.Options{})
		b.StartTimer()
		commit(b, s, &store.Update{Bans: bans}, noon)
	}
}
