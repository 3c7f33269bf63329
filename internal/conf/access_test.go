package conf_test

import (
	"strings"
	"testing"

	"mef/internal/conf"
)

func TestParseGeoGroup(t *testing.T) {
	for text, want := range map[string]string{"@country:DE": "@country:DE", "@country:gb": "@country:GB", "@as:64500": "@as:64500", "@as:4294967295": "@as:4294967295"} {
		if g, wrong, _ := conf.ParseGeoGroup(text); wrong != "" || g.String() != want {
			t.Errorf("%s: %s, %s", text, g, wrong)
		}
	}
	for text, want := range map[string]string{
		"@country:UK": "write @country:GB", "@country:deu": "write @country:DE", "@country:QQ": "write two letters", "@country: D": "write two letters", "@country:": "write two letters",
		"@as:AS64500": "write @as:64500", "@as:0": "write a number", "@as:x": "write a number", "@as:4294967296": "write a number", "@as:+7": "write a number", "@as:": "write a number", "DE": "write @country:DE", "AS64500": "write @as:64500", "Germany": "write @country:XX",
	} {
		if g, wrong, hint := conf.ParseGeoGroup(text); wrong == "" || !strings.Contains(hint, want) {
			t.Errorf("%s: %v, %s, %s", text, g, wrong, hint)
		}
	}
}
