// Package dockertest writes what dockerd keeps of its containers on disk (daemon/container/container.go, daemon/network/settings.go and
// daemon/logger/loggerutils/logfile.go of moby), for tests without Docker.
package dockertest

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// A Docker is a directory of dockerd, /var/lib/docker.
type Docker struct {
	t    testing.TB
	Root string
	made int
}

// New returns a Docker without containers.
func New(t testing.TB) *Docker { return In(t, t.TempDir()) }

// In returns a Docker without containers in a directory.
func In(t testing.TB, root string) *Docker {
	d := &Docker{t: t, Root: root}
	d.check(os.MkdirAll(filepath.Join(d.Root, "containers"), 0o710))
	return d
}

func (d *Docker) check(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

// A Container is one of a Docker.
type Container struct {
	d           *Docker
	ID          string
	Name, Image string
	Driver      string // of logs
	Port        int    // of the host that is published to port 80 of the container; 0: none
	log         *os.File
}

// Run makes a container and starts it. Its address is 172.18.0.3, in a network of which the gateway is 172.18.0.1.
func (d *Docker) Run(name, image string, port int, driver string) *Container {
	d.t.Helper()
	d.made++
	c := &Container{d: d, ID: fmt.Sprintf("%x", sha256.Sum256([]byte(strconv.Itoa(d.made)))), Name: name, Image: image, Port: port, Driver: driver}
	d.check(os.Mkdir(c.dir(), 0o710))
	if driver == "json-file" {
		c.open()
	}
	c.save()
	return c
}

func (c *Container) dir() string { return filepath.Join(c.d.Root, "containers", c.ID) }

// Path returns the file of its output.
func (c *Container) Path() string { return filepath.Join(c.dir(), c.ID+"-json.log") }

func (c *Container) open() {
	c.d.t.Helper()
	f, err := os.OpenFile(c.Path(), os.O_WRONLY|os.O_TRUNC|os.O_CREATE, 0o640)
	c.d.check(err)
	if c.log != nil {
		c.log.Close()
	}
	c.log = f
	c.d.t.Cleanup(func() { f.Close() })
}

type object map[string]any

// save writes its description, as dockerd does whenever its state changes.
func (c *Container) save() {
	c.d.t.Helper()
	ports, bindings := object{}, object{}
	if c.Port > 0 {
		host := strconv.Itoa(c.Port)
		ports["80/tcp"] = []object{{"HostIp": "0.0.0.0", "HostPort": host}, {"HostIp": "::", "HostPort": host}}
		bindings["80/tcp"] = []object{{"HostIp": "", "HostPort": host}}
	}
	logPath := ""
	if c.Driver == "json-file" {
		logPath = c.Path()
	}
	c.write("config.v2.json", object{
		"StreamConfig": object{}, "State": object{"Running": true, "Pid": 4711, "StartedAt": "2026-03-01T09:00:00.000000001Z", "Health": nil},
		"ID": c.ID, "Created": "2026-03-01T08:59:59.5Z", "Managed": false, "Path": "/start.sh", "Args": []string{},
		"Config": object{"Hostname": c.ID[:12], "Tty": false, "Env": []string{"PATH=/usr/bin:/bin"}, "Cmd": []string{"/start.sh"}, "Image": c.Image,
			"Volumes": nil, "Labels": object{"com.docker.compose.project": "web"}},
		"Image": "sha256:1e1d45f195b19d03ec1833561dca6f5c63f9453413247c323c24f2fbcc34bcdd", "ImageManifest": nil,
		"NetworkSettings": object{"Bridge": "", "SandboxID": "7e28c67920e8", "HairpinMode": false, "Networks": object{
			"web_default": object{"IPAMConfig": nil, "Links": nil, "Aliases": []string{c.Name}, "NetworkID": "f9287debf129", "EndpointID": "09f534604013",
				"Gateway": "172.18.0.1", "IPAddress": "172.18.0.3", "IPPrefixLen": 16, "IPv6Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0,
				"MacAddress": "02:42:ac:12:00:03", "DriverOpts": nil, "DNSNames": []string{c.Name}}},
			"Service": nil, "Ports": ports, "SandboxKey": "/var/run/docker/netns/7e28c67920e8", "HasSwarmEndpoint": false},
		"LogPath": logPath, "Name": "/" + c.Name, "Driver": "overlay2", "OS": "linux", "RestartCount": 0, "MountPoints": object{},
	})
	c.write("hostconfig.json", object{"Binds": nil, "ContainerIDFile": "", "LogConfig": object{"Type": c.Driver, "Config": object{}},
		"NetworkMode": "web_default", "PortBindings": bindings, "RestartPolicy": object{"Name": "always", "MaximumRetryCount": 0}})
}

// write replaces a file, by another that is renamed.
func (c *Container) write(name string, content object) {
	c.d.t.Helper()
	text, err := json.Marshal(content)
	c.d.check(err)
	tmp := filepath.Join(c.dir(), ".tmp-"+name)
	c.d.check(os.WriteFile(tmp, append(text, '\n'), 0o600))
	c.d.check(os.Rename(tmp, filepath.Join(c.dir(), name)))
}

// Print writes what the container writes to a stream, "stdout" or "stderr". A line without line end is the beginning of a long one.
func (c *Container) Print(stream, text string) {
	c.d.t.Helper()
	record := struct {
		Log    string `json:"log"`
		Stream string `json:"stream"`
		Time   string `json:"time"`
	}{text, stream, time.Now().UTC().Format(time.RFC3339Nano)}
	line, err := json.Marshal(record)
	c.d.check(err)
	_, err = c.log.Write(append(line, '\n'))
	c.d.check(err)
}

// Rotate begins another file, as max-size=... and max-file=3 do.
func (c *Container) Rotate() {
	c.d.t.Helper()
	for _, step := range [][2]string{{".1", ".2"}, {"", ".1"}} {
		if err := os.Rename(c.Path()+step[0], c.Path()+step[1]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			c.d.t.Fatal(err)
		}
	}
	c.open()
}

// Rename does what docker rename does.
func (c *Container) Rename(name string) {
	c.d.t.Helper()
	c.Name = name
	c.save()
}

// Remove does what docker rm -f does.
func (c *Container) Remove() {
	c.d.t.Helper()
	c.d.check(os.RemoveAll(c.dir()))
}
