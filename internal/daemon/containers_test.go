package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"mef/internal/control"
	"mef/internal/host/docker/dockertest"
	"mef/internal/owner"
	"mef/internal/pipeline"
)

// A rule follows the containers that it names: through rotations, when they are renamed, removed and made anew. Its bans cover the ports
// that are published, and an address of Docker's networks is never banned.
func TestContainers(t *testing.T) {
	d := dockertest.New(t)
	web := d.Run("shop", "ghcr.io/x/shop:1.2", 8080, "json-file")
	other := d.Run("other", "busybox", 9090, "json-file")
	h := &house{T: t, docker: d.Root}
	h.settle("", map[string]string{"rules/shop.conf": "[rule]\nimages=x/shop\ncontainers=old-*\nports=auto,443\nmaxretry=3\nfailregex=^refused <HOST>$\n"})
	n := 0
	fail := func(c *dockertest.Container, addr string) {
		n++
		c.Print("stdout", fmt.Sprintf("hello %d\n", n))
		c.Print("stderr", "\x1b[33mrefused "+addr+"\x1b[0m\n")
	}
	ports := func(addr string) (ports string) {
		why, err := h.Why(t.Context(), netip.MustParseAddr(addr))
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range why.Bans {
			ports += b.Ports + ";"
		}
		return ports
	}
	changed := func() {
		err := owner.Act(t.Context(), h.config, func(ctx context.Context, c *configurator) error { return c.sources.ReadContainers(ctx, d.Root) })
		if err != nil {
			t.Fatal(err)
		}
	}
	rule := func() (r control.Rule, warnings string) {
		s := h.status()
		for _, r = range s.Rules {
			if r.Name == "shop" {
				return r, strings.Join(s.Warnings, "\n")
			}
		}
		t.Fatal("no rule")
		return r, ""
	}
	h.await("its output is followed", func() bool { return h.active() == 1 })
	for range 2 {
		fail(web, "192.0.2.7")
	}
	web.Rotate()
	web.Print("stdout", strings.Repeat("x", 16<<10))
	web.Print("stdout", "refused 192.0.2.99\n") // the rest of a long line
	fail(web, "192.0.2.7")
	h.await("a ban", func() bool { return ports("192.0.2.7") == "443,8080;" })
	for range 5 {
		fail(web, "172.18.0.1")
		fail(other, "192.0.2.8")
	}

	h.await("the proxy is reported", func() bool {
		_, warnings := rule()
		return strings.Contains(warnings, `container "shop": it logs 172.18.0.1`)
	})

	web.Remove()
	again := d.Run("shop", "ghcr.io/x/shop:1.3", 8081, "json-file")
	for range 3 {
		fail(again, "192.0.2.9")
	}
	rule() // a status looks at the containers too, and follows none
	changed()
	h.await("the new container is followed from its first line", func() bool { return ports("192.0.2.9") == "443,8080-8081;" })
	err := owner.Do(t.Context(), h.Engine, func(s *pipeline.State) {
		if docker := fmt.Sprint(s.Engine.Facts().Docker); docker != "[172.18.0.1/16]" {
			t.Errorf("Docker's networks are %s", docker)
		}
		if _, ok := s.Positions[web.Path()]; ok {
			t.Error("the position in the log of the old container is kept")
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if r, warnings := rule(); !strings.Contains(r.Reason, `"shop" of image "ghcr.io/x/shop:1.3"`) || !strings.Contains(warnings, `container "shop": it logs 172.18.0.1`) || r.Ports != "443,8080-8081" {
		t.Errorf("status %q, ports %s; warnings %s", r.Reason, r.Ports, warnings)
	}

	other.Rename("old-other")
	changed()
	for range 3 {
		fail(other, "192.0.2.10")
	}
	h.await("a container that got another name is followed", func() bool { return ports("192.0.2.10") == "443,8080-8081,9090;" })
	other.Rename("other")
	changed()
	before, _ := rule()
	for range 3 {
		fail(other, "192.0.2.11")
		fail(again, "192.0.2.12")
	}
	h.await("the other one is still followed", func() bool { return ports("192.0.2.12") != "" })
	if after, _ := rule(); after.Failures != before.Failures+3 || ports("192.0.2.11")+ports("192.0.2.99")+ports("172.18.0.1") != "" {
		t.Errorf("%d failures, want %d", after.Failures, before.Failures+3)
	}
	h.end()
	h.start()
	for range 3 {
		fail(again, "192.0.2.13")
	}
	h.await("it goes on after a restart", func() bool { return ports("192.0.2.13") != "" })
}
