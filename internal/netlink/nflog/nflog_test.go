//go:build linux

package nflog

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"mef/internal/event"
)

func packet4(protocol byte, transport []byte) []byte {
	b := make([]byte, 20)
	b[0], b[9] = 0x45, protocol
	copy(b[12:], netip.MustParseAddr("192.0.2.7").AsSlice())
	copy(b[16:], netip.MustParseAddr("203.0.113.1").AsSlice())
	return append(b, transport...)
}

func packet6(next byte, rest ...byte) []byte {
	b := make([]byte, 40)
	b[0], b[6] = 0x60, next
	copy(b[8:], netip.MustParseAddr("2001:db8::7").AsSlice())
	copy(b[24:], netip.MustParseAddr("2001:db8::1").AsSlice())
	return append(b, rest...)
}

func tcp(port uint16, flags byte) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b[2:], port)
	b[13] = flags
	return b
}

func TestParse(t *testing.T) {
	udp := []byte{0x80, 0, 0, 53, 0, 8, 0, 0}
	options := append([]byte{6, 0, 0, 0, 0, 0, 0, 0}, tcp(443, 2)...) // a hop-by-hop header, then TCP
	first := append([]byte{17, 0, 0, 1, 0, 0, 0, 0}, udp...)          // the first of several fragments
	later := append([]byte{17, 0, 0, 8, 0, 0, 0, 0}, udp...)
	for name, tt := range map[string]struct {
		packet []byte
		want   string // "" if the packet is passed over
	}{
		"SYN":                 {packet4(6, tcp(23, 2)), "tcp SYN from 192.0.2.7 to port 23 of 203.0.113.1"},
		"no flags":            {packet4(6, tcp(23, 0)), "tcp without flags from 192.0.2.7 to port 23 of 203.0.113.1"},
		"FIN":                 {packet4(6, tcp(23, 1)), "tcp FIN from 192.0.2.7 to port 23 of 203.0.113.1"},
		"Xmas":                {packet4(6, tcp(23, 0x29)), "tcp FIN+PSH+URG from 192.0.2.7 to port 23 of 203.0.113.1"},
		"UDP":                 {packet4(17, udp), "udp from 192.0.2.7 to port 53 of 203.0.113.1"},
		"IPv6":                {packet6(6, tcp(22, 2)...), "tcp SYN from 2001:db8::7 to port 22 of 2001:db8::1"},
		"IPv6 with options":   {packet6(0, options...), "tcp SYN from 2001:db8::7 to port 443 of 2001:db8::1"},
		"first fragment":      {packet6(44, first...), "udp from 2001:db8::7 to port 53 of 2001:db8::1"},
		"later fragment":      {packet6(44, later...), ""},
		"options cut off":     {packet6(0, 6, 9, 0, 0, 0, 0, 0, 0), ""},
		"options without end": {packet6(0, make([]byte, 80)...), ""},
		"header cut off":      {packet4(6, nil)[:19], ""},
		"TCP cut off":         {packet4(6, tcp(23, 2)[:13]), ""},
		"another protocol":    {packet4(1, make([]byte, 20)), ""},
		"length of IPv4":      {append([]byte{0x4f}, packet4(6, tcp(23, 2))[1:]...), ""},
		"no IP":               {[]byte{0xff, 1, 2}, ""},
		"nothing":             {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p, ok := parse(tt.packet)
			if got := p.String(); ok != (tt.want != "") || ok && got != tt.want {
				t.Errorf("parse = %q, %v, want %q", got, ok, tt.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(packet4(6, tcp(23, 2)))
	f.Add(packet6(0, append([]byte{6, 0, 0, 0, 0, 0, 0, 0}, tcp(443, 2)...)...))
	f.Add(packet6(44, make([]byte, 16)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, ok := parse(b)
		if ok && (!p.From.IsValid() || p.From.Is4In6() || p.Protocol != event.TCP && p.Protocol != event.UDP) {
			t.Errorf("parse accepts %x as %+v", b, p)
		}
	})
}
