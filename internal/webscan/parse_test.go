package webscan_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"mef/internal/webscan"
)

// show returns what a line says: address, method, target, status, agent, and who forwarded it.
func show(p *webscan.Reader, line string) string {
	var r webscan.Request
	if !p.Read([]byte(line), 0, &r) {
		return "nothing"
	}
	s := fmt.Sprintf("%s %s %s %d %s", r.Addr, r.Method, r.Target, r.Status, r.Agent)
	if len(r.Forwarded) > 0 {
		s += " for " + string(r.Forwarded)
	}
	return s
}

const date = "[10/Oct/2025:13:55:36 +0200]"

func TestFormats(t *testing.T) {
	var p webscan.Reader
	for name, tt := range map[string]struct{ line, want string }{
		"common":             {`192.0.2.7 - - ` + date + ` "GET /a?b=c HTTP/1.1" 200 12`, `192.0.2.7 GET /a?b=c 200 `},
		"combined":           {`2001:db8::7 - bob ` + date + ` "POST /a HTTP/2.0" 404 - "https://example.org/" "Mozilla/5.0 (X11)"`, `2001:db8::7 POST /a 404 Mozilla/5.0 (X11)`},
		"mapped address":     {`::ffff:192.0.2.7 - - ` + date + ` "GET / HTTP/1.1" 200 12`, `192.0.2.7 GET / 200 `},
		"name of the host":   {`www.example.org 192.0.2.7 - - ` + date + ` "GET / HTTP/1.1" 200 12 "-" "x"`, `192.0.2.7 GET / 200 x`},
		"with port":          {`www.example.org:443 192.0.2.7 - - ` + date + ` "GET / HTTP/1.1" 200 12 "-" "x"`, `192.0.2.7 GET / 200 x`},
		"host is an address": {`198.51.100.1 192.0.2.7 - - ` + date + ` "GET / HTTP/1.1" 200 12 "-" "x"`, `192.0.2.7 GET / 200 x`},
		"lighttpd":           {`192.0.2.7 www.example.org - ` + date + ` "GET / HTTP/1.1" 200 12 "-" "x"`, `192.0.2.7 GET / 200 x`},
		"lighttpd, address":  {`192.0.2.7 198.51.100.1 - ` + date + ` "GET / HTTP/1.1" 200 12 "-" "x"`, `192.0.2.7 GET / 200 x`},
		"traefik":            {`192.0.2.7 - - ` + date + ` "GET / HTTP/1.1" 404 19 "-" "x" 1 "web@docker" "http://172.18.0.2:80" 3ms`, `192.0.2.7 GET / 404 x`},
		"user with blanks":   {`192.0.2.7 - a b ` + date + ` "GET / HTTP/1.1" 401 12 "-" "x"`, `192.0.2.7 GET / 401 x`},
		"user with bracket":  {`192.0.2.7 - [x] ` + date + ` "GET / HTTP/1.1" 401 12 "-" "x"`, `192.0.2.7 GET / 401 x`},
		"forwarded":          {`192.0.2.7 - - ` + date + ` "GET / HTTP/1.1" 200 12 "-" "x" "198.51.100.7, 203.0.113.9"`, `192.0.2.7 GET / 200 x for 198.51.100.7, 203.0.113.9`},
		"forwarded by text":  {`192.0.2.7 - - ` + date + ` "GET / HTTP/1.1" 200 12 "-" "x" "unknown, 203.0.113.9"`, `192.0.2.7 GET / 200 x`},
		"agent of addresses": {`192.0.2.7 - - ` + date + ` "GET / HTTP/1.1" 200 12 "198.51.100.7" "198.51.100.7"`, `192.0.2.7 GET / 200 198.51.100.7`},
		"escaped mark":       {`192.0.2.7 - - ` + date + ` "GET /\"x HTTP/1.1" 404 12 "-" "a\"b"`, `192.0.2.7 GET /\"x 404 a\"b`},
		"no method":          {`192.0.2.7 - - ` + date + ` "\x16\x03\x01" 400 0 "-" "-"`, `192.0.2.7  \x16\x03\x01 400 -`},
		"empty request":      {`192.0.2.7 - - ` + date + ` "" 400 0 "-" "-"`, `192.0.2.7   400 -`},
		"blanks in the path": {`192.0.2.7 - - ` + date + ` "GET /a b HTTP/1.1" 404 0 "-" "-"`, `192.0.2.7 GET /a b 404 -`},
		"HTTP/0.9":           {`192.0.2.7 - - ` + date + ` "GET /" 400 0`, `192.0.2.7 GET / 400 `},
		"CONNECT":            {`192.0.2.7 - - ` + date + ` "CONNECT example.net:443 HTTP/1.1" 405 0`, `192.0.2.7 CONNECT example.net:443 405 `},

		"caddy": {`{"level":"info","ts":1767225600.25,"logger":"http.log.access","msg":"handled request","request":{"remote_ip":"192.0.2.7","remote_port":"4711","client_ip":"192.0.2.7","proto":"HTTP/2.0","method":"GET","host":"example.org","uri":"/.env?x","headers":{"User-Agent":["curl/8"]}},"user_id":"","duration":0.001,"size":0,"status":404}`,
			`192.0.2.7 GET /.env?x 404 curl/8 for 192.0.2.7`},
		"caddy 2.4":          {`{"logger":"http.log.access","request":{"remote_addr":"[2001:db8::7]:4711","method":"GET","uri":"/","headers":{}},"status":200}`, `2001:db8::7 GET / 200 `},
		"traefik JSON":       {`{"ClientAddr":"192.0.2.7:1","ClientHost":"192.0.2.7","DownstreamStatus":404,"RequestMethod":"GET","RequestPath":"/a","request_User-Agent":"x","time":"2026-01-01T00:00:00Z"}`, `192.0.2.7 GET /a 404 x`},
		"nginx JSON":         {`{"remote_addr":"192.0.2.7","request":"GET /a HTTP/1.1","status":"404","http_user_agent":"x","http_x_forwarded_for":"198.51.100.7"}`, `192.0.2.7 GET /a 404 x for 198.51.100.7`},
		"docker's json-file": {`{"log":"192.0.2.7 - - ` + date + ` \"GET / HTTP/1.1\" 200 12\n","stream":"stdout","time":"2026-01-01T00:00:00Z"}`, `192.0.2.7 GET / 200 `},
	} {
		if got := show(&p, tt.line); got != tt.want {
			t.Errorf("%s: %s\n got %q\nwant %q", name, tt.line, got, tt.want)
		}
	}
}

// Whatever a client writes into its request, its name and the name of the host it asks for, no other address comes of it.
func TestHostileLines(t *testing.T) {
	var p webscan.Reader
	const bystander = "198.51.100.66"
	fake := bystander + ` - - ` + date + ` "GET /.env HTTP/1.1" 404 12 "-" "x"`
	line := func(user, request, referer, agent string) string {
		return `192.0.2.7 - ` + user + ` ` + date + ` "` + request + `" 404 12 "` + referer + `" "` + agent + `"`
	}
	for name, text := range map[string]string{
		"user":              line(fake, "GET / HTTP/1.1", "-", "x"),
		"user, an address":  line(bystander, "GET / HTTP/1.1", "-", "x"),
		"request":           line("-", "GET /"+strings.ReplaceAll(fake, `"`, `\"`)+" HTTP/1.1", "-", "x"),
		"request, by \\x22": line("-", "GET /"+strings.ReplaceAll(fake, `"`, `\x22`)+" HTTP/1.1", "-", "x"),
		"unescaped":         line("-", `GET /" 404 12 "`+fake, "-", "x"),
		"line end":          line("-", `GET /%0a`+bystander+`%20-%20- HTTP/1.1`, "-", "x"),
		"escaped line end":  line("-", `GET /\n`+bystander+` - - HTTP/1.1`, "-", "x"),
		"referer":           line("-", "GET / HTTP/1.1", fake, "x"),
		"agent":             line("-", "GET / HTTP/1.1", "-", fake),
		"only marks":        line("-", `""""""""`, `""""`, `"`),
		"backslash":         line("-", `GET /\`, `\`, `\`),
		"binary":            line("-", "\x16\x03\x01\x00\xff\xfe", "\x00", "\x80"),
		"64 KB":             line("-", "GET /"+strings.Repeat("a", 64<<10)+" HTTP/1.1", "-", "x"),
		"many words":        line(strings.Repeat("a ", 600), "GET / HTTP/1.1", "-", "x"),
		"many brackets":     line(strings.Repeat("[", 2000), "GET / HTTP/1.1", "-", "x"),
		"host":              bystander + ` - x 192.0.2.7 - - ` + date + ` "GET / HTTP/1.1" 404 12 "-" "x"`, // nginx before 1.21.1
		"host, as name":     bystander + `:80 192.0.2.7 - - ` + date + ` "GET / HTTP/1.1" 404 12 "-" "x"`,
		"JSON in a path":    line("-", `GET /{"remote_addr":"`+bystander+`","status":404,"uri":"/"} HTTP/1.1`, "-", "x"),
		"JSON, twice":       `{"remote_addr":"192.0.2.7","status":404,"uri":"/","remote_addr":"` + bystander + `"}`,
		"JSON, in a value":  `{"remote_addr":"192.0.2.7","status":404,"uri":"/\",\"remote_addr\":\"` + bystander + `"}`,
		"JSON, and more":    `{"remote_addr":"192.0.2.7","status":404,"uri":"/"} {"remote_addr":"` + bystander + `","status":404,"uri":"/"}`,
	} {
		if got := show(&p, text); got != "nothing" && !strings.HasPrefix(got, "192.0.2.7 ") {
			t.Errorf("%s: %.200s\nsays %.200s", name, text, got)
		}
	}
	for _, text := range []string{"", " ", "[", `"`, date, date + ` "GET / HTTP/1.1" 200 1`, `192.0.2.7 - - [10/Oct/2025] "GET / HTTP/1.1" 200 1`,
		`192.0.2.7 - - ` + date + ` GET / 200 1`, `192.0.2.7 - - ` + date + ` "GET / HTTP/1.1" 2000 1`, `192.0.2.7 - - ` + date + ` "GET / HTTP/1.1" 099 1`,
		`192.0.2.7 - - ` + date + ` "GET / HTTP/1.1"`, `192.0.2.7 - - ` + date + ` "GET / HTTP/1.1`, `host - - ` + date + ` "GET / HTTP/1.1" 200 1`,
		`host 198.51.100.66 - ` + date + ` "GET / HTTP/1.1" 200 1`, // the answer of identd
		`{}`, `{"remote_addr":"192.0.2.7"}`, `{"remote_addr":"192.0.2.7","status":404}`, `{"remote_addr":"x","status":404,"uri":"/"}`, `{"log":"x"`} {
		if got := show(&p, text); got != "nothing" {
			t.Errorf("%q says %s", text, got)
		}
	}
}

func TestClient(t *testing.T) {
	proxy := func(a netip.Addr) bool { return netip.MustParsePrefix("203.0.113.0/24").Contains(a) }
	for list, want := range map[string]string{
		"198.51.100.7":                        "198.51.100.7",
		"192.0.2.1, 198.51.100.7":             "198.51.100.7",
		"192.0.2.1,198.51.100.7, 203.0.113.9": "198.51.100.7",
		"203.0.113.1, 203.0.113.9":            "invalid IP",
		"":                                    "invalid IP",
		"192.0.2.1, unknown":                  "invalid IP",
		"192.0.2.1, [2001:db8::7]:443, 203.0.113.9": "2001:db8::7",
	} {
		r := webscan.Request{Forwarded: []byte(list)}
		if addr, _ := r.Client(proxy); addr.String() != want {
			t.Errorf("%q is for %s, want %s", list, addr, want)
		}
	}
}

// Whatever a line holds, an address that is read stands in front of the date, or is a value of JSON.
func FuzzRead(f *testing.F) {
	for _, line := range []string{`192.0.2.7 - - ` + date + ` "GET /a?b=c HTTP/1.1" 200 12 "-" "x" "198.51.100.7"`, `h:1 192.0.2.7 - u ` + date + ` "" 200 12`,
		`{"remote_addr":"192.0.2.7","request":"GET /a HTTP/1.1","status":"404"}`, `{"request":{"remote_ip":"192.0.2.7","uri":"/"},"status":404}`,
		`{"log":"192.0.2.7 - - ` + date + ` \"GET / HTTP/1.1\" 200 12\n","stream":"stdout","time":"2026-01-01T00:00:00Z"}`} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		var p webscan.Reader
		var r webscan.Request
		if !p.Read(line, 0, &r) {
			return
		}
		if !r.Addr.IsValid() || r.Addr.IsUnspecified() || r.Addr.Is4In6() || r.Status < 100 || r.Status > 599 || len(r.Target) > 4096 || len(r.Agent) > 4096 {
			t.Errorf("%q is %+v", line, r)
		}
		r.Client(func(netip.Addr) bool { return true })
	})
}

// What a client can write stands in every place of a line, and the address stays.
func FuzzSteer(f *testing.F) {
	f.Add([]byte(`198.51.100.66 - - `+date+` "GET /.env HTTP/1.1" 404 12 "-" "x"`), uint8(0))
	f.Fuzz(func(t *testing.T, text []byte, place uint8) {
		escaped := make([]byte, 0, len(text))
		for _, c := range text { // as servers do
			switch {
			case c == '"' || c == '\\':
				escaped = append(escaped, '\\', c)
			case c < ' ' || c >= 0x7f:
				escaped = fmt.Appendf(escaped, `\x%02x`, c)
			default:
				escaped = append(escaped, c)
			}
		}
		field := [4]string{"-", "GET / HTTP/1.1", "-", "x"}
		field[place%4] = string(escaped)
		line := fmt.Sprintf(`192.0.2.7 - %s %s "%s" 404 12 "%s" "%s"`, field[0], date, field[1], field[2], field[3])
		var p webscan.Reader
		if got := show(&p, line); got != "nothing" && !strings.HasPrefix(got, "192.0.2.7 ") {
			t.Errorf("%q says %s", line, got)
		}
	})
}
