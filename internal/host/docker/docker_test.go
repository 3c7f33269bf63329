package docker

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"mef/internal/host/docker/dockertest"
)

func TestContainers(t *testing.T) {
	d := dockertest.New(t)
	web := d.Run("web", "ghcr.io/x/y:1.2", 8080, "json-file")
	d.Run("other", "busybox", 0, "journald")
	dir := filepath.Join(d.Root, "containers")
	// What is not a container, or not described yet.
	for name, text := range map[string]string{"readme": "", strings.Repeat("a", 64) + "/config.v2.json": "{", strings.Repeat("b", 64) + "/config.v2.json": `{"Name":"/b"}`,
		strings.Repeat("c", 64) + "/hostconfig.json": "{}", strings.Repeat("d", 64) + "/config.v2.json": `{"Name":7,"NetworkSettings":[]}`} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	all, err := Containers(d.Root, t.TempDir(), "/nonexistent")
	if err != nil {
		t.Fatal(err)
	}
	networks, gateways := []netip.Prefix{netip.MustParsePrefix("172.18.0.0/16")}, []netip.Prefix{netip.MustParsePrefix("172.18.0.1/16")}
	want := []Container{{Name: "other", Image: "busybox", Driver: "journald", Networks: networks, Gateways: gateways},
		{Name: "web", Image: "ghcr.io/x/y:1.2", Driver: "json-file", Log: web.Path(), Ports: []Port{{"tcp", 8080}}, Networks: networks, Gateways: gateways}}
	if got, want := fmt.Sprintf("%+v", all), fmt.Sprintf("%+v", want); got != want {
		t.Errorf("containers\n%s, want\n%s", got, want)
	}
}

// A running container has addresses and the ports that Docker chose, or those that were asked for; a stopped one has none. As long as its networks
// are not known, an address of any may be that of a proxy in front of it.
func TestContainerForms(t *testing.T) {
	const private = "[10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7]"
	for name, tt := range map[string]struct{ config, hostConfig, ports, networks string }{
		"a port that Docker chose": {`"Networks":{},"Ports":{"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"32768"}],"443/tcp":null,"443/udp":[{"HostIp":"::","HostPort":"443"}]}`, `"PortBindings":{"80/tcp":[{"HostIp":"","HostPort":""}]}`, "[{tcp 32768} {udp 443}]", private},
		"asked for":                {`"Networks":{},"Ports":null`, `"PortBindings":{"80/tcp":[{"HostIp":"","HostPort":"8080"}]}`, "[{tcp 8080}]", private},
		"stopped":                  {`"Networks":{"n":{"Gateway":"","IPAddress":"","IPPrefixLen":0}},"Ports":null`, `"PortBindings":{"80/tcp":[{"HostIp":"","HostPort":"8080"}]}`, "[]", private},
		"for this host alone":      {`"Networks":null,"Ports":{"80/tcp":[{"HostIp":"127.0.0.1","HostPort":"8080"},{"HostIp":"::1","HostPort":"8080"}]}`, `"PortBindings":null`, "[]", private},
		"two networks, IPv6": {`"Networks":{"a":{"Gateway":"172.19.0.1","IPAddress":"172.19.0.2","IPPrefixLen":16,"IPv6Gateway":"fd00::1","GlobalIPv6Address":"fd00::2","GlobalIPv6PrefixLen":64},` +
			`"b":{"Gateway":"","IPAddress":"10.7.0.9","IPPrefixLen":24},"c":null}`, `"PortBindings":{}`, "[]", "[10.7.0.0/24 172.19.0.0/16 fd00::/64]"},
		"of the host":            {`"Networks":{"host":{"Gateway":"","IPAddress":"","IPPrefixLen":0}}`, `"NetworkMode":"host"`, "[]", "[]"},
		"nonsense":               {`"Networks":{"n":{"Gateway":"x","IPPrefixLen":-3}},"Ports":{"x/tcp":[{"HostPort":"-1"},{"HostPort":"99999"}],"y":[{"HostPort":"80"}]}`, `"PortBindings":{}`, "[]", private},
		"restarting":             {`"Networks":{"n":{"Gateway":"","IPAddress":"","IPPrefixLen":0}}`, `"NetworkMode":"n"`, "[]", private},
		"in another container's": {`"Networks":{}`, `"NetworkMode":"container:` + strings.Repeat("0a", 32) + `"`, "[]", private},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			err := errors.Join(os.WriteFile(filepath.Join(dir, "config.v2.json"), []byte(`{"Name":"/c","State":{"Running":`+strconv.FormatBool(name != "stopped")+`},"Config":{"Image":"i"},"NetworkSettings":{`+tt.config+`}}`), 0o600),
				os.WriteFile(filepath.Join(dir, "hostconfig.json"), []byte(`{"LogConfig":{"Type":"json-file","Config":null},`+tt.hostConfig+`}`), 0o600))
			if err != nil {
				t.Fatal(err)
			}
			c, err := readContainer(dir)
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(c.Ports, c.Networks); got != tt.ports+" "+tt.networks {
				t.Errorf("ports and networks %s, want %s %s", got, tt.ports, tt.networks)
			}
		})
	}
}

// Every change that matters changes the state, and nothing else does.
func TestContainersState(t *testing.T) {
	d := dockertest.New(t)
	state := func() string { return stateOf([]string{d.Root}) }
	seen := []string{state()}
	var web *dockertest.Container
	for i, change := range []func(){func() { web = d.Run("web", "x/y", 0, "json-file") }, func() { web.Rename("shop") }, func() { d.Run("db", "z", 0, "local") }, func() { web.Remove() }} {
		change()
		if s := state(); slices.Contains(seen, s) {
			t.Errorf("change %d: the state did not change", i)
		} else {
			seen = append(seen, s)
		}
	}
	other := d.Run("log", "x", 0, "json-file")
	before := state()
	other.Print("stdout", "hello\n")
	other.Rotate()
	if state() != before {
		t.Error("a line and a rotation change the state")
	}
}

// A directory of another user is not Docker's, and one that we may not read is reported.
func TestContainersOfOthers(t *testing.T) {
	d := dockertest.New(t)
	d.Run("web", "x/y", 0, "json-file")
	dir := filepath.Join(d.Root, "containers")
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if all, err := Containers(d.Root); len(all) > 0 || err != nil {
		t.Errorf("containers %v, %v of a directory that everybody can write", all, err)
	}
	if os.Geteuid() == 0 {
		return // may read everything
	}
	if err := os.Chmod(dir, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := Containers(d.Root); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("error %v", err)
	}
}

// The data directory may be elsewhere, and a broken daemon.json does not matter.
func TestDockerDirs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "daemon.json")
	for text, want := range map[string]string{`{"data-root":"/srv/docker/"}`: "/srv/docker", `{"data-root":"/var/lib/docker"}`: "/var/lib/docker", `{"log-driver":"local"}`: "/var/lib/docker",
		`{"data-root":"docker"}`: "/var/lib/docker", `{"data-root":`: "/var/lib/docker"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := dockerDirs(path); got[0] != want || slices.Index(got[1:], want) >= 0 {
			t.Errorf("%s: %q", text, got)
		}
	}
}
