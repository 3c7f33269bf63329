package filter_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"mef/internal/conf"
	"mef/internal/event"
	"mef/internal/filter"
)

const jsonRule = `format=json
addr=request.remote_ip
user=request.user
message=msg
when=status==401 && request.user
okwhen=status==200 && request.user
probewhen=status==400
failregex=^refused for '(?P<user>.*)'$
`

func TestJSON(t *testing.T) {
	v := compile(t, []conf.Rule{parseRule(t, "shop", jsonRule)}).View(all)
	deep := strings.Repeat("[", 100) + strings.Repeat("]", 100)
	for name, tt := range map[string]struct{ line, want string }{
		"failure":                  {`{"request":{"remote_ip":"203.0.113.7","user":"bob"},"status":401}`, "failure 203.0.113.7 bob"},
		"success":                  {`{"request":{"remote_ip":"203.0.113.7","user":"bob"},"status":200}`, "success 203.0.113.7 bob"},
		"probe, with port":         {`{"request":{"remote_ip":"203.0.113.7:4711"},"status":400}`, "probe 203.0.113.7"},
		"IPv6 with port":           {`{"request":{"remote_ip":"[2001:db8::7]:4711"},"status":400}`, "probe 2001:db8::7"},
		"IPv6":                     {`{"request":{"remote_ip":"2001:db8::7"},"status":400}`, "probe 2001:db8::7"},
		"text of a pattern":        {`{"msg":"refused for 'al''","request":{"remote_ip":"203.0.113.7"}}`, "failure 203.0.113.7 al'"},
		"no credentials":           {`{"request":{"remote_ip":"203.0.113.7","user":""},"status":401}`, "nothing"},
		"another status":           {`{"request":{"remote_ip":"203.0.113.7","user":"bob"},"status":404}`, "nothing"},
		"status as string":         {`{"request":{"remote_ip":"203.0.113.7","user":"bob"},"status":"401"}`, "failure 203.0.113.7 bob"},
		"white space":              {"{ \"status\" : 400 ,\t\"request\" : { \"remote_ip\" : \"203.0.113.7\" } } \r", "probe 203.0.113.7"},
		"header of syslog":         {`Mar  1 10:00:00 web1 shop[7]: {"request":{"remote_ip":"203.0.113.7"},"status":400}`, "probe 203.0.113.7"},
		"docker's json-file":       {`{"log":"{\"request\":{\"remote_ip\":\"203.0.113.7\"},\"status\":400}\n","stream":"stderr","time":"2026-03-01T10:00:00Z"}`, "probe 203.0.113.7"},
		"escapes":                  {`{"request":{"remote_ip":"203.0.113.7","user":"b\u00f6b\n\"\ud83d\ude00"},"status":401}`, `failure 203.0.113.7 "böb\n\"😀"`},
		"lone surrogate":           {`{"request":{"remote_ip":"203.0.113.7","user":"\ud83dx"},"status":401}`, "failure 203.0.113.7 \ufffdx"},
		"escape in a key":          {`{"request":{"remote_\u0069p":"203.0.113.7"},"status":400}`, "probe 203.0.113.7"},
		"a key twice":              {`{"request":{"remote_ip":"198.51.100.1","remote_ip":"203.0.113.7"},"status":400}`, "nothing"},
		"... spelt differently":    {`{"request":{"remote_ip":"198.51.100.1","remote_\u0069p":"203.0.113.7"},"status":400}`, "nothing"},
		"... an object":            {`{"request":{"remote_ip":"198.51.100.1"},"status":400,"request":{}}`, "nothing"},
		"unknown key twice":        {`{"x":1,"x":2,"request":{"remote_ip":"203.0.113.7"},"status":400}`, "probe 203.0.113.7"},
		"text that looks like it":  {`{"request":{"remote_ip":"203.0.113.7","user":"x\",\"remote_ip\":\"198.51.100.1"},"status":401}`, `failure 203.0.113.7 "x\",\"remote_ip\":\"198.51.100.1"`},
		"same name elsewhere":      {`{"remote_ip":"198.51.100.1","a":{"request":{"remote_ip":"198.51.100.1"}},"request":{"remote_ip":"203.0.113.7"},"status":400}`, "probe 203.0.113.7"},
		"two objects":              {`{"request":{"remote_ip":"203.0.113.7"},"status":400}{}`, "nothing"},
		"cut off":                  {`{"request":{"remote_ip":"203.0.113.7"},"status":400`, "nothing"},
		"bare control character":   {"{\"request\":{\"remote_ip\":\"203.0.113.7\",\"user\":\"a\tb\"},\"status\":401}", "nothing"},
		"no address":               {`{"request":{"remote_ip":"localhost"},"status":400}`, "nothing"},
		"address as number":        {`{"request":{"remote_ip":3},"status":400}`, "nothing"},
		"list of addresses":        {`{"request":{"remote_ip":"198.51.100.1, 203.0.113.7"},"status":400}`, "nothing"},
		"too deep":                 {`{"x":` + deep + `,"request":{"remote_ip":"203.0.113.7"},"status":400}`, "nothing"},
		"wrong escape":             {`{"x":"\q","request":{"remote_ip":"203.0.113.7"},"status":400}`, "nothing"},
		"wrong word":               {`{"x":nul,"request":{"remote_ip":"203.0.113.7"},"status":400}`, "nothing"},
		"carrier with a key twice": {`{"log":"a","log":"{\"request\":{\"remote_ip\":\"203.0.113.7\"},\"status\":400}","stream":"stderr","time":"t"}`, "nothing"},
		"no JSON":                  {`Mar  1 10:00:00 web1 shop[7]: refused for 'x'`, "nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := describe(v, tt.line); got != tt.want {
				t.Errorf("%s\n got %s\nwant %s", tt.line, got, tt.want)
			}
		})
	}
}

// A plain line in Docker's carrier is read like any other.
func TestCarrierOfText(t *testing.T) {
	v := compile(t, shippedRules(t)).View(all)
	text := `{"log":"Failed password for root from 203.0.113.7 port 4711 ssh2\n","stream":"stderr","time":"2026-03-01T10:00:00Z"}`
	if got := describe(v, text); got != "failure 203.0.113.7 root" {
		t.Errorf("got %s", got)
	}
}

// A pattern that begins with a date is about the whole line.
func TestPatternOfWholeLines(t *testing.T) {
	rule := parseRule(t, "shop", `failregex=^\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2} refused from <HOST>$`)
	v := compile(t, []conf.Rule{rule}).View(all)
	for text, want := range map[string]string{
		"2026-03-01 10:00:00 refused from 203.0.113.7": "failure 203.0.113.7",
		"refused from 203.0.113.7":                     "nothing",
	} {
		if got := describe(v, text); got != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
}

// Lines cost no memory, whatever they are.
func TestJSONAllocatesNothing(t *testing.T) {
	rules := append(shippedRules(t), parseRule(t, "shop", jsonRule))
	v := compile(t, rules).View(all)
	for name, text := range map[string]string{
		"plain":   "Mar  1 10:00:00 web1 cron[7]: hello",
		"JSON":    `{"request":{"remote_ip":"203.0.113.7","user":"b\u00f6b"},"status":404}`,
		"carrier": `{"log":"hello\n","stream":"stderr","time":"2026-03-01T10:00:00Z"}`,
	} {
		var m filter.Match
		l := line(text)
		v.Match(l, &m)
		if n := testing.AllocsPerRun(100, func() { v.Match(l, &m) }); n > 0 {
			t.Errorf("%s: %v allocations a line", name, n)
		}
	}
}

// A followed file costs little, whatever the number of rules and however many files they read.
func TestManyViewsAreSmall(t *testing.T) {
	set := compile(t, shippedRules(t))
	views := set.Views()
	var kept []*filter.View
	read := func() {
		v := views.View(all)
		var m filter.Match
		for i := range 100 {
			v.Match(line(fmt.Sprintf("Mar  1 10:00:00 web1 sshd[%d]: Failed password for root from 203.0.113.7 port 4711 ssh2", i)), &m)
			v.Match(&event.Line{Text: []byte("Mar  1 10:00:00 web1 cron[7]: hello")}, &m)
		}
		kept = append(kept, v)
	}
	read()
	before := heap()
	const n = 200
	for range n {
		read()
	}
	if each := (heap() - before) / n; each > 16<<10 {
		t.Errorf("a view costs %d bytes, want at most 16 KiB", each)
	}
	runtime.KeepAlive(kept)
}
