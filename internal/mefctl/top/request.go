package top

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/duration"
	"mef/internal/mefctl/cli"
	"mef/internal/printable"
)

// A request is what the operator wants done: the words behind its key, as typed.
type request struct {
	verb   string // "ban", "unban" or "allow"
	target string
	prefix netip.Prefix  // of target; the zero Prefix if it is the name of a host to allow
	lasts  time.Duration // 0: until lifted
}

// parse reads "ADDR [TIME]"; of an unban it is "ADDR".
func parse(verb, text string) (r request, err error) {
	words := strings.Fields(text)
	if len(words) == 0 || len(words) > 2 || verb == "unban" && len(words) > 1 {
		return r, fmt.Errorf("write an address or network%s", map[string]string{"ban": ", and for how long", "allow": ", and for how long"}[verb])
	}
	r = request{verb: verb, target: words[0]}
	if r.prefix, err = conf.ParsePrefix(words[0]); err != nil && verb != "allow" {
		return r, fmt.Errorf("%q is neither an address nor a network", words[0])
	}
	if len(words) == 2 {
		if r.lasts, err = duration.Parse(words[1]); err != nil || r.lasts < time.Second {
			return r, fmt.Errorf("%q is not a time of at least a second, such as 10m, 24h or 7d", words[1])
		}
	}
	return r, nil
}

// question is what the operator has to answer with y before it is done.
func (r request) question() string {
	lasts := " until lifted"
	if r.verb == "allow" {
		lasts = " until removed"
	}
	if r.lasts > 0 {
		lasts = " for " + duration.Format(r.lasts)
	}
	switch r.verb {
	case "ban":
		return fmt.Sprintf("Ban %s on all ports%s? (y/n)", r.prefix, lasts)
	case "allow":
		return fmt.Sprintf("Never ban %s,%s? (y/n)", r.target, lasts)
	}
	return fmt.Sprintf("Lift the bans of %s? (y/n)", r.target)
}

// do asks the daemon for it, as mefctl bans add, bans delete and allow add do.
func (d daemon) do(r request) tea.Cmd {
	return func() tea.Msg {
		switch r.verb {
		case "ban":
			b, err := d.client.Ban(d.ctx, control.BanRequest{Prefix: r.prefix.String(), For: r.lasts, Caller: d.caller})
			return reply{text: fmt.Sprintf("Banned %s %s, %s.", b.Prefix, cli.OnPorts(b.Ports), cli.Lasting(b.Until)), err: err}
		case "allow":
			e, err := d.client.Allow(d.ctx, control.AllowRequest{Entry: r.target, For: r.lasts})
			return reply{text: fmt.Sprintf("%s is never banned; mefctl allow delete %s removes the entry.", e.Entry, e.Entry), err: err}
		}
		lifted, err := d.client.Unban(d.ctx, control.UnbanRequest{Prefix: r.prefix.String(), Covering: r.prefix.IsSingleIP() && !strings.Contains(r.target, "/")})
		return reply{text: fmt.Sprintf("Lifted %d bans of %s.", len(lifted), r.target), err: err}
	}
}

// why asks for what mefctl why prints.
func (d daemon) why(text string) tea.Cmd {
	return func() tea.Msg {
		prefix, err := conf.ParsePrefix(text)
		if err != nil {
			return reply{err: err}
		}
		why, err := d.client.Why(d.ctx, prefix.Addr())
		if err != nil {
			return reply{err: err}
		}
		var b strings.Builder
		d.places.Why(why).Show(printable.Text(&b), time.Now())
		return reply{why: strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")}
	}
}
