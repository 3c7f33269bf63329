package coverage

import (
	"cmp"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"mef/internal/conf"
	"mef/internal/event"
	"mef/internal/host/docker"
	"mef/internal/ordered"
)

// selects reports whether a rule names a container.
func selects(rule *conf.Rule, c *docker.Container) bool {
	full, short := repository(c.Image)
	return slices.ContainsFunc(rule.Containers, func(pattern string) bool { return like(c.Name, pattern) }) ||
		slices.ContainsFunc(rule.Images, func(pattern string) bool { return like(short, pattern) || like(full, pattern) })
}

// repository returns the name of an image without tag and digest, with and without the host name of a registry: "ghcr.io/x/y" and "x/y" of
// "ghcr.io/x/y:1.2@sha256:...".
func repository(image string) (full, short string) {
	full, _, _ = strings.Cut(image, "@")
	if tag := strings.LastIndexByte(full, ':'); tag > strings.LastIndexByte(full, '/') {
		full = full[:tag]
	}
	short = full
	if registry, rest, ok := strings.Cut(full, "/"); ok && (registry == "localhost" || strings.ContainsAny(registry, ".:")) {
		short = rest
	}
	return full, strings.TrimPrefix(short, "library/") // of Docker's own images
}

// like reports whether text is pattern, in which * stands for anything.
func like(text, pattern string) bool {
	first, rest, wild := strings.Cut(pattern, "*")
	text, ok := strings.CutPrefix(text, first)
	if !ok || !wild {
		return ok && text == ""
	}
	pieces := strings.Split(rest, "*")
	last := pieces[len(pieces)-1]
	for _, piece := range pieces[:len(pieces)-1] {
		at := strings.Index(text, piece)
		if at < 0 {
			return false
		}
		text = text[at+len(piece):]
	}
	return strings.HasSuffix(text, last)
}

// addContainers adds the containers that the rule names.
func (r *Reader) addContainers(h *Host) {
	if !r.files() {
		return
	}
	for i := range h.Containers {
		switch c := &h.Containers[i]; {
		case !selects(r.Rule, c):
		case c.Log != "":
			r.Containers = append(r.Containers, *c)
			r.Globs, r.Own = append(r.Globs, c.Log), append(r.Own, c.Log)
		case c.Driver != "json-file":
			r.unread = append(r.unread, *c)
		}
	}
}

// container returns the container whose output a source is, nil if it is another source.
func (r *Reader) container(source string) *docker.Container {
	for i := range r.Containers {
		if r.Containers[i].Log == source {
			return &r.Containers[i]
		}
	}
	return nil
}

// Container returns the name of the container whose output a source is, "" if it is another source.
func (r *Reader) Container(source string) string {
	if c := r.container(source); c != nil {
		return c.Name
	}
	return ""
}

// A disguise is an address of Docker's networks that a container logged as that of a client.
type disguise struct {
	container string
	addr      netip.Addr
}

// disguised reports whether the client of an event is hidden: a container logs an address of a network that it is connected to. That is
// Docker's userland proxy, which has the gateway's address, or a reverse proxy in another container. A ban of it would affect all clients.
func (r *Reader) disguised(source string, ev *event.Event) bool {
	c := r.container(source)
	if c == nil || !ev.Addr.IsValid() || !slices.ContainsFunc(c.Networks, func(p netip.Prefix) bool { return p.Contains(ev.Addr) }) {
		return false
	}
	r.disguise = &disguise{c.Name, ev.Addr}
	return true
}

// Selected returns a text that changes when the containers that rules name on a host are others, or the networks of containers.
func Selected(rules []conf.Rule, h *Host) string {
	var b strings.Builder
	for i := range rules {
		r := &Reader{Rule: &rules[i]}
		if r.addContainers(h); r.Rule.Enabled && len(r.Containers)+len(r.unread) > 0 {
			fmt.Fprintln(&b, r.Rule.Name, r.Containers, r.unread)
		}
	}
	fmt.Fprintln(&b, h.Gateways())
	return b.String()
}

// Gateways returns the gateways of the networks of Docker's containers, sorted, each with the length of its network.
func (h *Host) Gateways() (all []netip.Prefix) {
	for i := range h.Containers {
		all = append(all, h.Containers[i].Gateways...)
	}
	ordered.Sort(all, netip.Prefix.Compare)
	return slices.Compact(all)
}

// Warnings reports what keeps the rule from acting on what containers log.
func (r *Reader) Warnings() (all []string) {
	for _, c := range r.unread {
		all = append(all, fmt.Sprintf("rule %s does not read container %q: its log driver is %q, not json-file", r.Rule.Name, c.Name, c.Driver))
	}
	if d := r.disguise; d != nil && slices.ContainsFunc(r.Containers, func(c docker.Container) bool { return c.Name == d.container }) {
		all = append(all, fmt.Sprintf("rule %s cannot ban clients of container %q: it logs %s, an address of Docker's network, as the client; a proxy is in front of it, whose header with the client's address the service must use (see docs/rules.md)",
			r.Rule.Name, d.container, d.addr))
	}
	return all
}

// Gone reports whether a source is the log of a container that was removed.
func (h *Host) Gone(source string) bool {
	dir := filepath.Dir(source)
	id := filepath.Base(dir)
	if len(id) != 64 || filepath.Base(source) != id+"-json.log" || h.ContainersError != nil || len(h.Files(filepath.Dir(dir))) == 0 {
		return false
	}
	return !slices.ContainsFunc(h.Containers, func(c docker.Container) bool { return c.Log == source })
}

// described names the containers that the rule reads.
func described(containers []docker.Container) string {
	c := containers[0]
	text := fmt.Sprintf("Docker has container %q of image %q", c.Name, cmp.Or(c.Image, "unknown"))
	if more := len(containers) - 1; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
