package event_test

import (
	"strconv"
	"strings"
	"testing"

	"mef/internal/ban"
	"mef/internal/event"
)

func TestPortsFollowTheService(t *testing.T) {
	for name, tt := range map[string]struct {
		rule           event.Rule
		at             ban.Ports
		ports, service ban.Ports
		listens        ban.Ports
	}{
		"fixed":                       {event.Rule{Ports: "22", ServicePorts: "22"}, "2222", "22", "22", ""},
		"named and open":              {event.Rule{Ports: "25,465", ServicePorts: "25,465", PortsAuto: true, ServiceAuto: true}, "25,2525", "25,465,2525", "25,465,2525", "2525"},
		"named, nothing open":         {event.Rule{Ports: "25,465", ServicePorts: "25,465", PortsAuto: true, ServiceAuto: true}, "", "25,465", "25,465", ""},
		"open alone":                  {event.Rule{PortsAuto: true, ServicePorts: "22"}, "2222", "2222", "22", "2222"},
		"open alone, nothing open":    {event.Rule{PortsAuto: true, ServicePorts: "22"}, "", "22", "22", ""},
		"nothing known at all":        {event.Rule{PortsAuto: true, ServiceAuto: true}, "", "", "", ""},
		"all, and those of a service": {event.Rule{ServicePorts: "22", ServiceAuto: true}, "2222", "", "22,2222", "2222"},
		"as usual":                    {event.Rule{ServicePorts: "22", ServiceAuto: true}, "22", "", "22", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := tt.rule.Listening(tt.at)
			if got.Ports != tt.ports || got.ServicePorts != tt.service || got.Listens != tt.listens {
				t.Errorf("ports %q, service ports %q, listens %q; want %q, %q, %q", got.Ports, got.ServicePorts, got.Listens, tt.ports, tt.service, tt.listens)
			}
		})
	}
}

// A list that is too long for a ban stays as the rule names it.
func TestTooManyPortsAreNotAdded(t *testing.T) {
	r := event.Rule{Ports: "1", PortsAuto: true}
	var list []string
	for i := range 100 {
		list = append(list, strconv.Itoa(1000+2*i))
	}
	at, err := ban.ParsePorts(strings.Join(list, ","))
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Listening(at).Ports; got != "1" {
		t.Errorf("a rule's port 1 became %q", got)
	}
}
