package mefconf

import (
	"encoding/json"
	"fmt"
	"net"
	"net/mail"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"mef/internal/conf"
	"mef/internal/conf/diag"
	"mef/internal/conf/ini"
	"mef/internal/duration"
)

// notifyKeys are the keys of a section [notify NAME], in the order of the documentation.
var notifyKeys = ini.Table[conf.Notify]{
	{Name: "enabled", Value: "true", Form: ini.Bool(func(n *conf.Notify) *bool { return &n.Enabled }), Doc: "send these notifications"},
	{Name: "events", Value: "alarms,status,attacks,bans", Form: notifyEvents(),
		Doc: "what is reported. alarms: a login from an address that attacked or for a name that was being guessed; status: mefctl status has turned red or yellow, or is well again; attacks: a distributed attack has begun or is over; bans: new bans, together"},
	{Name: "digest", Value: "1h", Form: ini.Duration(time.Minute, 7*duration.Day, func(n *conf.Notify) *time.Duration { return &n.Digest }),
		Doc: "new bans are reported together, at most once in this time"},
	{Name: "limit", Value: "30", Form: ini.Number(1, 1000, func(n *conf.Notify) *int { return &n.Limit }),
		Doc: "messages an hour; what exceeds it waits and is sent together"},
	{Name: "url", Form: hookURL(), Doc: "a web hook, https://HOST/PATH; {key} in it stands for the key in key_file"},
	{Name: "format", Value: "json", Form: ini.Choice(func(n *conf.Notify, i int) { n.Format = conf.NotifyFormats[i] }, conf.NotifyFormats[:]...),
		Doc: "with url, what is sent there. json: an object with host, level, title, text and events; ntfy: url is that of the topic; gotify: url is that of the server; slack: also understood by Mattermost and Rocket.Chat; telegram: to is the chat, url need not be set; matrix: url is that of the server and to the room; own: what body has"},
	{Name: "body", Form: ini.Text(4096, func(n *conf.Notify) *string { return &n.Body }),
		Doc: `with format=own, the text to send: {title}, {text}, {level} (alarm, warning or info) and {host} are replaced; in a body that is JSON, such as {"content": "{title}"}, they are escaped as its strings need it`},
	{Name: "to", Form: ini.Text(255, func(n *conf.Notify) *string { return &n.To }), Doc: "with format=telegram or matrix, the number of the chat or the identifier of the room (!...:SERVER)"},
	{Name: "key_file", Form: ini.Path(ini.MaxPath, func(n *conf.Notify) *string { return &n.KeyFile }),
		Doc: "file with the access token of ntfy, gotify, telegram or matrix, or the password of smtp_user; mefdaemon must be able to read it and other users must not: chgrp mef, chmod 640"},
	{Name: "command", Form: programLine(func(n *conf.Notify) *[]string { return &n.Command }),
		Doc: "a program that is run as user mef, with its arguments; it gets the object of format=json as its standard input, and nothing from outside as an argument"},
	{Name: "mail", Form: ini.List("mail addresses separated by commas", isMailAddress, func(n *conf.Notify) *[]string { return &n.Mail }), Doc: "addresses that get a mail"},
	{Name: "mail_from", Form: sender(), Doc: "with mail, the address of the sender; without one it is mef@ and the name of this host"},
	{Name: "smtp", Value: "smtp://localhost:25", Form: mailServer(),
		Doc: "with mail, the server that takes it: smtp://HOST:PORT (with STARTTLS, which only a server on this host may lack) or smtps://HOST:PORT"},
	{Name: "smtp_user", Form: ini.Text(255, func(n *conf.Notify) *string { return &n.SMTPUser }), Doc: "with mail, the user of that server; the password is in key_file"},
	{Name: "sendmail", Form: ini.Path(ini.MaxPath, func(n *conf.Notify) *string { return &n.Sendmail }),
		Doc: "with mail, a program such as msmtp that takes the mail in place of the server; those of Postfix and Exim do not work here, as mefdaemon cannot take the rights of other users"},
}

const (
	maxNotify   = 16
	telegramURL = "https://api.telegram.org/bot{key}/sendMessage"
)

// notify reads the sections of notifications.
func (r *reader) notify(sc ini.File) {
	begin := func(name string, at diag.Pos) conf.Notify {
		n := conf.Notify{Name: name, Pos: at}
		notifyKeys.SetDefaults(&n)
		return n
	}
	sections(r, sc, "notify", maxNotify, notifyKeys, begin, func(n conf.Notify, _ diag.Pos, d ini.Decoded) {
		r.checkNotify(&n, d.Set)
		r.cfg.Notify = append(r.cfg.Notify, n)
	})
}

// checkNotify finds what is missing in a section, what contradicts itself, and what has no effect.
func (r *reader) checkNotify(n *conf.Notify, set map[string]ini.Setting) {
	wrong := func(pos conf.Pos, msg, hint string) {
		r.errs = append(r.errs, &diag.Error{Pos: pos, Msg: fmt.Sprintf("[notify %s]: %s", n.Name, msg), Hint: hint})
	}
	if n.Format == "telegram" && n.URL == "" {
		n.URL = telegramURL
	}
	var ways []string
	for _, way := range []string{"url", "command", "mail"} {
		if _, ok := set[way]; ok || way == "url" && n.URL != "" {
			ways = append(ways, way)
		}
	}
	switch len(ways) {
	case 0:
		wrong(n.Pos, "no destination is set", "add url=https://HOST/PATH, command=/PATH/PROGRAM or mail=ADDRESS")
	case 1:
	default:
		wrong(set[ways[1]].KeyPos, strings.Join(ways, " and ")+" in one section", "write a section for each")
	}
	needs := func(key, value, hint string, formats ...string) {
		if value == "" && slices.Contains(formats, n.Format) {
			wrong(set["format"].Pos, "format="+n.Format+" needs "+key, hint)
		}
	}
	needs("to", n.To, "add to=, the number of the chat or the identifier of the room", "telegram", "matrix")
	needs("key_file", n.KeyFile, "add key_file=/etc/mef/"+n.Name+".key, a file with the access token", "telegram", "matrix", "gotify")
	needs("body", n.Body, `add body=, such as {"content": "{title}"}`, "own")
	if strings.Contains(n.URL, "{key}") && n.KeyFile == "" && n.Format != "telegram" {
		wrong(set["url"].Pos, "{key} in url needs key_file", "add key_file=/etc/mef/"+n.Name+".key, a file with the key")
	}
	if n.SMTPUser != "" && n.KeyFile == "" {
		wrong(set["smtp_user"].KeyPos, "smtp_user needs key_file", "add key_file=/etc/mef/"+n.Name+".key, a file with the password")
	}
	if n.Body != "" {
		r.checkBody(n, set["body"])
	}
	unused := r.unused(set)
	unused("format", "url", n.URL != "")
	unused("body", "format=own", n.Format == "own")
	unused("to", "format=telegram or format=matrix", n.Format == "telegram" || n.Format == "matrix")
	for _, key := range []string{"mail_from", "smtp", "smtp_user", "sendmail"} {
		unused(key, "mail", len(n.Mail) > 0)
	}
	unused("digest", "bans among the events", n.Events[conf.NotifyBans])
	if u, err := url.Parse(n.URL); err == nil && u.Scheme == "http" && !isLoopback(u.Hostname()) {
		r.notice(set["url"].Pos, "url: what is sent there, the key among it, can be read on its way; write https:// if the server has it")
	}
}

// placeholders finds what is in braces in a body.
var placeholders = regexp.MustCompile(`\{[a-zA-Z_]+\}`)

// checkBody finds placeholders that do not exist, and JSON that would be none.
func (r *reader) checkBody(n *conf.Notify, s ini.Setting) {
	wrong := func(offset int, msg, hint string) {
		pos := s.Pos
		pos.Col += offset
		r.errs = append(r.errs, &diag.Error{Pos: pos, Msg: "body: " + msg, Hint: hint})
	}
	known := conf.NotifyPlaceholders[:]
	for _, at := range placeholders.FindAllStringIndex(n.Body, -1) {
		name := n.Body[at[0]+1 : at[1]-1]
		if !slices.Contains(known, name) {
			hint := diag.DidYouMean(name, known)
			if hint == "" {
				hint = "write {" + strings.Join(known, "}, {") + "}"
			}
			wrong(at[0], "unknown placeholder {"+name+"}", hint)
			return
		}
	}
	filled := placeholders.ReplaceAllString(n.Body, "x")
	if conf.NotifyJSON(n.Body) && !json.Valid([]byte(filled)) {
		wrong(0, "it begins as JSON and is none", `put each placeholder in quotation marks, as in {"content": "{title}"}`)
	}
}

// notifyEvents is a list of kinds of events.
func notifyEvents() ini.Form[conf.Notify] {
	syntax := "some of " + strings.Join(conf.NotifyEvents[:], ", ")
	return ini.Form[conf.Notify]{Syntax: syntax, Set: func(n *conf.Notify, s ini.Setting) *ini.Fault {
		n.Events = [len(n.Events)]bool{}
		for offset, word := range ini.Items(s.Value) {
			i := slices.Index(conf.NotifyEvents[:], word)
			if i < 0 {
				f := ini.Wrong(offset, word, syntax)
				if hint := diag.DidYouMean(word, conf.NotifyEvents[:]); hint != "" {
					f.Hint = hint
				}
				return f
			}
			n.Events[i] = true
		}
		return nil
	}}
}

// hookURL is the address of a web hook.
func hookURL() ini.Form[conf.Notify] {
	const syntax = "https://HOST/PATH"
	return ini.Form[conf.Notify]{Syntax: syntax, Set: func(n *conf.Notify, s ini.Setting) *ini.Fault {
		u, err := url.Parse(strings.ReplaceAll(s.Value, "{key}", "key"))
		switch {
		case err != nil || len(s.Value) > ini.MaxPath || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || strings.Contains(u.Host, "key") && strings.Contains(hostOf(s.Value), "{"):
			return ini.Wrong(0, s.Value, syntax)
		case u.User != nil:
			return &ini.Fault{Msg: "a URL with a user or password in it", Hint: "write the secret to key_file, and {key} in the URL where it belongs"}
		}
		n.URL = s.Value
		return nil
	}}
}

// hostOf returns what is between :// and the next slash.
func hostOf(address string) string {
	_, rest, _ := strings.Cut(address, "://")
	host, _, _ := strings.Cut(rest, "/")
	return host
}

// mailServer is the address of a mail server.
func mailServer() ini.Form[conf.Notify] {
	const syntax = "smtp://HOST:PORT or smtps://HOST:PORT"
	return ini.Form[conf.Notify]{Syntax: syntax, Set: func(n *conf.Notify, s ini.Setting) *ini.Fault {
		u, err := url.Parse(s.Value)
		if err != nil || u.Scheme != "smtp" && u.Scheme != "smtps" || u.Hostname() == "" || u.Path != "" || u.User != nil {
			return ini.Wrong(0, s.Value, syntax)
		}
		port := u.Port()
		if port == "" {
			port = map[string]string{"smtp": "25", "smtps": "465"}[u.Scheme]
		}
		n.SMTP = u.Scheme + "://" + net.JoinHostPort(u.Hostname(), port)
		return nil
	}}
}

// programLine is a program and its arguments, separated by spaces.
func programLine(field func(*conf.Notify) *[]string) ini.Form[conf.Notify] {
	const syntax = "the absolute path of a program, and arguments separated by spaces"
	return ini.Form[conf.Notify]{Syntax: syntax, Set: func(n *conf.Notify, s ini.Setting) *ini.Fault {
		words := strings.Fields(s.Value)
		if len(words) == 0 || !filepath.IsAbs(words[0]) || len(s.Value) > ini.MaxPath {
			return ini.Wrong(0, s.Value, syntax)
		}
		*field(n) = words
		return nil
	}}
}

// sender is the address from which mail comes.
func sender() ini.Form[conf.Notify] {
	const syntax = "a mail address such as mef@example.org"
	return ini.Form[conf.Notify]{Syntax: syntax, Set: func(n *conf.Notify, s ini.Setting) *ini.Fault {
		if !isMailAddress(s.Value) {
			return ini.Wrong(0, s.Value, syntax)
		}
		n.MailFrom = s.Value
		return nil
	}}
}

// isMailAddress reports whether s is a plain mail address: it is written to a server, so nothing in it may end a line.
func isMailAddress(s string) bool {
	a, err := mail.ParseAddress(s)
	return err == nil && a.Address == s && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '<' || r == '>' })
}

// isLoopback reports whether a host is this one.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
