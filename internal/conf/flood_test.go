package conf_test

import (
	"fmt"
	"testing"

	"mef/internal/conf"
)

func TestFloodGroups(t *testing.T) {
	general := conf.FloodLimits{SYNRate: 100, SYNBurst: 200, NewRate: 60, NewBurst: 120, Conns: 80}
	for name, tt := range map[string]struct {
		flood conf.Flood
		want  string // ports and connections at a time
	}{
		"a list":                {conf.Flood{Ports: "80,443", FloodLimits: general}, "[80,443:80]"},
		"all ports":             {conf.Flood{FloodLimits: general}, "[:80]"},
		"a port of its own":     {conf.Flood{Ports: "80,443", FloodLimits: general, Of: map[uint16]conf.FloodLimits{25: {Conns: 4}}}, "[25:4 80,443:80]"},
		"one of all":            {conf.Flood{FloodLimits: general, Of: map[uint16]conf.FloodLimits{25: {Conns: 4}}}, "[25:4 1-24,26-65535:80]"},
		"the same limits twice": {conf.Flood{Ports: "80", FloodLimits: general, Of: map[uint16]conf.FloodLimits{25: {Conns: 4}, 26: {Conns: 4}, 24: {Conns: 5}}}, "[24:5 25-26:4 80:80]"},
		"nothing left":          {conf.Flood{Ports: "25", FloodLimits: general, Of: map[uint16]conf.FloodLimits{25: {Conns: 4}, 26: {}}}, "[25:4 26:80]"},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, g := range tt.flood.Groups() {
				got = append(got, fmt.Sprintf("%s:%d", g.Ports, g.Limits.Conns))
			}
			if fmt.Sprint(got) != tt.want {
				t.Errorf("Groups = %v, want %v", got, tt.want)
			}
		})
	}
}
