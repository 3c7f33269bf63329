package learn

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"mef/internal/logtext"
)

const (
	// maxNesting is how deep an object is looked through; a path of a rule goes no deeper.
	maxNesting = 8
	// maxValues is how many values of an object are looked at.
	maxValues = 256
)

// A value is one string, number or word of an object, with its path.
type value struct {
	path   string // as a rule writes it
	key    string // the last member of the path
	text   string // of a string without quotes and escapes; of a number or word as it stands
	quoted bool   // it is a string
}

// An object describes the values that a rule reads in a line that is a JSON object.
type object struct {
	addr, user, message string // paths; empty if there is none
	condition           string // that is true for such lines, in the form of when=; empty if the pattern decides
}

// Keys, by the meaning of their values. The address is that of the first key that the line has.
var (
	addrKeys  = words("remote_ip remoteip client_ip clientip remote_addr remoteaddr remote_address remoteaddress ip_address ipaddress client_addr clientaddr client_address clienthost source_ip src_ip srcip src ip peer peer_ip remote client rhost address addr host remote_host")
	ourKeys   = regexp.MustCompile(`(?i)^(x[-_]?)?(forwarded|real)|server|local|listen|upstream|dest|dst|bind`)
	userKeys  = words("user username user_name login account principal principalname identifier email uname user_id clientusername loginname")
	textKeys  = words("message msg event error reason err detail log text description outcome result action")
	kindKeys  = words("event event_type eventtype type action logger")
	passKeys  = words("success successful authenticated ok succeeded allowed valid")
	statKeys  = words("status status_code statuscode http_status httpstatus downstreamstatus responsestatus response_code")
	plainText = regexp.MustCompile(`^[\pL\pN _.,:;/()'!-]{1,120}$`)
)

func words(list string) []string { return strings.Fields(list) }

// readObject reads a line that is a JSON object. client is as in Read.
func readObject(program, text []byte, client netip.Addr) (l Line, ok bool) {
	values, ok := valuesOf(text)
	if !ok {
		return l, false
	}
	l = Line{Program: string(program), object: new(object)}
	o := l.object
	l.findAddr(values, client)
	user, _ := find(values, userKeys, func(v value) bool { return v.quoted && v.text != "" })
	o.user, l.User = user.path, user.text
	l.findMeaning(values, client)
	return l, l.Addr.IsValid()
}

// findAddr chooses the value that is the client's address.
func (l *Line) findAddr(values []value, client netip.Addr) {
	best := -1
	for _, v := range values {
		a, ok := logtext.Peer([]byte(v.text))
		if !ok || !v.quoted {
			continue
		}
		switch {
		case client.IsValid():
			if a != client.Unmap() {
				continue
			}
		case ourKeys.MatchString(v.key):
			l.Several = l.Several || l.Addr.IsValid() && a != l.Addr
			continue
		case l.Addr.IsValid() && a != l.Addr:
			l.Several = true
		}
		rank := slices.Index(addrKeys, strings.ToLower(v.key))
		if rank < 0 {
			rank = len(addrKeys)
		}
		if best < 0 || rank < best {
			best, l.Addr, l.object.addr = rank, a, v.path
		}
	}
}

// findMeaning finds the value that means that a login was refused or succeeded, and the part of the line that a rule must check.
func (l *Line) findMeaning(values []value, client netip.Addr) {
	o := l.object
	speaks := func(v value) bool {
		return v.quoted && v.path != o.addr && v.path != o.user && (refusing.MatchString(v.text) || admitting.MatchString(v.text))
	}
	if v, ok := find(values, textKeys, speaks); ok {
		l.Refused, l.Login = refusing.MatchString(v.text), admitting.MatchString(v.text)
		text := cut([]byte(v.text), client)
		constant := !slices.ContainsFunc(text.pieces, func(p piece) bool { return p.kind != pieceText })
		if o.addr != "" && constant && plainText.MatchString(v.text) && !strings.Contains(v.text, "&&") {
			o.condition = v.path + "==" + strconv.Quote(v.text) + kinds(values, v.path)
			return
		}
		if o.addr == "" {
			l.Addr, l.Several = text.Addr, text.Several
		} else {
			text.hideAddr()
		}
		if o.user == "" {
			l.User = text.User
		}
		o.message, l.pieces, l.text = v.path, text.pieces, v.text
		return
	}
	if v, ok := find(values, passKeys, func(v value) bool { return !v.quoted && (v.text == "true" || v.text == "false") }); ok {
		l.Refused, l.Login = v.text == "false", v.text == "true"
		o.condition = v.path + "==" + v.text + kinds(values, v.path)
		return
	}
	// A 401 without credentials is a challenge.
	if v, ok := find(values, statKeys, func(v value) bool { return v.text == "401" || v.text == "200" }); ok && o.user != "" {
		l.Refused, l.Login = v.text == "401", v.text == "200"
		o.condition = v.path + "==" + v.text + kinds(values, v.path) + " && " + o.user
	}
}

// hideAddr makes the address in a message a piece like others, because the object has the address at a path of its own.
func (l *Line) hideAddr() {
	for i, p := range l.pieces {
		if p.kind == addr {
			l.pieces[i] = piece{address, ""}
		}
	}
}

// kinds returns the terms that distinguish kinds of lines, without the value at path: those of values that name an event.
func kinds(values []value, path string) string {
	var b strings.Builder
	for _, v := range values {
		if v.path != path && v.quoted && !strings.Contains(v.path, ".") && slices.Contains(kindKeys, strings.ToLower(v.key)) &&
			plainText.MatchString(v.text) && !digit.MatchString(v.text) {
			b.WriteString(" && " + v.path + "==" + strconv.Quote(v.text))
		}
	}
	return b.String()
}

// find returns the first value whose key is among keys, in the order of keys, and that fits.
func find(values []value, keys []string, fits func(value) bool) (value, bool) {
	for _, key := range keys {
		for _, v := range values {
			if strings.EqualFold(v.key, key) && fits(v) {
				return v, true
			}
		}
	}
	return value{}, false
}

// shape returns what lines of one kind have in common: the paths of their values, and the condition.
func (o *object) shape() string {
	return "{" + o.addr + "\x00" + o.user + "\x00" + o.message + "\x00" + o.condition + "}"
}

// valuesOf returns the values of an object that a path can lead to, in the order of the line. ok is false if the text is no JSON object.
func valuesOf(text []byte) (values []value, ok bool) {
	if len(text) == 0 || text[0] != '{' || !json.Valid(text) {
		return nil, false
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	err := collect(d, nil, &values)
	return values, err == nil
}

// collect reads one value and adds what is in it. path is nil at the top, and where no path leads to.
func collect(d *json.Decoder, path []string, values *[]value) error {
	token, err := d.Token()
	if err != nil {
		return err
	}
	delim, compound := token.(json.Delim)
	if !compound {
		add(token, path, values)
		return nil
	}
	for i := 0; d.More(); i++ {
		key := strconv.Itoa(i)
		if delim == '{' {
			name, err := d.Token()
			if err != nil {
				return err
			}
			key, _ = name.(string)
		}
		if err := collect(d, append(slices.Clone(path), key), values); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

// add adds a value unless a rule cannot name it.
func add(token json.Token, path []string, values *[]value) {
	if len(*values) >= maxValues || len(path) > maxNesting || slices.ContainsFunc(path, func(s string) bool { return !pathPart.MatchString(s) }) {
		return
	}
	v := value{path: strings.Join(path, "."), key: path[len(path)-1]}
	switch t := token.(type) {
	case string:
		v.text, v.quoted = t, true
	case json.Number:
		v.text = t.String()
	case bool:
		v.text = strconv.FormatBool(t)
	default:
		return
	}
	*values = append(*values, v)
}

var (
	pathPart = regexp.MustCompile(`^[\w@$:+*-]{1,64}$`)
	digit    = regexp.MustCompile(`\d`)
)
