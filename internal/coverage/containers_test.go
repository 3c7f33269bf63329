package coverage_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"mef/internal/conf"
	"mef/internal/conf/rulefile"
	"mef/internal/coverage"
	"mef/internal/event"
	"mef/internal/filter"
	"mef/internal/host"
	"mef/internal/host/docker"
)

// shop is a rule about containers.
func shop(containers, images []string) conf.Rule {
	return conf.Rule{Name: "shop", Service: "shop", Enabled: true, Containers: containers, Images: images}
}

func withContainers(containers ...docker.Container) *coverage.Host {
	h := machine(true, nil, nil, nil)
	h.Containers = containers
	return h
}

func TestContainersOfARule(t *testing.T) {
	for name, tt := range map[string]struct {
		names, images    string
		container, image string
		want             bool
	}{
		"by name":                  {"shop", "", "shop", "x", true},
		"another name":             {"shop", "", "shop2", "x", false},
		"by the beginning":         {"shop-*", "", "shop-web-1", "x", true},
		"in the middle":            {"*-web-*", "", "shop-web-1", "x", true},
		"at the end":               {"*-web", "", "shop-web-1", "x", false},
		"twice the same text":      {"a*a", "", "a", "x", false},
		"by image":                 {"", "x/y", "c", "x/y", true},
		"with a tag":               {"", "x/y", "c", "x/y:1.2", true},
		"of a registry":            {"", "x/y", "c", "ghcr.io/x/y:1.2", true},
		"of a registry with port":  {"", "x/y", "c", "localhost:5000/x/y", true},
		"of localhost":             {"", "x/y", "c", "localhost/x/y", true},
		"with a digest":            {"", "x/y", "c", "docker.io/x/y:1@sha256:1e1d45", true},
		"Docker's own":             {"", "caddy", "c", "docker.io/library/caddy:2", true},
		"registry asked for":       {"", "ghcr.io/x/y", "c", "ghcr.io/x/y:1", true},
		"another registry":         {"", "ghcr.io/x/y", "c", "docker.io/x/y:1", false},
		"wildcard":                 {"", "x/*", "c", "ghcr.io/x/y:1", true},
		"another user's image":     {"", "x/y", "c", "z/x/y", false},
		"an image of a like name":  {"", "caddy", "c", "caddy-proxy", false},
		"an image without a name":  {"", "x/y", "c", "sha256:1e1d45f195b1", false},
		"the image as a name":      {"x", "", "c", "x", false},
		"several, the last of all": {"a,b", "c,caddy", "z", "caddy", true},
	} {
		t.Run(name, func(t *testing.T) {
			list := func(s string) []string {
				if s == "" {
					return nil
				}
				return strings.Split(s, ",")
			}
			h := withContainers(docker.Container{Name: tt.container, Image: tt.image, Driver: "json-file", Log: "/c/1.log"})
			readers, _ := read(t, []conf.Rule{shop(list(tt.names), list(tt.images))}, h)
			r := readers["shop"]
			if got := r.ReadsFile("/c/1.log"); got != tt.want || r.Off == tt.want || slices.Contains(coverage.Wanted(readers, nil).Globs, "/c/1.log") != tt.want {
				t.Errorf("reads it: %v, off: %v; want %v", got, r.Off, tt.want)
			}
		})
	}
}

// The usual images of services are read without configuration, and only by rules about these.
func TestUsualImages(t *testing.T) {
	shipped, err := rulefile.Shipped(filter.Shipped())
	if err != nil {
		t.Fatal(err)
	}
	for image, want := range map[string]string{
		"vaultwarden/server:latest": "vaultwarden", "ghcr.io/dani-garcia/vaultwarden": "vaultwarden", "authelia/authelia:4.39": "authelia authelia-json",
		"ghcr.io/goauthentik/server:2025.8": "authentik", "traefik:v3.5": "traefik-clf", "caddy:2": "caddy webscan", "codeberg.org/forgejo/forgejo:12": "gitea",
		"grafana/grafana-oss": "grafana grafana-json", "ghcr.io/immich-app/immich-server:release": "immich", "lscr.io/linuxserver/jellyfin": "jellyfin",
		"ghcr.io/home-assistant/home-assistant:stable": "home-assistant", "ghcr.io/mailcow/postfix:1.80": "postfix", "ghcr.io/mailcow/dovecot:2.33": "dovecot",
		"ghcr.io/docker-mailserver/docker-mailserver:15": "dovecot postfix rspamd", "quay.io/keycloak/keycloak:26.3": "keycloak keycloak-json",
		"louislam/uptime-kuma:2": "uptime-kuma", "ghcr.io/paperless-ngx/paperless-ngx": "paperless-ngx", "docker.io/library/redis:8": "redis",
		"nginx": "", "postgres:17": "", "example/caddy": "",
	} {
		readers, _ := read(t, shipped, withContainers(docker.Container{Name: "c", Image: image, Driver: "json-file", Log: "/c/1.log"}))
		var got []string
		for name, r := range readers {
			if r.ReadsFile("/c/1.log") && !r.Off {
				got = append(got, name)
			}
		}
		slices.Sort(got)
		if strings.Join(got, " ") != want {
			t.Errorf("%s is read by %q, want %q", image, got, want)
		}
	}
}

// A rule reports which container it reads, or why it cannot.
func TestContainersInStatus(t *testing.T) {
	h := withContainers(docker.Container{Name: "shop", Image: "x/y:1", Driver: "json-file", Log: "/c/1.log"},
		docker.Container{Name: "shop-db", Image: "z", Driver: "local"}, docker.Container{Name: "shop-new", Image: "z", Driver: "json-file"})
	readers, set := read(t, []conf.Rule{shop([]string{"shop*"}, nil)}, h)
	r := readers["shop"]
	if got, want := r.Reason(), `Docker has container "shop" of image "x/y:1"`; !strings.HasSuffix(got, want) || r.Live() != "journal+files" {
		t.Errorf("%s because %s, want %s", r.Live(), got, want)
	}
	if got, want := r.Warnings(), []string{`rule shop does not read container "shop-db": its log driver is "local", not json-file`}; !slices.Equal(got, want) {
		t.Errorf("warnings %q, want %q", got, want)
	}
	listeners := []host.Listener{{Protocol: "tcp", Addr: netip.IPv4Unspecified(), Port: 8080, Unit: "docker.service", Container: &h.Containers[0]},
		{Protocol: "tcp", Addr: netip.IPv4Unspecified(), Port: 9000, Unit: "docker.service", Container: &docker.Container{Name: "unknown", Image: "u"}}}
	if got, want := coverage.Uncovered([]conf.Rule{*r.Rule}, set, listeners), []string{"container unknown (9000)"}; !slices.Equal(got, want) {
		t.Errorf("uncovered %q, want %q", got, want)
	}
	rules := []conf.Rule{*r.Rule}
	if coverage.Selected(rules, h) != coverage.Selected(rules, withContainers(h.Containers...)) || coverage.Selected(rules, h) == coverage.Selected(rules, withContainers(h.Containers[1:]...)) {
		t.Error("Selected does not show whether the containers are the same")
	}
	joined := docker.Container{Name: "proxy", Gateways: []netip.Prefix{netip.MustParsePrefix("172.18.0.1/16")}}
	if one, two := coverage.Selected(rules, withContainers(joined)), coverage.Selected(rules, withContainers(joined, joined)); one == coverage.Selected(rules, withContainers()) || one != two {
		t.Error("Selected does not show whether the networks are the same")
	}
}

// An address of Docker's networks is never that of a client.
func TestClientsBehindAProxy(t *testing.T) {
	c := docker.Container{Name: "shop", Image: "x", Driver: "json-file", Log: "/c/1.log", Networks: []netip.Prefix{netip.MustParsePrefix("172.18.0.0/16"), netip.MustParsePrefix("fd00::/64")}}
	readers, _ := read(t, []conf.Rule{shop([]string{"shop"}, nil)}, withContainers(c))
	r := readers["shop"]
	for addr, want := range map[string]bool{"172.18.0.1": false, "172.18.0.7": false, "fd00::1": false, "172.19.0.1": true, "192.0.2.7": true} {
		for _, kind := range []event.Kind{event.Failure, event.Success, event.Probe} {
			ev := &event.Event{Rule: "shop", Kind: kind, Addr: netip.MustParseAddr(addr), Line: addr}
			if got := r.Accept("/c/1.log", false, ev); got != want {
				t.Errorf("%v of %s counts: %v", kind, addr, got)
			}
			if !r.Accept("/var/log/shop.log", false, ev) && want {
				t.Errorf("%v of %s in another file does not count", kind, addr)
			}
		}
	}
	again, _ := read(t, []conf.Rule{shop([]string{"shop"}, nil)}, withContainers(c))
	again["shop"].Inherit(r, time.Now())
	if got := again["shop"].Warnings(); len(got) != 1 || !strings.Contains(got[0], `of container "shop": it logs`) {
		t.Errorf("warnings %q", got)
	}
}

// The log of a container that was removed is gone with its directory; that of one which cannot be looked at is not.
func TestContainersGone(t *testing.T) {
	id := strings.Repeat("0a", 32)
	dir := "/var/lib/docker/containers"
	path := dir + "/" + id + "/" + id + "-json.log"
	there := []string{dir}
	for name, tt := range map[string]struct {
		containers []docker.Container
		dirs       []string
		err        error
		source     string
		want       bool
	}{
		"removed":           {nil, there, nil, path, true},
		"there":             {[]docker.Container{{Name: "c", Log: path}}, there, nil, path, false},
		"not mounted":       {nil, nil, nil, path, false},
		"not to be read":    {nil, there, errors.New("permission denied"), path, false},
		"of another kind":   {nil, there, nil, "/var/log/auth.log", false},
		"of another format": {nil, there, nil, dir + "/" + id + "/local-json.log", false},
	} {
		h := machine(true, tt.dirs, nil, nil)
		h.Containers, h.ContainersError = tt.containers, tt.err
		if got := h.Gone(tt.source); got != tt.want {
			t.Errorf("%s: gone: %v", name, got)
		}
	}
}
