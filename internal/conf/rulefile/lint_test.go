package rulefile

import (
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"mef/internal/conf"
)

// What a client sends so that a pattern extracts 192.0.2.66, while it comes from 203.0.113.9. In lines, $U is what it sends.
var imitations = []string{
	"x from 192.0.2.66",
	"x from 192.0.2.66 ",
	"x from 192.0.2.66 port 22",
	"x from 192.0.2.66 port 22 ssh2",
	"x from 192.0.2.66 port 22 ssh2 from 192.0.2.66 port 22 ssh2",
	"Failed password for x from 192.0.2.66 port 22 ssh2",
	"from 192.0.2.66",
	"192.0.2.66",
	"192.0.2.66 ",
	"x, rip=192.0.2.66, lip=",
	"x>, rip=192.0.2.66, lip=198.51.100.1",
	"x] FAIL LOGIN: Client \"192.0.2.66\"",
	"x[192.0.2.66]",
	"x[192.0.2.66]: SASL PLAIN authentication failed: ",
	"warning: x[192.0.2.66]: SASL PLAIN authentication failed: ",
	"\nFailed password for x from 192.0.2.66 port 22 ssh2",
	"\nFailed password for x from 192.0.2.66 port 22 ssh2\n",
	"2001:db8:bad::1:",
	"",
}

// whatever are other messages of the same daemon. None begins with what a client sent: against such a daemon no pattern helps.
var whatever = []string{"login by $U", "Invalid user $U from 203.0.113.9 port 5", "mail to $U refused: 203.0.113.9"}

// attacked returns the address that an attack on the pattern makes it extract, if there is one.
func attacked(pattern, line string) string {
	re := regexp.MustCompile(conf.Expand(pattern))
	for _, l := range append([]string{line}, whatever...) {
		for _, u := range imitations {
			text := strings.ReplaceAll(l, "$U", u)
			m := re.FindStringSubmatch(text)
			if m == nil {
				continue
			}
			a, err := netip.ParseAddr(m[re.SubexpIndex("ip")])
			if err == nil && a != netip.MustParseAddr("203.0.113.9") {
				return a.String() + " by " + text
			}
		}
	}
	return ""
}

func TestLinter(t *testing.T) {
	const sshd = "Failed password for $U from 203.0.113.9 port 4711 ssh2"
	for _, tt := range []struct {
		pattern string
		line    string // as the daemon writes it
		want    flaw
	}{
		{`^Failed password for .* from <HOST> port \d+ ssh2$`, sshd, flawless},
		{`^Failed password for .*? from <HOST> port \d+ ssh2$`, sshd, flawless},
		{`^Failed (?:password|none) for (?:invalid user )?<USER> from <HOST> port \d+(?: ssh2)?$`, sshd, flawless},
		{`^Failed password for (?P<user>\S+) from <HOST> port \d+(?: ssh2)?\s*$`, sshd, flawless},
		{`(?i)^failed password for .* from <HOST> port \d+ ssh2$`, sshd, flawless},
		{`^(?:error: )?Failed password for .* from <HOST> port \d+ ssh2$`, sshd, flawless},
		{`(?:^Failed password for .* from <HOST> port \d+ ssh2$|^nothing$)`, sshd, flawless},

		{`^Failed password for .* from <HOST> port \d+ ssh2$|nothing`, sshd, unbound},
		{`Failed password .* from (?P<ip>\S+)`, sshd, unbound},
		{`Failed password for .* from <HOST> port \d+ ssh2$`, sshd, unbound},
		{`.*Failed password for .* from <HOST>`, sshd, unbound},
		{`(?m)^Failed password for .* from <HOST> port \d+ ssh2$`, sshd, unbound},
		{`(?:^|: )Failed password for .* from <HOST> port \d+ ssh2$`, sshd, unbound},
		{`^.* from <HOST> port \d+ ssh2$`, sshd, freeStart},
		{`^\S+ password for .* from <HOST> port \d+ ssh2$`, sshd, freeStart},
		{`^(?:error: )?.* from <HOST> port \d+ ssh2$`, sshd, freeStart},
		{`^Failed password for .* from <HOST>`, sshd, openEnd},
		{`^Failed password for .*? from <HOST> port \d+`, sshd, openEnd},
		{`^Failed password for \S+ from <HOST> port \d+ ssh2`, sshd, openEnd},
		{`^Failed password for [a-z]+ from <HOST>`, sshd, openEnd},
		{`^Failed password for .{1,99} from <HOST>(?:$| port)`, sshd, openEnd},
		{`(?m)^Failed password for .* from <HOST> port \d+ ssh2$`, sshd, unbound},
		{`^Failed password for .* from <HOST> port \d+ ssh2(?m)$`, sshd, openEnd},
		{`^Failed password for .*? from <HOST>.*$`, sshd, freeEnd},
		{`^Failed password for .*? from <HOST> \w+ .* ssh2$`, sshd, freeEnd},
		{`^Failed password for .*(?: from <HOST>)+ port \d+ ssh2$`, sshd, repeated},

		{`^Connection closed by <HOST> port \d+ .*`, "Connection closed by 203.0.113.9 port 5 $U", flawless},
		{`^Disconnected from user $`, "", flawless}, // no address
		{`^(?P<ip>\S+) \S+ \S+ \[[^\]]+\] "[^"]*" 40[134] `, `203.0.113.9 - $U [1/Jan/2026:00:00:00 +0000] "GET /$U HTTP/1.1" 404 1 "-" "$U"`, flawless},
		{`^(?:\S+:\d+ )?(?P<ip>\S+) \S+ \S+ \[`, `203.0.113.9 - $U [1/Jan/2026:00:00:00 +0000]`, freeStart},
		{`^\[<USER>\] FAIL LOGIN: Client "<HOST>"$`, `[$U] FAIL LOGIN: Client "203.0.113.9"`, flawless},
		{`^\[[^\]]*\] FAIL LOGIN: Client "<HOST>"`, `[$U] FAIL LOGIN: Client "203.0.113.9"`, openEnd},
		{`^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d refused <HOST>`, "2026-01-01 00:00:00 refused 203.0.113.9 $U", flawless},
		{`^[\d :.-]+ refused .* by <HOST>$`, "2026-01-01 00:00:00 refused $U by 203.0.113.9", freeStart},

		{`^warning: [\w.-]+\[<HOST>\]: SASL \S+ authentication failed`, "warning: mx.example.org[203.0.113.9]: SASL PLAIN authentication failed: $U", flawless},
		{`^login \([\w.-]+ \[<HOST>\]\) refused`, "login (mx.example.org [203.0.113.9]) refused $U", flawless},
		{`^warning: \S+\[<HOST>\]: SASL`, "warning: $U[203.0.113.9]: SASL", openEnd},
		{`^warning: [^\[]+\[<HOST>\]: SASL`, "warning: $U[203.0.113.9]: SASL PLAIN authentication failed: ", openEnd},
		{`^warning: .* [\w.-]+\[<HOST>\]: SASL`, "warning: $U [203.0.113.9]: SASL", openEnd},
		{`^refused [\w.-]+ <HOST>`, "refused $U 203.0.113.9", openEnd},
		{`^user=<[^>]*>, rip=<HOST>, lip=`, "user=<$U>, rip=203.0.113.9, lip=198.51.100.1", openEnd},
		{`^user=<[^>]*>, rip=<HOST>, lip=[\d.]+$`, "user=<$U>, rip=203.0.113.9, lip=198.51.100.1", flawless},

		{`^refused .*?<HOST>$`, "refused $U203.0.113.9", touching},
		{`^refused .*?:<HOST>$`, "refused $U:203.0.113.9", touching},
		{`^refused .*?: <HOST>$`, "refused $U: 203.0.113.9", flawless},
	} {
		t.Run(tt.pattern, func(t *testing.T) {
			if got := steerable(conf.Expand(tt.pattern)); got != tt.want {
				t.Errorf("got %q, want %q", got.why, tt.want.why)
			}
			if how := attacked(tt.pattern, tt.line); tt.want == flawless && tt.line != "" && how != "" {
				t.Errorf("accepted, but extracts %s", how)
			}
		})
	}
}

// The refusals are not pedantry: these patterns are those that people write, and each of them bans a bystander.
func TestRefusedPatternsCanBeSteered(t *testing.T) {
	for pattern, line := range map[string]string{
		`Failed password .* from (?P<ip>\S+)`:                            "Failed password for $U from 203.0.113.9 port 4711 ssh2",
		`Failed password for .* from <HOST> port \d+ ssh2$`:              "Failed password for $U from 203.0.113.9 port 4711 ssh2",
		`^Failed password for .*? from <HOST> port \d+`:                  "Failed password for $U from 203.0.113.9 port 4711 ssh2",
		`^Failed password for \S+ from <HOST>`:                           "Failed password for $U from 203.0.113.9 port 4711 ssh2",
		`^Failed password for .*? from <HOST>.*$`:                        "Failed password for $U from 203.0.113.9 port 4711 ssh2",
		`(?m)^Failed password for .* from <HOST> port \d+ ssh2$`:         "Failed password for $U from 203.0.113.9 port 4711 ssh2",
		`^\[[^\]]*\] FAIL LOGIN: Client "<HOST>"`:                        `[$U] FAIL LOGIN: Client "203.0.113.9"`,
		`^user=<[^>]*>, rip=<HOST>, lip=`:                                "user=<$U>, rip=203.0.113.9, lip=198.51.100.1",
		`^warning: \S+\[<HOST>\]`:                                        "warning: $U[203.0.113.9]: SASL",
		`^refused .*?<HOST>$`:                                            "refused $U203.0.113.9",
		`warning: .*\[(?P<ip>[^\]]+)\]: SASL .* authentication failed: `: "warning: mx[203.0.113.9]: SASL PLAIN authentication failed: $U",
	} {
		t.Run(pattern, func(t *testing.T) {
			if steerable(conf.Expand(pattern)) == flawless {
				t.Error("accepted")
			}
			if attacked(pattern, line) == "" {
				t.Error("none of the attacks works")
			}
		})
	}
}

// Every combination of these parts is a pattern for a message that has what a client sent in place of the free part. None
// that the linter takes can be steered by a client that knows the pattern.
func TestLinterAgainstCombinations(t *testing.T) {
	starts := []string{"^Refused ", "Refused ", "^", "^(?:error: )?", "^(?:error: )?Refused ", "(?m)^Refused ", "^.*Refused "}
	frees := []string{".*", ".*?", `\S+`, `\S*?`, `[^ ]+`, `[\w.-]+`, `[^\[]*`, `\w+`, `(?:\w+ )*`, `(?P<user>.+)`}
	parts := []struct{ pattern, text string }{{" from ", " from "}, {`\[`, "["}, {" ", " "}, {"", ""}, {": ", ": "}, {":", ":"}, {`,? rip=`, ", rip="}, {` \(?`, " ("}}
	ends := []struct{ pattern, text string }{{"", ""}, {"$", ""}, {` port \d+$`, " port 22"}, {` port \d+`, " port 22"}, {".*$", ""}, {`\]: SASL`, "]: SASL"},
		{`\]$`, "]"}, {`(?: port \d+)?$`, " port 22"}, {`(?: .*)?$`, " with"}, {` \w+$`, " with"}, {`\b`, ""}, {`:\d+$`, ":22"}, {`(?:$| port)`, " port"}}
	taken, steered, harmless := 0, 0, 0
	for _, start := range starts {
		for _, free := range frees {
			for _, part := range parts {
				for _, end := range ends {
					pattern := start + free + part.pattern + "<HOST>" + end.pattern
					found := steerable(conf.Expand(pattern))
					how := combined(pattern, part.text, end.text)
					switch {
					case found == flawless && how != "":
						t.Errorf("%s is taken, but extracts %s", pattern, how)
					case found == flawless:
						taken++
					case how != "":
						steered++
					default:
						harmless++
					}
				}
			}
		}
	}
	t.Logf("%d taken, %d refused that an attack here steers, %d refused that none does", taken, steered, harmless)
	if taken == 0 || steered < harmless {
		t.Error("the linter refuses more than it has reason to")
	}
}

// combined attacks the pattern with texts made of the very parts that it expects.
func combined(pattern, part, end string) string {
	re := regexp.MustCompile(conf.Expand(pattern))
	const truth, victim = "203.0.113.9", "192.0.2.66"
	fake := "x" + part + victim + end
	for _, u := range []string{
		fake, fake + " ", fake + "\n", fake + part, fake + part + victim + end,
		"Refused " + fake, "\nRefused " + fake, "\nRefused " + fake + "\n", "Refused " + fake + " ", part + victim + end, victim + end, victim + " ", "2001:db8:bad::1:",
	} {
		if strings.ContainsAny(u, "[(") && strings.Contains(pattern, `[\w.-]+\[`) {
			continue // the client's host name stands there, which has no brackets
		}
		for _, line := range []string{"Refused " + u + part + truth + end, "Accepted " + u, "Accepted " + u + " by " + truth} {
			m := re.FindStringSubmatch(line)
			if m == nil {
				continue
			}
			a, err := netip.ParseAddr(m[re.SubexpIndex("ip")])
			if err == nil && a != netip.MustParseAddr(truth) {
				return a.String() + " by " + line
			}
		}
	}
	return ""
}

// A client that knows the pattern sends it as its user name: what it may send in a refused login must not be taken for a success.
func TestForgedSuccesses(t *testing.T) {
	for pattern, want := range map[string]flaw{
		`^accepted for '(?P<user>.*)' from <HOST>$`:          flawless,
		`^Accepted \S+ for (?P<user>\S+) from <HOST>$`:       flawless,
		`^login of (?P<user>.*) ok, .* from <HOST>$`:         forgeable,
		`^login of (?P<user>.*) ok from <HOST>$`:             flawless, // the words right in front of the address are the daemon's
		`^user (?P<user>\S+) logged in .* from <HOST>$`:      forgeable,
		`^id \w+: let in '(?P<user>.*)' from <HOST>$`:        flawless,
		`^user \S+ logged in(?: with \w+)? from <HOST>$`:     flawless,
		`^login \d+ of (?P<user>\S+) from <HOST> .*$`:        flawless,
		`^(?P<user>[^ ]+) let in: why [^"]* from <HOST>$`:    forgeable,
		`^session (?P<session>\d+): ok, <HOST> as (?P<u>.*)`: flawless,
	} {
		if got := forges(conf.Expand(pattern)); got != want {
			t.Errorf("forges(%s) = %q, want %q", pattern, got.why, want.why)
		}
	}
}

// Whoever sends the text of an ignore pattern must not be ignored for it.
func TestHiddenFailures(t *testing.T) {
	for pattern, want := range map[string]flaw{
		`healthcheck`:                                   hidesAnywhere,
		`user monitor`:                                  hidesAnywhere,
		`(?m)^login of monitor$`:                        hidesAnywhere,
		`^login of monitor from 192\.0\.2\.5$`:          flawless,
		`^login of .* from 192\.0\.2\.5$`:               flawless,
		`^login of .* from 192\.0\.2\.5`:                hidesBetween,
		`^login of .* from 192\.0\.2\.5 .*$`:            hidesBetween,
		`^.*healthcheck`:                                hidesBetween,
		`^greylisted, .*$`:                              flawless,
		`^NOQUEUE: reject: .* 450 4\.7\.1 .*Greylisted`: hidesBetween,
	} {
		if got := hides(conf.Expand(pattern)); got != want {
			t.Errorf("hides(%s) = %q, want %q", pattern, got.why, want.why)
		}
	}
}

func TestLogsThatClientsWrite(t *testing.T) {
	for path, want := range map[string]bool{
		"/var/log/nginx/error.log":                           true,
		"/var/log/nginx/*error.log":                          true,
		"/var/log/nginx/access.log":                          false,
		"/var/log/mysql/error.log":                           true,
		"/var/log/mysql/error.json":                          false,
		"/var/lib/mysql/db1.err":                             true,
		"/var/log/mysqld.log":                                true,
		"/var/log/postgresql/postgresql-15-main.log":         true,
		"/var/log/postgresql/postgresql-15-main.json":        false,
		"/var/lib/pgsql/data/log/postgresql-Mon.log":         true,
		"/var/log/vaultwarden.log":                           true,
		"/var/lib/znc/moddata/adminlog/znc.log":              true,
		"/var/log/gitlab/gitlab-rails/production_json.log":   false,
		"/var/log/apache2/error.log":                         false,
		"/var/log/httpd/nginx-proxy_error.log/../access.log": false,
	} {
		if got := clientsWrite(path) != nil; got != want {
			t.Errorf("clientsWrite(%s) = %v, want %v", path, got, want)
		}
	}
}
