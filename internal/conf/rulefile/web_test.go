package rulefile

import (
	"slices"
	"testing"
	"time"

	"mef/internal/conf"
	"mef/internal/duration"
)

// parseWeb reads a webscan rule and returns what it counts by, and what the operator sees.
func parseWeb(text string, base *conf.Rule) (*conf.Web, string) {
	r, said := parse("engine=webscan\n"+text, base)
	return r.Web, said
}

const oneThreshold = "[thresholds]\nrule_1_requests_min=9\n"

func TestWebscanRule(t *testing.T) {
	r, said := parse(`engine=webscan
name=shop
[webscan]
windows=1m,1h
max_active_ips=100
[thresholds]
rule_2_name=many
rule_2_requests_min=20
rule_10_ua=*Scanner*
rule_10_uri=/A,/b?c
rule_10_uri=/d
rule_10_uri_count_min=2
rule_10_status_code=404,5xx
rule_10_window=90
rule_10_action=detect
rule_10_bantime=1d
[whitelist]
ua=*Monitor*`, nil)
	if said != "" || r.Web == nil {
		t.Fatal(said)
	}
	if r.Name != "webscan-shop" || r.Service != "webscan-shop" {
		t.Errorf("it is named %s, for %s", r.Name, r.Service)
	}
	w := r.Web
	if len(w.Thresholds) != 2 || w.MaxSources != 100 || w.Idle != 15*time.Minute || !slices.Equal(w.AllowAgents, []string{"*monitor*"}) {
		t.Fatalf("%+v", w)
	}
	many, ten := w.Thresholds[0], w.Thresholds[1]
	if many.Name != "many" || many.Requests != 20 || many.Window != time.Hour || !many.Status.Has(100) || !many.Status.Has(599) || many.Action != conf.ActionBan || many.Narrow() {
		t.Errorf("the first threshold is %+v", many)
	}
	if ten.Name != "rule_10" || ten.URIs != 2 || ten.Window != 90*time.Second || ten.Action != conf.ActionDetect || ten.BanTime != duration.Day || !ten.Narrow() ||
		!slices.Equal(ten.URI, []string{"/a", "/b?c", "/d"}) || !slices.Equal(ten.Agent, []string{"*scanner*"}) {
		t.Errorf("the second threshold is %+v", ten)
	}
	for code, want := range map[int]bool{403: false, 404: true, 405: false, 499: false, 500: true, 599: true, 600: false, 99: false, 0: false} {
		if ten.Status.Has(code) != want {
			t.Errorf("status %d counts: %v", code, !want)
		}
	}
}

func TestWebscanMistakes(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"no threshold":       {"enabled=true", `shop.conf:1:1: rule "webscan-shop" has no threshold; add rule_1_requests_min= and its like under [thresholds]`},
		"asks for nothing":   {"[thresholds]\nrule_1_name=x\nrule_1_action=ban", `shop.conf:4:1: threshold "x" asks for nothing, so that every request would reach it; add rule_1_requests_min=`},
		"names twice":        {"[thresholds]\nrule_1_name=x\nrule_1_requests_min=1\nrule_2_name=x\nrule_2_requests_min=1", `shop.conf:6:1: two thresholds have the name "x"; set rule_2_name to another`},
		"status":             {oneThreshold + "rule_1_status_code=200,6xx", `shop.conf:5:24: rule_1_status_code: wrong value "6xx"; write status codes with commas, such as 200, 4xx or *`},
		"status, signed":     {oneThreshold + "rule_1_status_code=+40", `shop.conf:5:20: rule_1_status_code: wrong value "+40"; write status codes with commas, such as 200, 4xx or *`},
		"window":             {"[webscan]\nwindows=60,2d\n" + oneThreshold, `shop.conf:4:12: windows: wrong value "2d"; write durations with commas, such as 60s,300s`},
		"crawler":            {oneThreshold + "rule_1_crawler=true", `shop.conf:5:16: rule_1_crawler: wrong value "true"; write false`},
		"group":              {"[detection]\nfailregex=^<HOST> (?P<uri>.*)$\n" + oneThreshold, `shop.conf:4:11: failregex: no group "status" in "^<HOST> (?P<uri>.*)$"; write (?P<status>...) around it; there are ip, method, uri, status, ua`},
		"expression":         {"[detection]\nfailregex=^(\n" + oneThreshold, `shop.conf:4:11: failregex: invalid regular expression: missing closing ) "^("`},
		"of single lines":    {"maxretry=3\n" + oneThreshold, `shop.conf:3:1: maxretry: has no effect with engine=webscan`},
		"can be steered":     {"[detection]\nfailregex=(?P<uri>\\S+) (?P<status>\\d+) <HOST>\n" + oneThreshold, `shop.conf:4:11: failregex refused: it can match in the middle of a message, so a client can send text that looks like a complete message; the usual formats of access logs are read instead`},
		"very many sources":  {"[webscan]\nmax_active_ips=100000\n" + oneThreshold, `shop.conf:4:1: max_active_ips: 65536 is used: more sources are not followed`},
		"very many agents":   {oneThreshold + "rule_1_ua_count_min=2000", `shop.conf:4:1: rule_1: more than 1024 are not distinguished: 1024 is used`},
		"source without any": {"source=file\n" + oneThreshold, `shop.conf:3:8: source=file without files; add files=, containers= or images=`},
	} {
		if _, said := parseWeb(tt.text, nil); said != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", name, said, tt.want)
		}
	}
}

// What a file with the name of the built-in rule leaves out stays, and so do thresholds of other names.
func TestWebscanOverBuiltIn(t *testing.T) {
	base, said := parse("engine=webscan\nname=webscan\nports=80\n[webscan]\nmax_active_ips=50\n[thresholds]\nrule_1_name=a\nrule_1_requests_min=1\nrule_2_name=b\nrule_2_requests_min=2\n[whitelist]\nuri=/a", nil)
	if said != "" {
		t.Fatal(said)
	}
	r, said := parse("name=webscan\naction=detect\n[thresholds]\nrule_1_name=b\nrule_1_requests_min=3\n[whitelist]\nuri=/b", &base)
	if said != "" {
		t.Fatal(said)
	}
	w := r.Web
	if r.Ports != "80" || w.MaxSources != 50 || len(w.Thresholds) != 2 || w.Thresholds[0].Name != "a" || w.Thresholds[1].Requests != 3 ||
		w.Thresholds[0].Action != conf.ActionDetect || w.Thresholds[1].Action != conf.ActionDetect || !slices.Equal(w.AllowURIs, []string{"/a", "/b"}) {
		t.Errorf("%+v", w)
	}
	if base.Web.Thresholds[0].Action != conf.ActionBan {
		t.Error("the built-in rule was changed")
	}
	if off, said := parse("name=webscan\nenabled=false", &base); said != "" || off.Enabled {
		t.Errorf("switched off: %v %s", off.Enabled, said)
	}
}

// What rules show prints is what is in force, section by section.
func TestWebscanSettings(t *testing.T) {
	r, _ := parse("engine=webscan\n[thresholds]\nrule_1_requests_min=9\nrule_1_action=detect\n[whitelist]\nuri=/a\nuri=/b", nil)
	var got []string
	for _, o := range Settings(&r) {
		if o.Section != "" || o.Key == "engine" || o.Key == "maxretry" || o.Key == "failregex" {
			got = append(got, o.Section+" "+o.Key+"="+o.Value)
		}
	}
	want := []string{" engine=webscan", "webscan max_active_ips=8192", "webscan ip_inactivity_timeout=15m", "thresholds rule_1_requests_min=9",
		"thresholds rule_1_action=detect", "whitelist uri=/a", "whitelist uri=/b"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}
