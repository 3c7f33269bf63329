//go:build integration

package nflog_test

import (
	"net"
	"testing"
	"time"

	"mef/internal/event"
	"mef/internal/netlink/nflog"
	"mef/internal/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// The kernel sends packets together while they are collected, loses none, and sends each at once again afterwards.
func TestCollect(t *testing.T) {
	const group, many = 7, 300
	ns := netnstest.New(t)
	ns.Run(t, "table inet t { chain out { type filter hook output priority 0; udp dport 9 log group 7; }; }", "nft", "-f", "-")
	conn := netnstest.In(t, ns, func() (*nflog.Conn, error) { return nflog.Dial(0, group) })
	defer conn.Close()
	defer time.AfterFunc(netnstest.Patience, func() { conn.Close() }).Stop()
	from := netnstest.In(t, ns, func() (net.PacketConn, error) { return net.ListenPacket("udp4", "127.0.0.1:0") })
	defer from.Close()
	send := func(n int) {
		for range n {
			if _, err := from.WriteTo([]byte("word"), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9}); err != nil {
				t.Fatal(err)
			}
		}
	}
	receive := func(n int) (calls int) {
		var packets []event.Packet
		for len(packets) < n {
			var lost bool
			var err error
			if packets, lost, err = conn.Receive(packets); err != nil || lost {
				t.Fatalf("%d packets, lost: %v, %v", len(packets), lost, err)
			}
			calls++
		}
		if len(packets) > n {
			t.Errorf("%d packets, want %d", len(packets), n)
		}
		return calls
	}
	if err := conn.Collect(true); err != nil {
		t.Fatal(err)
	}
	send(many)
	if calls := receive(many); calls > many/2 {
		t.Errorf("%d packets came in %d pieces", many, calls)
	}
	if err := conn.Collect(false); err != nil {
		t.Fatal(err)
	}
	send(1) // with which the kernel may still wait
	receive(1)
	send(3)
	if calls := receive(3); calls != 3 {
		t.Errorf("3 packets came in %d pieces, want each at once", calls)
	}
}
