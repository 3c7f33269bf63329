package kernel

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"mef/internal/conf"
	"mef/internal/enforce"
	"mef/internal/enforce/enforcetest"
	"mef/internal/event"
)

// A detecting is a packet filter that reports packets.
type detecting struct {
	enforcetest.Fake
	detection enforce.Detection
}

func (d *detecting) Detection() (enforce.Detection, error) { return d.detection, nil }

func TestScanStatus(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	filter := new(detecting)
	k := Over(filter, slog.New(slog.DiscardHandler), enforce.Options{})
	if st := k.ScanStatus(start); st.On || st.Off != "" || st.Guard {
		t.Errorf("with everything off the status is %+v", st)
	}
	k.scans.want(Settings{Scan: conf.Scan{Enabled: true, On: []string{conf.AllInterfaces}, NotOn: []string{"lo", "nosuch0"}}, Flood: conf.Flood{Enabled: true}})
	st := k.ScanStatus(start.Add(2 * time.Second))
	if !st.On || st.Off != "" || st.Sampling != "" || !st.Guard || st.GuardOff != "" {
		t.Errorf("the status is %+v, want that all is well", st)
	}
	if len(st.Warnings) != 1 || !strings.Contains(st.Warnings[0], `ps_interface_exclude: there is no interface "nosuch0"`) {
		t.Errorf("the warnings are %q, want one about nosuch0", st.Warnings)
	}
	filter.detection = enforce.Detection{Unadmitted: 900, Muted: 100}
	if st := k.ScanStatus(start.Add(4 * time.Second)); !strings.Contains(st.Sampling, "500 a second are not examined") {
		t.Errorf("in a flood it says %q", st.Sampling)
	}
	if st := k.ScanStatus(start.Add(9 * time.Second)); st.Sampling != "" {
		t.Errorf("after a flood it says %q", st.Sampling)
	}
	filter.detection.Muted += 1000
	if st := k.ScanStatus(start.Add(time.Hour)); st.Sampling != "" {
		t.Errorf("of a flood within the last hour it says %q", st.Sampling)
	}
	filter.detection = enforce.Detection{Off: "this kernel lacks nft_socket", FloodOff: "this kernel lacks nft_connlimit"}
	if st := k.ScanStatus(start.Add(2 * time.Hour)); st.Off != "this kernel lacks nft_socket" || st.GuardOff != "this kernel lacks nft_connlimit" {
		t.Errorf("without modules the status is %+v", st)
	}
	filter.detection = enforce.Detection{}
	k.scans.fail("no CAP_NET_ADMIN")
	if st := k.ScanStatus(start.Add(3 * time.Hour)); st.Off != "no CAP_NET_ADMIN" || !slices.ContainsFunc(st.Warnings, func(w string) bool { return strings.Contains(w, "not reported: no CAP_NET_ADMIN") }) {
		t.Errorf("without reports the status is %+v", st)
	}
}

// Packets to ports of services do not count, also after a restart of the daemon.
func TestPortsOfServices(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	k := Over(new(detecting), slog.New(slog.DiscardHandler), enforce.Options{})
	k.scans.want(Settings{Scan: conf.Scan{Enabled: true}})
	k.scans.serve(event.TCP, 25, now)
	k.scans.serve(event.UDP, 53, now)
	k.scans.serve(event.UDP, 40000, now) // of a client
	saved := k.scans.save()
	for _, text := range []string{saved, "", "{", `{"tcp/1":"x"}`, `{"icmp/1":"2026-01-02T03:04:05Z"}`, `{"tcp/65536":"2026-01-02T03:04:05Z"}`} {
		again := Over(new(detecting), slog.New(slog.DiscardHandler), enforce.Options{})
		again.scans.want(Settings{Scan: conf.Scan{Enabled: true}})
		again.RestoreServed(text)
		var left []string
		for _, p := range again.scans.closed([]event.Packet{
			{Mark: event.ClosedPort, Protocol: event.TCP, Port: 25},
			{Mark: event.ClosedPort, Protocol: event.UDP, Port: 25},
			{Mark: event.ClosedPort, Protocol: event.UDP, Port: 53},
			{Mark: event.ClosedPort, Protocol: event.UDP, Port: 40000},
			{Mark: event.FloodSYN, Protocol: event.TCP, Port: 25, From: netip.MustParseAddr("192.0.2.7")},
		}) {
			left = append(left, fmt.Sprintf("%s %s/%d", p.Mark, p.Protocol, p.Port))
		}
		want := []string{"mef:scan udp/25", "mef:scan udp/40000", "mef:syn tcp/25"}
		if text != saved {
			want = []string{"mef:scan tcp/25", "mef:scan udp/25", "mef:scan udp/53", "mef:scan udp/40000", "mef:syn tcp/25"}
		}
		if !slices.Equal(left, want) {
			t.Errorf("with %q, these count: %q, want %q", text, left, want)
		}
	}
}

// In a flood the kernel collects packets, and afterwards it sends each at once again.
func TestManyPacketsAreCollected(t *testing.T) {
	var r rate
	now := time.Unix(1_700_000_000, 0)
	var changes []string
	come := func(seconds, perSecond int) {
		for range seconds * perSecond {
			now = now.Add(time.Second / time.Duration(perSecond))
			if on, changed := r.collect(now, 1); changed {
				changes = append(changes, fmt.Sprint(on, " at ", now.Unix()-1_700_000_000))
			}
		}
	}
	come(10, 20)
	come(10, 500)
	come(10, 20)
	now = now.Add(time.Hour)
	come(1, 20)
	if want := []string{"true at 11", "false at 21"}; !slices.Equal(changes, want) {
		t.Errorf("collecting changed %q, want %q", changes, want)
	}
}
