package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	cloud "mef/internal/cloud/wire"
)

const (
	fleetSize   = 500
	fleetRounds = 150
	fleetServer = "192.0.2.1:8443"
)

// A member is an own host of a fleet that consists of its connection only.
type member struct {
	key    ed25519.PrivateKey
	client *http.Client
	seq    uint64
}

// request sends a signed request to the server.
func (m *member) request(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "https://"+fleetServer+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	m.seq++
	cloud.Sign(req, m.key, time.Now(), m.seq, body)
	return m.client.Do(req)
}

// post sends a request, again while the server has too many of this network.
func (m *member) post(ctx context.Context, path string, body []byte) error {
	for {
		resp, err := m.request(ctx, http.MethodPost, path, body)
		if err != nil {
			return err
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		switch {
		case err != nil:
			return err
		case resp.StatusCode == http.StatusTooManyRequests:
			time.Sleep(time.Second)
		case resp.StatusCode >= 300:
			return cloud.ProblemOf(resp.StatusCode, text)
		default:
			return nil
		}
	}
}

// fleet times bans that own hosts share: from one to the last of 500 connections, and from a log line on one host to the kernel of another.
func (b *bench) fleet(ctx context.Context, p *product, s *section) error {
	if p.ctlPath == "" {
		return nil
	}
	mefcloud := filepath.Join(filepath.Dir(p.ctlPath), "mefcloud")
	if _, err := os.Stat(mefcloud); err != nil {
		return fmt.Errorf("%w; run make cloud", err)
	}
	server, err := newCell("mefcloud", nil)
	if err != nil {
		return err
	}
	defer server.close()
	data := filepath.Join(b.dir, "cloud")
	admin := func(args ...string) (string, error) {
		out, err := exec.CommandContext(ctx, mefcloud, append([]string{"--data", data}, args...)...).Output()
		return strings.TrimSpace(string(out)), err
	}
	if err := server.run("addr add 192.0.2.1/32 dev lo"); err != nil {
		return err
	}
	if err := server.start(exec.Command(mefcloud, "serve", "--data", data, "--listen", fleetServer, "--name", fleetServer)); err != nil {
		return err
	}
	for end := time.Now().Add(b.limit); ; time.Sleep(10 * time.Millisecond) {
		if _, err = admin("quota", "100000"); err == nil || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("mefcloud: %w", err)
	}
	got := make(chan netip.Addr, 100*fleetSize)
	members, err := b.members(ctx, server, admin, got)
	if err != nil {
		return err
	}
	if err := b.fanOut(ctx, p, s, members, got); err != nil {
		return err
	}
	s.set(p, "memory of the server", "", "%s", megabytes(server.status("VmRSS")))
	return b.lineToPeer(ctx, p, s, server, admin)
}

// members connects the members. got receives the address of each ban that one of them gets.
func (b *bench) members(ctx context.Context, server *cell, admin func(...string) (string, error), got chan<- netip.Addr) (all []*member, err error) {
	connected := make(chan error, fleetSize)
	for range fleetSize {
		text, err := admin("invite", "--own")
		if err != nil {
			return nil, err
		}
		inv, err := cloud.ParseInvitation(text)
		if err != nil {
			return nil, err
		}
		m := new(member)
		if _, m.key, err = ed25519.GenerateKey(rand.Reader); err != nil {
			return nil, err
		}
		m.client = &http.Client{Transport: &http.Transport{TLSClientConfig: inv.ClientTLS(), DialContext: func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
			server.do(func() { conn, err = new(net.Dialer).DialContext(ctx, network, addr) })
			return conn, err
		}}}
		body, err := json.Marshal(cloud.Enrolment{Token: base64.RawURLEncoding.EncodeToString(inv.Token), Key: m.key.Public().(ed25519.PublicKey)})
		if err != nil {
			return nil, err
		}
		if err := m.post(ctx, "/v1/enroll", body); err != nil {
			return nil, err
		}
		all = append(all, m)
		go m.listen(ctx, connected, got)
	}
	for range fleetSize {
		if err := <-connected; err != nil {
			return nil, err
		}
	}
	return all, nil
}

// listen follows the stream of the server. Its state is its first message.
func (m *member) listen(ctx context.Context, connected chan<- error, got chan<- netip.Addr) {
	resp, err := m.request(ctx, http.MethodGet, "/v1/fleet/stream", nil)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	if err != nil {
		connected <- err
		return
	}
	defer resp.Body.Close()
	seen := make(map[string]bool)
	var once sync.Once
	_ = cloud.ReadStream(resp.Body, func() {}, func(msg cloud.Message) error { // ends with the server
		once.Do(func() { connected <- nil })
		var e cloud.FleetEvent
		if msg.Name == "" && json.Unmarshal([]byte(msg.Data), &e) == nil && !seen[e.ID] {
			seen[e.ID] = true
			got <- e.Prefix.Addr()
		}
		return nil
	})
}

// fanOut times bans from one member to the last of the others.
func (b *bench) fanOut(ctx context.Context, p *product, s *section, members []*member, got <-chan netip.Addr) error {
	var took []float64
	for i := range fleetRounds {
		addr := netip.AddrFrom4([4]byte{198, 51, byte(100 + i>>8), byte(i)})
		batch := cloud.FleetBatch{Host: "bench", Events: []cloud.FleetEvent{{ID: fmt.Sprintf("bench-%08d", i), Kind: cloud.FleetBan, Prefix: netip.PrefixFrom(addr, 32), Left: 3600, Rule: "sshd", Category: "ssh"}}}
		body, err := batch.Encode()
		if err != nil {
			return err
		}
		time.Sleep(mathrand.N(100 * time.Millisecond)) // waits for nothing: it spreads the trials
		begun, posted := time.Now(), make(chan error, 1)
		go func() { posted <- members[i%fleetSize].post(ctx, "/v1/fleet", body) }()
		late := time.After(b.limit)
		for n := 1; n < fleetSize; {
			select {
			case a := <-got:
				if a == addr {
					n++
				}
			case <-late:
				return fmt.Errorf("%d of %d hosts have got a ban within %v", n, fleetSize, b.limit)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		took = append(took, float64(time.Since(begun))/float64(time.Millisecond))
		if err := <-posted; err != nil {
			return err
		}
	}
	all := spread(took, milliseconds) // sorts
	s.set(p, "ban on one host to the last of 500: median (least to greatest)", "", "%s", all)
	s.set(p, "ban on one host to the last of 500: 99 % within", "≤ 250 ms", "%s", milliseconds(quantile(took, 0.99)))
	return nil
}

// lineToPeer times attacks from the log line on one host to the kernel of another.
func (b *bench) lineToPeer(ctx context.Context, p *product, s *section, server *cell, admin func(...string) (string, error)) error {
	var hosts []*instance
	for i := range 2 {
		dir, err := os.MkdirTemp(b.dir, "own-")
		if err != nil {
			return err
		}
		own := *p
		own.name = fmt.Sprintf("%s-%d", p.name, i) // of its control group
		in, err := launch(&own, dir, p.bans)
		if err != nil {
			return err
		}
		defer in.stop()
		if err := errors.Join(in.ready(ctx, b.limit), in.join(server, i+1, admin)); err != nil {
			return err
		}
		hosts = append(hosts, in)
	}
	var took []float64
	for range fleetRounds {
		time.Sleep(mathrand.N(100 * time.Millisecond)) // waits for nothing: it spreads the trials
		addr := hosts[0].fresh()
		if !cloud.Reportable(addr) {
			continue
		}
		begun, err := hosts[0].attack(addr)
		if err != nil {
			return err
		}
		at, ok := hosts[1].watch.wait(addr, begun.Add(10*time.Second))
		if !ok {
			return fmt.Errorf("%s was not banned by the other host within 10 s: %s", addr, hosts[1].tail())
		}
		took = append(took, float64(at.Sub(begun))/float64(time.Millisecond))
	}
	all := spread(took, milliseconds) // sorts
	s.set(p, "log line on one host to the kernel of another: median (least to greatest)", "", "%s", all)
	s.set(p, "log line on one host to the kernel of another: 99 % within", "≤ 250 ms", "%s", milliseconds(quantile(took, 0.99)))
	return nil
}

// join connects the instance to the server and joins it as an own host.
func (in *instance) join(server *cell, n int, admin func(...string) (string, error)) error {
	name, pid := fmt.Sprintf("host%d", n), strconv.Itoa(in.cmd.Process.Pid)
	up, down := fmt.Sprintf("192.0.2.%d", 4*n+1), fmt.Sprintf("192.0.2.%d", 4*n+2)
	if err := errors.Join(server.run("link add "+name+" type veth peer name cloud netns "+pid), server.run("addr add "+up+"/30 dev "+name), server.run("link set "+name+" up"),
		in.run("addr add "+down+"/30 dev cloud"), in.run("link set cloud up"), in.run("route add 192.0.2.1/32 via "+up)); err != nil {
		return err
	}
	invitation, err := admin("invite", "--own")
	if err != nil {
		return err
	}
	conf := filepath.Join(in.dir, "mef.conf")
	text, err := os.ReadFile(conf)
	if err == nil {
		err = os.WriteFile(conf, slices.Concat(text, []byte("community_cloud_protection=true\n")), 0o644)
	}
	if err != nil {
		return err
	}
	for _, args := range [][]string{{"reload"}, {"cloud", "join", invitation}} {
		if out, err := exec.Command(in.product.ctlPath, append([]string{"--config", conf}, args...)...).CombinedOutput(); err != nil {
			return fmt.Errorf("mefctl %s: %w: %.300q", args[0], err, out)
		}
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		out, err := exec.Command(in.product.ctlPath, "--config", conf, "cloud", "status", "--json").Output()
		if bytes.Contains(out, []byte(`"connected": true`)) || bytes.Contains(out, []byte(`"connected":true`)) {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("not connected to mefcloud: %.300q, %v", out, err)
		}
	}
}

// run runs ip in the cell.
func (c *cell) run(args string) (err error) {
	c.do(func() {
		var out []byte
		if out, err = exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			err = fmt.Errorf("ip %s: %w: %s", args, err, out)
		}
	})
	return err
}
