package decide

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/duration"
	"mef/internal/event"
	"mef/internal/exempt"
	"mef/internal/prefixset"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func set(prefixes ...string) prefixset.Set {
	var ps []netip.Prefix
	for _, p := range prefixes {
		ps = append(ps, netip.MustParsePrefix(p))
	}
	return prefixset.New(ps...)
}

func TestManual(t *testing.T) {
	facts := exempt.Facts{
		Own: set("198.51.100.1/32", "2001:db8:1::1/128"), Gateways: set("198.51.100.254/32"), Allowed: set("192.0.2.0/28"),
		Proxies: set("203.0.113.0/30"), OnLink: set("2001:db8:1::/64"), Sessions: set("192.0.2.99/32"),
	}
	caller := netip.MustParseAddr("192.0.2.66")
	for name, tt := range map[string]struct {
		prefix  string
		request Request
		want    string // the key, or what the error says
		forced  string // the same with Force; "": no change
	}{
		"an address":            {"203.0.113.77/32", Request{For: time.Hour}, "203.0.113.77", ""},
		"a network, not masked": {"203.0.113.77/25", Request{}, "203.0.113.0/25 contains a proxy: use --force to ban it nevertheless", "203.0.113.0/25"},
		"mapped":                {"::ffff:203.0.113.77/128", Request{}, "203.0.113.77", ""},
		"ports":                 {"203.0.113.77/32", Request{Ports: "22,80"}, "203.0.113.77 ports 22,80", ""},
		"too short":             {"203.0.113.77/32", Request{For: time.Millisecond}, "a ban lasts at least a second, not 1ms", ""},
		"too long":              {"203.0.113.77/32", Request{For: 99_999 * 24 * time.Hour}, "a ban lasts at most a hundred years: for a permanent one, leave out the time", ""},
		"own":                   {"198.51.100.1/32", Request{}, "198.51.100.1 is never banned: this host's own address", ""},
		"own inside":            {"198.51.100.0/24", Request{}, "198.51.100.0/24 is never banned: it contains this host's own address", ""},
		"everything":            {"0.0.0.0/0", Request{}, "0.0.0.0/0 is never banned: it contains loopback addresses", ""},
		"loopback":              {"::1/128", Request{}, "::1 is never banned: loopback addresses", ""},
		"link-local inside":     {"fe00::/8", Request{}, "fe00::/8 is never banned: it contains link-local addresses", ""},
		"wide":                  {"10.0.0.0/15", Request{}, "10.0.0.0/15 is wider than /16: use --force to ban it nevertheless", "10.0.0.0/15"},
		"wide enough":           {"10.0.0.0/16", Request{}, "10.0.0.0/16", ""},
		"wide v6":               {"2a00::/31", Request{}, "2a00::/31 is wider than /32: use --force to ban it nevertheless", "2a00::/31"},
		"gateway":               {"198.51.100.254/32", Request{}, "198.51.100.254 is a gateway of this host, which the kernel accepts before any ban", ""},
		"allowed":               {"192.0.2.8/29", Request{}, "192.0.2.8/29 is an entry of the allow list, which the kernel accepts before any ban", ""},
		"allowed inside":        {"192.0.2.0/26", Request{}, "192.0.2.0/26 contains an entry of the allow list: use --force to ban it nevertheless", "192.0.2.0/26"},
		"caller":                {"192.0.2.66/32", Request{Caller: caller}, "192.0.2.66 is the address from which you are logged in: use --force to ban it nevertheless", "192.0.2.66"},
		"caller inside":         {"192.0.2.64/28", Request{Caller: caller}, "192.0.2.64/28 contains the address from which you are logged in: use --force to ban it nevertheless", "192.0.2.64/28"},
		"another caller":        {"192.0.2.67/32", Request{Caller: caller}, "192.0.2.67", ""},
		"session":               {"192.0.2.99/32", Request{}, "192.0.2.99 is an address from which an administrator is logged in over SSH: use --force to ban it nevertheless", "192.0.2.99"},
		"known logins":          {"203.0.113.128/25", Request{Known: 2}, "203.0.113.128/25 contains 2 known logins: use --force to ban it nevertheless", "203.0.113.128/25"},
		"neighbour":             {"2001:db8:1::2/128", Request{}, "2001:db8:1::2", ""},
	} {
		t.Run(name, func(t *testing.T) {
			for force, want := range map[bool]string{false: tt.want, true: tt.forced} {
				if want == "" {
					want = tt.want
				}
				r := tt.request
				r.Prefix, r.Force, r.Author, r.Note = netip.MustParsePrefix(tt.prefix), force, "root", "note"
				b, err := Manual(r, facts, noon)
				got := b.Key.String()
				if err != nil {
					got = err.Error()
				}
				if got != want {
					t.Errorf("force %t: %s, want %s", force, got, want)
				}
				if err == nil && (b.Permanent() != (r.For == 0) || b.Author != "root" || b.Note != "note" || b.Rule != ban.ByHand) {
					t.Errorf("force %t: ban %+v", force, b)
				}
			}
		})
	}
	if _, err := Manual(Request{}, facts, noon); err == nil {
		t.Error("no prefix: no error")
	}
}

func TestCovers(t *testing.T) {
	held := func(prefix string, ports ban.Ports, class ban.Class, length time.Duration) ban.Active {
		h := ban.Active{Key: ban.Key{Prefix: netip.MustParsePrefix(prefix), Ports: ports, Class: class}, Start: noon}
		if length > 0 {
			h.Until = noon.Add(length)
		}
		return h
	}
	b := ban.Ban{
		Key:   ban.Key{Prefix: netip.MustParsePrefix("192.0.2.7/32"), Ports: "25"},
		Start: noon.Add(time.Minute), Until: noon.Add(61 * time.Minute),
	}
	for name, tt := range map[string]struct {
		held ban.Active
		want bool
	}{
		"as long":         {held("192.0.2.7/32", "25", ban.Verified, time.Hour), true},
		"longer":          {held("192.0.2.7/32", "25", ban.Verified, 2*time.Hour), true},
		"shorter":         {held("192.0.2.7/32", "25", ban.Verified, time.Minute*50), false},
		"without end":     {held("192.0.2.7/32", "25", ban.Verified, 0), true},
		"wider":           {held("192.0.2.0/24", "", ban.Verified, time.Hour), true},
		"more ports":      {held("192.0.2.7/32", "20-30", ban.Verified, time.Hour), true},
		"other ports":     {held("192.0.2.7/32", "22", ban.Verified, time.Hour), false},
		"unverified":      {held("192.0.2.7/32", "25", ban.Unverified, time.Hour), false},
		"somebody else's": {held("192.0.2.8/32", "25", ban.Verified, time.Hour), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := covers(tt.held, &b); got != tt.want {
				t.Errorf("covers = %t, want %t", got, tt.want)
			}
		})
	}
	forever := b
	forever.Until = time.Time{}
	if covers(held("192.0.2.7/32", "25", ban.Verified, time.Hour), &forever) {
		t.Error("an hour covers a ban without end")
	}
}

func TestGrow(t *testing.T) {
	week := 7 * 24 * time.Hour
	for name, tt := range map[string]struct {
		base  time.Duration
		count int
		times conf.BanTimes
		want  time.Duration
		words string
	}{
		"first":          {10 * time.Minute, 1, conf.BanTimes{Growth: 4, Cap: week}, 10 * time.Minute, "10m"},
		"second":         {10 * time.Minute, 2, conf.BanTimes{Growth: 4, Cap: week}, 40 * time.Minute, "10m × 4 = 40m"},
		"third":          {10 * time.Minute, 3, conf.BanTimes{Growth: 4, Cap: week}, 160 * time.Minute, "10m × 16 = 2h40m"},
		"capped":         {10 * time.Minute, 6, conf.BanTimes{Growth: 4, Cap: week}, week, "10m × 1024, at most 7d"},
		"very often":     {10 * time.Minute, 1000, conf.BanTimes{Growth: 4, Cap: week}, week, "10m × 1024, at most 7d"},
		"base above cap": {2 * week, 3, conf.BanTimes{Growth: 4, Cap: week}, 2 * week, "14d × 4, at most 14d"},
		"no growth":      {time.Hour, 50, conf.BanTimes{Growth: 1, Cap: week}, time.Hour, "1h"},
	} {
		t.Run(name, func(t *testing.T) {
			d, factor, capped := grow(tt.base, tt.count, tt.times)
			words := arithmetic(tt.base, d, factor, capped)
			if d != tt.want || words != tt.words {
				t.Errorf("%s, %q; want %s, %q", d, words, tt.want, tt.words)
			}
		})
	}
}

func TestWords(t *testing.T) {
	var spans, ordinals []string
	for _, d := range []time.Duration{0, time.Second, 192 * time.Second, 10 * time.Minute, 100 * time.Minute, 30 * 24 * time.Hour,
		36 * time.Hour, 24*time.Hour + 5*time.Second} {
		spans = append(spans, duration.Span(d))
	}
	if got, want := strings.Join(spans, " "), "under 1s 1s 3m12s 10m 1h40m 30d 1d12h 1d"; got != want {
		t.Errorf("spans %q, want %q", got, want)
	}
	for _, n := range []int{1, 2, 10, 11, 21, 22, 103, 112} {
		ordinals = append(ordinals, ordinal(n))
	}
	if got, want := strings.Join(ordinals, " "), "first second tenth 11th 21st 22nd 103rd 112th"; got != want {
		t.Errorf("ordinals %q, want %q", got, want)
	}
}

// What an attacker wrote is quoted in the sentences that people read.
func TestReasonQuotes(t *testing.T) {
	rule := event.Rule{Name: "sshd", MaxRetry: 5, FindTime: 10 * time.Minute}
	tally := event.Tally{
		Event: &event.Event{Time: noon, Addr: netip.MustParseAddr("192.0.2.7"), User: "x\x1b[2J\n", Kind: event.Failure},
		Rule:  &rule, Source: netip.MustParsePrefix("192.0.2.7/32"),
		Added: 1, Attempts: 3, First: noon, Limit: 3,
		Surge: event.Surge{Sources: 20, User: true},
	}
	d := Decide(&tally, Config{Times: conf.BanTimes{First: time.Minute}}, &exempt.Facts{}, noon)
	if d.Verdict != Ban || strings.ContainsAny(d.Reason, "\x1b\n") {
		t.Errorf("%s: %q", d.Verdict, d.Reason)
	}
}

// covered is a tally far past every limit, of a source that a ban in force keeps out already.
func covered(rule *event.Rule) event.Tally {
	source := netip.MustParsePrefix("192.0.2.7/32")
	return event.Tally{
		Event: &event.Event{Time: noon, Addr: source.Addr(), Kind: event.Failure, Line: "line",
			Position: event.Position{Stream: "8:1:1234567 0123456789abcdef", Offset: 1 << 40}},
		Rule: rule, Source: source, ScoreLimit: 100, Score: 3000,
		Added: 1, Attempts: 5, First: noon, Limit: 5,
		InForce: []ban.Active{{Key: ban.Key{Prefix: source}, Start: noon, Until: noon.Add(time.Minute), ID: 1}},
		History: []ban.Past{{Prefix: source, Start: noon, Until: noon.Add(time.Minute), ID: 1}},
	}
}

// A log read late has thousands of lines of everyone who is banned by now.
func TestCoveredCostsNoMemory(t *testing.T) {
	rule := event.Rule{Name: "sshd", Service: "sshd", MaxRetry: 5, FindTime: 10 * time.Minute}
	again, repeated, none := covered(&rule), covered(&rule), covered(&rule)
	first := covered(&rule)
	first.InForce, first.History = nil, nil
	d := Decide(&first, Config{Times: conf.BanTimes{First: time.Minute}}, &exempt.Facts{}, noon)
	repeated.InForce[0].ID = event.Hash(d.Ban.ID)
	none.Attempts, none.Score = 0, 0
	facts := exempt.Facts{Own: set("198.51.100.1/32"), Allowed: set("203.0.113.0/24"), CDNs: exempt.CDNs()}
	for want, tally := range map[Verdict]*event.Tally{Covered: &again, Repeat: &repeated, None: &none} {
		var got Decision
		allocs := testing.AllocsPerRun(10, func() {
			got = Decide(tally, Config{Times: conf.BanTimes{First: time.Minute}}, &facts, noon)
		})
		if got.Verdict != want || allocs != 0 {
			t.Errorf("verdict %q with %v allocations, want %q with none", got.Verdict, allocs, want)
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	rule := event.Rule{Name: "sshd", Service: "sshd", MaxRetry: 5, FindTime: 10 * time.Minute}
	again, first := covered(&rule), covered(&rule)
	first.InForce, first.History = nil, nil
	none := first
	none.Attempts, none.Score = 1, 10
	for name, tally := range map[string]*event.Tally{"nothing": &none, "ban": &first, "covered": &again} {
		b.Run(name, func(b *testing.B) {
			cfg := Config{Times: conf.BanTimes{First: time.Minute}}
			facts := exempt.Facts{Own: set("198.51.100.1/32"), Allowed: set("198.51.100.0/24"), CDNs: exempt.CDNs()}
			b.ReportAllocs()
			for b.Loop() {
				Decide(tally, cfg, &facts, noon)
			}
		})
	}
}

// An operator may ban a content delivery network if he insists, and at once where its web ports stay open.
func TestManualBanOfCDN(t *testing.T) {
	facts := exempt.Facts{CDNs: exempt.CDNs()}
	r := Request{Prefix: netip.MustParsePrefix("104.16.0.0/16")}
	if _, err := Manual(r, facts, noon); err == nil || !strings.Contains(err.Error(), "Cloudflare") || !strings.Contains(err.Error(), "--force") {
		t.Errorf("a ban of Cloudflare is refused with %v, want its name and --force", err)
	}
	r.Ports = "22"
	if _, err := Manual(r, facts, noon); err != nil {
		t.Errorf("at the SSH port: %v", err)
	}
	r.Ports, r.Force = "", true
	if _, err := Manual(r, facts, noon); err != nil {
		t.Errorf("with force: %v", err)
	}
}
