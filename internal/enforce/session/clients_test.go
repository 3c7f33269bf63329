//go:build linux

package session

import (
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"mef/internal/netlink/nfnl"
)

func TestOnlyEstablishedConnectionsHavePeers(t *testing.T) {
	const seenReply, synSent, timeWait = 1 << 1, 1, 7
	for name, tt := range map[string]struct {
		protocol byte
		status   uint32
		state    byte // 0: not reported
		want     bool
	}{
		"established":                        {unix.IPPROTO_TCP, seenReply | statusAssured, tcpEstablished, true},
		"forwarded by a flowtable":           {unix.IPPROTO_TCP, seenReply | statusAssured | statusOffload, 0, true},
		"never answered":                     {unix.IPPROTO_TCP, 0, tcpEstablished, false},
		"opened":                             {unix.IPPROTO_TCP, 0, synSent, false},
		"ended":                              {unix.IPPROTO_TCP, seenReply | statusAssured, timeWait, false},
		"UDP":                                {unix.IPPROTO_UDP, seenReply | statusAssured, 0, true},
		"UDP, one exchange":                  {unix.IPPROTO_UDP, seenReply, 0, false},
		"UDP that is forwarded by flowtable": {unix.IPPROTO_UDP, seenReply | statusAssured | statusOffload, 0, true},
		"ICMP":                               {unix.IPPROTO_ICMP, seenReply | statusAssured, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			from := netip.MustParseAddr("192.0.2.7")
			var a nfnl.Attrs
			tuple := a.Begin(ctaTupleOrig)
			ip := a.Begin(ctaTupleIP)
			a.Bytes(ctaIPv4Src, from.AsSlice())
			a.End(ip)
			proto := a.Begin(ctaTupleProto)
			a.Bytes(ctaProtoNum, []byte{tt.protocol})
			a.End(proto)
			a.End(tuple)
			a.Uint32(ctaStatus, tt.status)
			if tt.state != 0 {
				info := a.Begin(ctaProtoInfo)
				tcp := a.Begin(ctaProtoInfoTCP)
				a.Bytes(ctaProtoInfoTCPState, []byte{tt.state})
				a.End(tcp)
				a.End(info)
			}
			if got := entryPeers(a); slices.Contains(got, from) != tt.want {
				t.Errorf("peers %v, want %s: %v", got, from, tt.want)
			}
		})
	}
}
