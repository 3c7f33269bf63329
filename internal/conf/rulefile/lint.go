package rulefile

import (
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode"

	"mef/internal/conf/ini"
)

// The linter reports which patterns of an operator an attacker can steer.
//
// A line of a log is written by a daemon, but parts of it are what a client sent: user name, HELO, URL, reverse name. A client
// who knows a pattern puts a text into such a part that looks like the rest of a message with somebody else's address in
// it. The class of a group proves nothing, a user name matched by \S+ may well contain spaces: the pattern then matches its
// first word and goes on behind it. What the extraction may rest on is where the line begins and where it ends:
//
//   - The pattern begins with ^ and fixed words: no other message can be taken for this one.
//   - Only fixed text and numbers stand between there and the address: nothing can come in between.
//   - Or, where there is free text in front of the address, only fixed text and numbers follow it up to $: an address further
//     to the front has the true address behind it, and neither fixed text nor a number matches that.
//     Some fixed text that no address contains must part the two, or one runs into the other.
//   - Or, as mail servers write, a host name stands directly before the address in brackets: host names have no brackets.
//
// A message from the journal may have line breaks in it, which a client may have sent: (?m)^ and (?m)$ bind nothing.
//
// Anything else is refused. That refuses harmless patterns too; it is a pattern less, not a bystander banned.

// A flaw is why a pattern can be steered, and how to write it so that it cannot.
type flaw struct {
	why, fix string
}

// flaws of patterns; flawless has none.
var (
	flawless  = flaw{}
	unbound   = flaw{"it can match in the middle of a message, so a client can send text that looks like a complete message", "begin it with ^ and the message's first words"}
	freeStart = flaw{"it begins with free text, so a client can send text that looks like the rest of the message", "begin it with ^ and the message's first words"}
	openEnd   = flaw{"there is free text in front of the address and no fixed end after it, so a client can send text with another address in it", "describe the rest of the message after the address, and end the pattern with $"}
	freeEnd   = flaw{"there is free text in front of the address and after it, so a client can send text with another address in it", "write fixed words or numbers after the address instead"}
	touching  = flaw{"there is free text directly in front of the address, so a client can send what looks like the beginning of it", "write the fixed words that stand between them"}
	repeated  = flaw{"the address is inside a repetition", "move it out of the repetition"}

	forgeable = flaw{"its words are between two free texts, so a client whose login is refused can send them and be counted as logged in",
		"match the user name by \\S+, and begin the pattern with words that only a successful login has"}
	hidesAnywhere = flaw{"it can match in the middle of a message, so a client can send this text as its user name, and none of its failures counts",
		"begin it with ^ and the message's first words"}
	hidesBetween = flaw{"its words are between free texts, so a client can send them as its user name, and none of its failures counts",
		"describe the message from its first words (^) to its end ($), with free text in one place"}
)

// steerable returns how free text can choose the address that the expression extracts, or flawless.
func steerable(expression string) flaw {
	re, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return flawless // reported elsewhere
	}
	around := locate(re)
	switch {
	case !around.found:
		return flawless // no address, nobody to be banned for it
	case around.repeated:
		return repeated
	case re.Op == syntax.OpAlternate && slices.ContainsFunc(re.Sub, isUnbound):
		return unbound
	}
	before, after := flatten(around.before), flatten(around.after)
	if len(before) == 0 || before[0].Op != syntax.OpBeginText {
		return unbound
	}
	before = before[1:]
	free := slices.IndexFunc(before, isFree)
	switch {
	case free < 0:
		return flawless
	case !slices.ContainsFunc(before[:free], isFixed):
		return freeStart
	case isHostInFront(before[free:], after):
		return flawless
	case !isParted(before):
		return touching
	case len(after) == 0 || after[len(after)-1].Op != syntax.OpEndText:
		return openEnd
	case slices.ContainsFunc(after, isFree):
		return freeEnd
	}
	return flawless
}

// isUnbound reports whether re can match in the middle of a text.
func isUnbound(re *syntax.Regexp) bool {
	list := flatten([]*syntax.Regexp{re})
	return len(list) == 0 || list[0].Op != syntax.OpBeginText
}

// forges returns how free text can make a refused login match the expression, which is of successful ones, or flawless. That the address
// cannot be chosen is for steerable to find out. Free text of one word that is no user name, such as a session's number, is taken to
// be the daemon's own.
func forges(expression string) flaw {
	re, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return flawless // reported elsewhere
	}
	list := []*syntax.Regexp{re}
	if around := locate(re); around.found {
		list = around.before
	}
	user := false
	if i := slices.IndexFunc(list, isUser); i >= 0 {
		user, list = true, list[i:]
	}
	list = flatten(list)
	sent := slices.IndexFunc(list, func(re *syntax.Regexp) bool { return isText(re) || user && isFree(re) })
	for i := sent + 1; sent >= 0 && i < len(list); i++ {
		if hasWords(list[i]) && slices.ContainsFunc(list[i:], isText) {
			return forgeable
		}
	}
	return flawless
}

// isUser reports whether re is the group user.
func isUser(re *syntax.Regexp) bool { return re.Op == syntax.OpCapture && re.Name == "user" }

// hides returns how free text can make a failure match the expression, whose lines are never counted, or flawless.
func hides(expression string) flaw {
	re, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return flawless // reported elsewhere
	}
	list := flatten([]*syntax.Regexp{re})
	if len(list) == 0 || list[0].Op != syntax.OpBeginText {
		return hidesAnywhere
	}
	first := slices.IndexFunc(list, isFree)
	if first < 0 {
		return flawless
	}
	rest := list[first+1:]
	bound := len(rest) > 0 && rest[len(rest)-1].Op == syntax.OpEndText && !slices.ContainsFunc(rest, isFree)
	if slices.ContainsFunc(rest, hasWords) && !bound {
		return hidesBetween
	}
	return flawless
}

// hasWords reports whether re is fixed text with letters in it.
func hasWords(re *syntax.Regexp) bool {
	return re.Op == syntax.OpLiteral && strings.ContainsFunc(string(re.Rune), unicode.IsLetter)
}

// isText reports whether re is free text that may have blanks in it.
func isText(re *syntax.Regexp) bool {
	return isFree(re) && mayBe(re, ' ')
}

// mayBe reports whether a part of re matches the character.
func mayBe(re *syntax.Regexp, r rune) bool {
	switch re.Op {
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return true
	case syntax.OpCharClass:
		for i := 0; i+1 < len(re.Rune); i += 2 {
			if re.Rune[i] <= r && r <= re.Rune[i+1] {
				return true
			}
		}
	}
	return slices.ContainsFunc(re.Sub, func(sub *syntax.Regexp) bool { return mayBe(sub, r) })
}

// A place is where the address stands in an expression: what comes before and after it, in the order of the text.
type place struct {
	found, repeated bool
	before, after   []*syntax.Regexp
}

// locate finds the group ip. Of alternatives it looks at the one with the group; the others extract nothing.
func locate(re *syntax.Regexp) place {
	if re.Op == syntax.OpCapture && re.Name == "ip" {
		return place{found: true}
	}
	for i, sub := range re.Sub {
		at := locate(sub)
		if !at.found {
			continue
		}
		switch re.Op {
		case syntax.OpConcat:
			at.before = slices.Concat(re.Sub[:i], at.before)
			at.after = slices.Concat(at.after, re.Sub[i+1:])
		case syntax.OpStar, syntax.OpPlus, syntax.OpRepeat:
			at.repeated = true
		}
		return at
	}
	return place{}
}

// flatten takes concatenations and groups apart.
func flatten(list []*syntax.Regexp) []*syntax.Regexp {
	var out []*syntax.Regexp
	for _, re := range list {
		if re.Op == syntax.OpConcat || re.Op == syntax.OpCapture {
			out = append(out, flatten(re.Sub)...)
		} else {
			out = append(out, re)
		}
	}
	return out
}

// isFree reports whether re may match what a client wrote: anything but fixed words, single characters and numbers.
func isFree(re *syntax.Regexp) bool { return free(re, false) }

func free(re *syntax.Regexp, repeated bool) bool {
	switch re.Op {
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return true
	case syntax.OpCharClass:
		return repeated && !isNumeric(re)
	case syntax.OpStar, syntax.OpPlus:
		repeated = true
	case syntax.OpRepeat:
		repeated = repeated || re.Max != 1
	}
	return slices.ContainsFunc(re.Sub, func(sub *syntax.Regexp) bool { return free(sub, repeated) })
}

// isNumeric reports whether the class holds only what numbers, addresses, dates and times are written with, and not white
// space as well, which would let it match a text of several words.
func isNumeric(class *syntax.Regexp) bool {
	digits, spaces := false, false
	for _, r := range runes(class) {
		digits = digits || '0' <= r && r <= '9'
		spaces = spaces || strings.ContainsRune(" \t\n\v\f\r", r)
		if !strings.ContainsRune("0123456789abcdefABCDEFTZ.:,+/%_- \t\n\v\f\r", r) {
			return false
		}
	}
	return !digits || !spaces
}

// maxClass bounds the classes that are looked into.
const maxClass = 256

// runes returns the characters of a class. A very large one is represented by a character that is in no name and no number.
func runes(class *syntax.Regexp) []rune {
	var out []rune
	for i := 0; i+1 < len(class.Rune); i += 2 {
		for r := class.Rune[i]; r <= class.Rune[i+1]; r++ {
			if out = append(out, r); len(out) > maxClass {
				return []rune{'['}
			}
		}
	}
	return out
}

// isFixed reports whether re must match some text, which is not free.
func isFixed(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpLiteral:
		return strings.TrimSpace(string(re.Rune)) != ""
	case syntax.OpCharClass:
		return isNumeric(re)
	case syntax.OpPlus, syntax.OpConcat, syntax.OpCapture:
		return slices.ContainsFunc(re.Sub, isFixed) && !isFree(re)
	case syntax.OpRepeat:
		return re.Min > 0 && isFixed(re.Sub[0]) && !isFree(re)
	case syntax.OpAlternate:
		return !slices.ContainsFunc(re.Sub, func(sub *syntax.Regexp) bool { return !isFixed(sub) })
	}
	return false
}

// isParted reports whether fixed text that cannot be part of an address stands behind the last free text of before.
func isParted(before []*syntax.Regexp) bool {
	for _, re := range slices.Backward(before) {
		if isFree(re) {
			return false
		}
		if re.Op == syntax.OpLiteral && strings.Trim(string(re.Rune), "0123456789abcdefABCDEF:.%") != "" {
			return true
		}
	}
	return true
}

// isHostInFront reports whether before, which begins with free text, is a host name and an opening bracket that after closes.
func isHostInFront(before, after []*syntax.Regexp) bool {
	host := before[0]
	if host.Op != syntax.OpPlus && host.Op != syntax.OpStar && host.Op != syntax.OpRepeat || host.Sub[0].Op != syntax.OpCharClass {
		return false
	}
	class := string(runes(host.Sub[0]))
	if !strings.Contains(class, ".") || strings.ContainsFunc(class, func(r rune) bool { return !ini.IsNameRune(r) }) {
		return false // a class without dot is for other names
	}
	opening, closing := firstLiteral(before[1:]), firstLiteral(after)
	return strings.Contains(" [(", first(opening)) && strings.Trim(opening, " [(") == "" && strings.ContainsAny(opening, "[(") &&
		strings.ContainsAny(first(closing), "])") && !slices.ContainsFunc(before[1:], isFree)
}

// firstLiteral returns the fixed text that list begins with, what is optional in front of it left out.
func firstLiteral(list []*syntax.Regexp) string {
	for _, re := range list {
		switch re.Op {
		case syntax.OpQuest:
		case syntax.OpLiteral:
			return string(re.Rune)
		default:
			return ""
		}
	}
	return ""
}

// first returns the first byte of s; of an empty s something that no host name has beside it.
func first(s string) string {
	if s == "" {
		return "\n"
	}
	return s[:1]
}

// A writableLog is a log into which clients write whole lines.
type writableLog struct {
	paths   *regexp.Regexp
	by      string // what they do it with
	instead string
}

// writableLogs are those of daemons that write what a client sent as it came, line ends included. In JSON they are escaped.
var writableLogs = []writableLog{
	{regexp.MustCompile(`nginx[^/]*/[^/]*error[^/]*$`), "%0a in the path of a request", "read the access log, or have nginx write its error log to the journal (error_log syslog:server=unix:/dev/log)"},
	{regexp.MustCompile(`(?:mysql|mariadb)[^/]*/[^/]*(?:error|\.err|\.log)[^/]*$|(?:mysqld|mariadb)\.log$`), "a line end in the name of a user",
		"use MySQL's error log in JSON (log_error_services=log_sink_json), or MariaDB's plugin server_audit with server_audit_output_type=syslog"},
	{regexp.MustCompile(`(?:postgresql|pgsql)/.*\.log$`), "a line end in the name of a user, with %u or %d in log_line_prefix", "add jsonlog to log_destination, and read the files *.json"},
	{regexp.MustCompile(`(?:vaultwarden|webmin|xrdp-sesman|web_php)[^/]*\.log$|/adminlog/znc\.log$|/monit(?:\.log)?$|/roundcube[^/]*/[^/]*(?:userlogins|errors)[^/]*$`),
		"a line end in the name of a user", "have the service log to syslog and read that, or use action=detect"},
	{regexp.MustCompile(`(?:jellyfin|guacamole|tomcat|mailcow|mumble-server|ejabberd)[^/]*/(?:[^/]*\.log|catalina\.out)$|(?:jellyfin|paperless|murmur)[^/]*\.log$|/sogo[^/]*/sogo\.log$|/logs/(?:sonarr|radarr|prowlarr)[^/]*\.txt$|/gitlab[^/]*/(?:.*/)?application\.log$|3proxy[^/]*/.*log[^/]*$|/3proxy\.log[^/]*$|security_log/.*sec_[^/]*\.log$|/zimbra/log/(?:audit|mailbox)\.log$`),
		"a line end in the name of a user", "use action=detect"},
	{regexp.MustCompile(`traefik[^/]*/[^/]*\.log$`), "a line end in the name of a user, with accessLog.format common", "set accessLog.format to json and name the file *.json"},
	{regexp.MustCompile(`/filebrowser[^/]*\.log$`), "a line end in the path of a request", "use action=detect"},
}

// clientsWrite returns what is known of a file or glob into which clients write whole lines, nil for all others.
func clientsWrite(path string) *writableLog {
	for i := range writableLogs {
		if !strings.HasSuffix(path, ".json") && writableLogs[i].paths.MatchString(path) {
			return &writableLogs[i]
		}
	}
	return nil
}

// writableOutputs are the same of containers, by name or image: what they print is their log.
var writableOutputs = []writableLog{
	{regexp.MustCompile(`(?:^|[/_.-])nginx`), "%0a in the path of a request, for nginx prints its error log too", "have nginx write its access log into a volume, and read that with files="},
	{regexp.MustCompile(`(?:^|[/_.-])(?:vaultwarden|jellyfin|uptime-kuma|paperless|guacamole|mumble|sonarr|radarr|prowlarr|mysql|mariadb|postgres|netfilter)`), "a line end in the name of a user", "use action=detect"},
	{regexp.MustCompile(`(?:^|[/_.-])filebrowser`), "a line end in the path of a request", "use action=detect"},
}

// clientsPrint returns what is known of a container, by its name or image, into whose output clients write whole lines, nil for all others.
func clientsPrint(name string) *writableLog {
	for i := range writableOutputs {
		if writableOutputs[i].paths.MatchString(name) {
			return &writableOutputs[i]
		}
	}
	return nil
}
