package webscan

import (
	"bytes"
	"net/netip"

	"mef/internal/logtext"
)

// A Request is a line of an access log. Its slices point into the line or the Reader, and are valid until the next Read.
type Request struct {
	Addr      netip.Addr // the peer of the connection
	Forwarded []byte     // addresses that proxies wrote into the request, the nearest last; empty if the log does not have them

	Method []byte // empty if the client sent something other than a request of HTTP
	Target []byte // path and query; all that the client sent if it is not a request
	Status int
	Agent  []byte
}

// Path returns the target without its query.
func (r *Request) Path() []byte {
	if query := bytes.IndexByte(r.Target, '?'); query >= 0 {
		return r.Target[:query]
	}
	return r.Target
}

// A Reader reads requests out of lines in the formats that web servers write: the Common Log Format and what begins like it, and the JSON
// of Caddy, Traefik and the usual formats of nginx and Apache. The zero value is ready. It belongs to one goroutine.
//
// # Who chooses the address
//
// The client writes the request, the agent, the referer, the user's name and, where the log has it, the name of the host, which
// stands in front of the address. Servers escape quotation marks and control characters in all of them, and no server writes blanks
// into the name of a host. So the address is the first word, or the second if the first is no address, and nothing behind it is
// looked at for one. A line in which both words may be the address, or that has another address in front of its date, is not a request.
type Reader struct {
	carrier logtext.Carrier
	json    *jsonForm // made when a line needs it
}

// maxTarget is how much of a target counts, in bytes.
const maxTarget = 4096

// Read reads a line: a record of a file, or the message of a journal entry. end is the place behind it, as for logtext.Carrier. Read reports
// false if the line is no request, or does not name the client.
// It allocates nothing once it has seen a few lines.
func (p *Reader) Read(line []byte, end uint64, r *Request) bool {
	line, ok := p.carrier.Cut(line, end)
	if !ok || len(line) == 0 {
		return false
	}
	*r = Request{}
	if line[0] == '{' {
		if p.json == nil {
			p.json = newJSONForm()
		}
		ok = p.json.read(line, r)
	} else {
		ok = readCommon(line, r)
	}
	r.Target = r.Target[:min(len(r.Target), maxTarget)]
	r.Agent = r.Agent[:min(len(r.Agent), maxTarget)]
	return ok
}

// readCommon reads a line in the Common Log Format (log_common_log() and multi_log_transaction() in Apache's mod_log_config.c), with or
// without the name of the host in front, referer and agent behind, and more (ngx_http_combined_fmt in nginx' ngx_http_log_module.c,
// accesslog.format of lighttpd, accessLog of Traefik):
//
//	[HOST[:PORT]] ADDRESS IDENT USER [DATE] "REQUEST" STATUS BYTES ["REFERER" "AGENT" ...]
func readCommon(line []byte, r *Request) bool {
	front, rest, ok := cutDate(line)
	if !ok || !findAddr(front, r) || len(rest) == 0 || rest[0] != '"' {
		return false
	}
	request, rest, ok := cutQuoted(rest)
	if !ok {
		return false
	}
	readRequestLine(request, r)
	if rest, ok = readStatus(rest, r); !ok {
		return false
	}
	readTail(rest, r)
	return true
}

// maxFront is how many bytes are searched for the date: host, address and user.
const maxFront = 1024

// cutDate cuts a line at its date: the first that is whole.
func cutDate(line []byte) (front, rest []byte, ok bool) {
	const date = len("[02/Jan/2006:15:04:05 -0700] ")
	head := line[:min(len(line), maxFront)]
	for at := 0; ; {
		i := bytes.IndexByte(head[at:], '[')
		if i < 0 || at+i+date > len(line) {
			return nil, nil, false
		}
		at += i
		if at > 0 && line[at-1] == ' ' && isDate(line[at:at+date]) {
			return line[:at-1], line[at+date:], true
		}
		at++
	}
}

// isDate reports whether s is a date in brackets, with the blank behind it.
func isDate(s []byte) bool {
	const form = "[00/Aaa/0000:00:00:00 +0000] "
	for i, c := range s {
		f := form[i]
		switch {
		case f == '0' && !isDigit(c), (f == 'A' || f == 'a') && !isLetter(c), f == '+' && c != '+' && c != '-':
			return false
		case f != '0' && f != 'A' && f != 'a' && f != '+' && c != f:
			return false
		}
	}
	return true
}

// findAddr finds the address in the text in front of the date.
func findAddr(front []byte, r *Request) bool {
	first, rest := cutWord(front)
	second, behind := cutWord(rest)
	third, user := cutWord(behind)
	a, isFirst := logtext.Addr(first)
	b, isSecond := logtext.Addr(second)
	switch {
	case isFirst && isSecond && len(behind) > 0 && len(user) == 0: // ADDRESS HOST USER of lighttpd, where HOST is an address
		r.Addr, rest = a, behind
	case isFirst && isSecond: // HOST ADDRESS IDENT USER, where HOST is an address
		if string(third) != "-" || len(user) == 0 {
			return false
		}
		r.Addr, rest = b, behind
	case isFirst:
		r.Addr = a
	case isSecond && len(user) > 0:
		r.Addr, rest = b, behind
	default:
		return false
	}
	return !hidesAddr(rest)
}

// hidesAddr reports whether s, which ends with the user's name, has another ADDRESS IDENT USER in it. Versions of nginx before 1.21.1 write
// blanks into the name of the host, so that one who chose "192.0.2.1 - x" for it would otherwise choose the address.
func hidesAddr(s []byte) bool {
	for len(s) > 0 {
		var word []byte
		word, s = cutWord(s)
		if _, ok := logtext.Addr(word); ok && len(s) > 2 && s[0] == '-' && s[1] == ' ' {
			return true
		}
	}
	return false
}

// cutWord cuts s behind its first word.
func cutWord(s []byte) (word, rest []byte) {
	if i := bytes.IndexByte(s, ' '); i >= 0 {
		return s[:i], s[i+1:]
	}
	return s, nil
}

// cutQuoted cuts s, which begins with a quotation mark, behind the next that is not escaped.
func cutQuoted(s []byte) (text, rest []byte, ok bool) {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return s[1:i], s[i+1:], true
		}
	}
	return nil, nil, false
}

// readRequestLine reads "GET /path HTTP/1.1". What is not of that form has no method.
func readRequestLine(s []byte, r *Request) {
	method, rest := cutWord(s)
	if len(method) == 0 || len(method) > 20 || len(rest) == 0 || bytes.IndexFunc(method, func(c rune) bool { return c < 'A' || c > 'Z' }) >= 0 {
		r.Target = s
		return
	}
	r.Method = method
	if i := bytes.LastIndex(rest, []byte(" HTTP/")); i >= 0 {
		rest = rest[:i]
	}
	r.Target = rest
}

// readStatus reads the status behind the request.
func readStatus(s []byte, r *Request) (rest []byte, ok bool) {
	if len(s) < 4 || s[0] != ' ' || len(s) > 4 && s[4] != ' ' {
		return nil, false
	}
	if r.Status, ok = number(s[1:4]); !ok || r.Status < 100 || r.Status > 599 {
		return nil, false
	}
	return s[4:], true
}

// readTail reads the text behind the status: the number of bytes, then in quotation marks the referer, the agent and the operator's own
// fields. One of these that is a list of addresses names the proxies of the request.
func readTail(s []byte, r *Request) {
	for n := 1; ; n++ {
		i := bytes.IndexByte(s, '"')
		if i < 0 {
			return
		}
		text, rest, ok := cutQuoted(s[i:])
		switch {
		case !ok:
			return
		case n == 2:
			r.Agent = text
		case n > 2 && isAddrList(text):
			r.Forwarded = text
		}
		s = rest
	}
}

// isAddrList reports whether s is addresses with commas.
func isAddrList(s []byte) bool {
	for len(s) > 0 {
		item, rest, _ := bytes.Cut(s, []byte(","))
		if _, ok := logtext.Peer(bytes.TrimSpace(item)); !ok {
			return false
		}
		if s = rest; len(s) == 0 {
			return true
		}
	}
	return false
}

// Client returns the last address of Forwarded that is not a proxy: the one that the last trusted proxy wrote. It reports false if there
// is none.
func (r *Request) Client(proxy func(netip.Addr) bool) (netip.Addr, bool) {
	for s := r.Forwarded; len(s) > 0; {
		i := bytes.LastIndexByte(s, ',')
		addr, ok := logtext.Peer(bytes.TrimSpace(s[i+1:]))
		if !ok || !proxy(addr) {
			return addr, ok
		}
		s = s[:max(i, 0)]
	}
	return netip.Addr{}, false
}

// A jsonForm reads JSON objects. The names are those of Caddy (modules/caddyhttp/server.go, marshalers.go), of Traefik
// (pkg/middlewares/accesslog/logdata.go), and those of nginx' variables, as its manual has them in log_format escape=json.
type jsonForm struct {
	reader                                                  logtext.Reader
	addr, forwarded, method, target, request, status, agent []int // numbers of paths, the first that is there counts
}

func newJSONForm() *jsonForm {
	f := new(jsonForm)
	for _, want := range []struct {
		to    *[]int
		paths [][]string
	}{
		{&f.addr, [][]string{{"request", "remote_ip"}, {"request", "remote_addr"}, {"ClientHost"}, {"remote_addr"}, {"remote_ip"}, {"clientip"}, {"client_ip"}}},
		{&f.forwarded, [][]string{{"request", "headers", "X-Forwarded-For", "0"}, {"request_X-Forwarded-For"}, {"http_x_forwarded_for"}, {"x_forwarded_for"}, {"request", "client_ip"}}},
		{&f.method, [][]string{{"request", "method"}, {"RequestMethod"}, {"request_method"}, {"method"}}},
		{&f.target, [][]string{{"request", "uri"}, {"RequestPath"}, {"request_uri"}, {"uri"}, {"path"}}},
		{&f.request, [][]string{{"request"}}},
		{&f.status, [][]string{{"status"}, {"DownstreamStatus"}, {"status_code"}}},
		{&f.agent, [][]string{{"request", "headers", "User-Agent", "0"}, {"request_User-Agent"}, {"http_user_agent"}, {"user_agent"}, {"agent"}}},
	} {
		for _, path := range want.paths {
			*want.to = append(*want.to, f.reader.Want(path))
		}
	}
	return f
}

// text returns the first string or number that is there.
func (f *jsonForm) text(numbers []int) []byte {
	for _, n := range numbers {
		if v := f.reader.Values[n]; v.Kind == logtext.String || v.Kind == logtext.Number {
			return v.Text
		}
	}
	return nil
}

func (f *jsonForm) read(line []byte, r *Request) (ok bool) {
	if !f.reader.Read(bytes.TrimRight(line, " \r\n\t")) {
		return false
	}
	if r.Addr, ok = logtext.Peer(f.text(f.addr)); !ok {
		return false
	}
	if r.Status, ok = number(f.text(f.status)); !ok || r.Status < 100 || r.Status > 599 {
		return false
	}
	if r.Method, r.Target = f.text(f.method), f.text(f.target); r.Target == nil {
		line := f.text(f.request)
		if line == nil {
			return false
		}
		readRequestLine(line, r)
	}
	r.Agent = f.text(f.agent)
	if list := f.text(f.forwarded); isAddrList(list) {
		r.Forwarded = list
	}
	return true
}

// number returns the number that three digits make.
func number(s []byte) (n int, ok bool) {
	if len(s) != 3 {
		return 0, false
	}
	for _, c := range s {
		if !isDigit(c) {
			return 0, false
		}
		n = 10*n + int(c-'0')
	}
	return n, true
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isLetter(c byte) bool { return 'a' <= c|' ' && c|' ' <= 'z' }
