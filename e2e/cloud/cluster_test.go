//go:build integration

package cloud_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"mef/internal/cloud/wire"
	"mef/internal/netnstest"
)

// A site is one or more community servers of one log, which is kept by the only server itself or by the nodes of a NATS cluster.
type site struct {
	*testing.T
	bin     string
	hub     *netnstest.NS // of the servers and of those that report
	nodes   []*node
	servers []*communityServer
	acked   []netip.Addr // reports that were accepted
	next    byte
}

// A node is one of a NATS cluster, in a namespace of its own.
type node struct {
	*process
	ns   *netnstest.NS
	addr string
	conf string
}

type communityServer struct {
	*process
	dir, addr string
}

const nodeCount = 3

// newSite makes the namespaces: nodes reach each other and the hub through the hub. The hub has the addresses of hosts in several networks.
func newSite(t *testing.T, bin string, cluster bool) *site {
	s := &site{T: t, bin: bin, hub: netnstest.New(t)}
	s.hub.Addr(t, "lo", "198.18.0.1/32 198.18.0.2/32 198.51.100.1/32 192.0.2.1/32 203.0.113.1/32 203.0.113.77/32")
	if !cluster {
		return s
	}
	s.hub.Sysctl(t, "net.ipv4.ip_forward", "1")
	for i := range nodeCount {
		n := &node{ns: netnstest.New(t), addr: fmt.Sprintf("10.9.%d.2", i)}
		netnstest.Join(t, s.hub, n.ns, fmt.Sprintf("10.9.%d.1/24", i), n.addr+"/24")
		n.ns.Route(t, "0.0.0.0/0", fmt.Sprintf("10.9.%d.1", i))
		n.conf = filepath.Join(t.TempDir(), "nats.conf")
		text := fmt.Sprintf("server_name: node%d\nlisten: \"%s:4222\"\nhttp: \"%[2]s:8222\"\njetstream { store_dir: %q }\n"+
			"cluster { name: test, listen: \"%[2]s:6222\", routes: [\"nats://10.9.0.2:6222\", \"nats://10.9.1.2:6222\", \"nats://10.9.2.2:6222\"] }\n", i, n.addr, filepath.Join(filepath.Dir(n.conf), "data"))
		if err := os.WriteFile(n.conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s.nodes = append(s.nodes, n)
		s.run(n)
	}
	return s
}

// run starts a node.
func (s *site) run(n *node) {
	n.process = start(s.T, n.ns, n.conf+".log", filepath.Join(s.bin, "nats-server"), "-c", n.conf)
}

// serve starts a server whose directory exists or is new.
func (s *site) serve(c *communityServer, addr string) {
	s.Helper()
	c.addr = addr
	args := []string{"serve", "--data", c.dir, "--listen", addr + ":8443", "--name", addr + ":8443"}
	if len(s.nodes) > 0 && !strings.HasSuffix(c.dir, "alone") {
		args = append(args, "--nats", "nats://10.9.0.2:4222,nats://10.9.1.2:4222,nats://10.9.2.2:4222")
	}
	c.process = start(s.T, s.hub, c.dir+".log", filepath.Join(s.bin, "mefcloud"), args...)
	s.until("the server runs", func() error { _, err := s.ask(c, "agents"); return err })
}

func (s *site) until(what string, check func() error) {
	s.Helper()
	if err := netnstest.Poll(check); err != nil {
		s.Fatalf("%s: %v", what, err)
	}
}

// ask runs another command of mefcloud.
func (s *site) ask(c *communityServer, args ...string) (string, error) {
	out, err := exec.Command(filepath.Join(s.bin, "mefcloud"), append([]string{"--data", c.dir}, args...)...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	return strings.TrimSpace(string(out)), err
}

func (s *site) must(c *communityServer, args ...string) string {
	s.Helper()
	out, err := s.ask(c, args...)
	if err != nil {
		s.Fatalf("mefcloud %s: %v", args, err)
	}
	return out
}

// A reporter is a host that reports from an address, with the protocol alone.
type reporter struct {
	*site
	inv    wire.Invitation
	key    ed25519.PrivateKey
	client *http.Client
	seq    uint64
}

func (s *site) join(c *communityServer, from string, role ...string) *reporter {
	s.Helper()
	inv, err := wire.ParseInvitation(s.must(c, append([]string{"invite"}, role...)...))
	if err != nil {
		s.Fatal(err)
	}
	r := &reporter{site: s, inv: inv}
	_, r.key, _ = ed25519.GenerateKey(rand.Reader)
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		return s.hub.Dial(network, from, addr, 5*time.Second)
	}
	r.client = &http.Client{Timeout: 12 * time.Second, Transport: &http.Transport{TLSClientConfig: inv.ClientTLS(), DisableKeepAlives: true, DialContext: dial}}
	text, err := json.Marshal(wire.Enrolment{Token: base64.RawURLEncoding.EncodeToString(inv.Token), Key: r.key.Public().(ed25519.PublicKey)})
	if err != nil {
		s.Fatal(err)
	}
	s.until("enrolment", func() error { _, err := r.send(c, "POST", "/v1/enroll", text); return err })
	return r
}

func (r *reporter) id() string { return wire.KeyID(r.key.Public().(ed25519.PublicKey)) }

func (r *reporter) send(c *communityServer, method, path string, body []byte) ([]byte, error) {
	req, err := http.NewRequest(method, "https://"+c.addr+":8443"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	wire.Sign(req, r.key, time.Now(), r.seq, body)
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = wire.ProblemOf(resp.StatusCode, text)
	}
	return text, err
}

func (r *reporter) report(c *communityServer, addr netip.Addr) error {
	body, err := wire.Batch{Reports: []wire.Report{{Addr: addr, Category: "ssh", Count: "2-9", Hour: time.Now().Unix() / 3600}}}.Encode()
	if err != nil {
		return err
	}
	r.seq++
	text, err := r.send(c, "POST", "/v1/reports", body)
	var receipt wire.Receipt
	if err == nil && (json.Unmarshal(text, &receipt) != nil || receipt.Accepted != 1) {
		err = fmt.Errorf("the answer is %s", text)
	}
	return err
}

// list fetches a list from a server.
func (r *reporter) list(c *communityServer, name string) (wire.Feed, error) {
	data, err := r.send(c, "GET", "/v1/feed/"+name, nil)
	if err != nil {
		return wire.Feed{}, err
	}
	f, err := wire.DecodeFeed(data, r.inv.Feed, nil)
	slices.SortFunc(f.Add, netip.Prefix.Compare)
	return f, err
}

// reports has n more addresses reported, each to the next server, until each is accepted.
func (s *site) reports(r *reporter, n int) {
	s.Helper()
	for range n {
		s.next++
		addr := netip.AddrFrom4([4]byte{198, 51, 100, 100 + s.next})
		i := int(s.next)
		s.until("a report is accepted", func() error {
			i++
			return r.report(s.servers[i%len(s.servers)], addr)
		})
		s.acked = append(s.acked, addr)
	}
}

// complete checks that all servers have the same lists with the same numbers, and everything in them that was accepted.
func (s *site) complete(r *reporter) {
	s.Helper()
	s.until("the same lists everywhere", func() error {
		for _, name := range []string{"own", "public"} {
			var first wire.Feed
			for i, c := range s.servers {
				f, err := r.list(c, name)
				switch {
				case err != nil:
					return fmt.Errorf("server %d: %w", i, err)
				case i == 0:
					first = f
				case f.Seq != first.Seq || !slices.Equal(f.Add, first.Add):
					return fmt.Errorf("list %s: version %d with %v, and version %d with %v", name, first.Seq, first.Add, f.Seq, f.Add)
				}
			}
			for _, a := range s.acked {
				if name == "own" && !slices.Contains(first.Add, netip.PrefixFrom(a, 32)) {
					return fmt.Errorf("%s was accepted, and is not in the list %v", a, first.Add)
				}
			}
		}
		return nil
	})
}

// stream is what a node knows of the log.
type stream struct {
	Name    string
	Cluster struct{ Leader string }
}

// leader returns the node that leads the log, as another one than except says.
func (s *site) leader(except *node) (leader *node) {
	s.Helper()
	s.until("a leader", func() error {
		for _, n := range s.nodes {
			if n == except {
				continue
			}
			client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(_ context.Context, network, addr string) (net.Conn, error) {
				return s.hub.Dial(network, "", addr, time.Second)
			}}}
			resp, err := client.Get("http://" + n.addr + ":8222/jsz?streams=1")
			if err != nil {
				return err
			}
			var v struct {
				Accounts []struct {
					Streams []stream `json:"stream_detail"`
				} `json:"account_details"`
			}
			err = json.NewDecoder(resp.Body).Decode(&v)
			resp.Body.Close()
			if err != nil {
				return err
			}
			for _, a := range v.Accounts {
				for _, st := range a.Streams {
					var i int
					if _, err := fmt.Sscanf(st.Cluster.Leader, "node%d", &i); err == nil && st.Name == "MEFCLOUD" && s.nodes[i] != except {
						leader = s.nodes[i]
						return nil
					}
				}
			}
		}
		return errors.New("no node names one")
	})
	return leader
}

// addServer starts one more server.
func (s *site) addServer() {
	s.Helper()
	i := len(s.servers)
	c := &communityServer{dir: filepath.Join(s.TempDir(), fmt.Sprintf("server%d", i))}
	if i > 0 {
		s.must(s.servers[0], "backup", c.dir+".backup")
		s.must(c, "restore", "--same-log", c.dir+".backup")
	}
	s.serve(c, fmt.Sprintf("198.18.0.%d", i+1))
	s.servers = append(s.servers, c)
}

// again kills a server and starts it again.
func (s *site) again(c *communityServer) {
	s.Helper()
	c.end(os.Kill)
	s.serve(c, c.addr)
}

// TestLogs checks the same on a server that keeps its log itself and on two servers of a NATS cluster, while what keeps the log is killed, hangs
// or is separated: what was accepted is there afterwards, in all lists, under the same numbers.
func TestLogs(t *testing.T) {
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin, "mef/cmd/mefcloud", "github.com/nats-io/nats-server/v2")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, tt := range []struct {
		name    string
		cluster bool
		trouble func(s *site, r *reporter)
	}{
		{"one server", false, func(s *site, r *reporter) {
			s.again(s.servers[0])
		}},
		{"leader killed", true, func(s *site, r *reporter) {
			dead := s.leader(nil)
			dead.end(os.Kill)
			s.reports(r, 2)
			s.again(s.servers[1])
			s.run(dead)
			s.reports(r, 1)
		}},
		{"leader hangs", true, func(s *site, r *reporter) {
			hung := s.leader(nil)
			if err := hung.Process.Signal(syscall.SIGSTOP); err != nil {
				s.Fatal(err)
			}
			s.reports(r, 2)
			if err := hung.Process.Signal(syscall.SIGCONT); err != nil {
				s.Fatal(err)
			}
			s.reports(r, 1)
		}},
		{"leader separated", true, func(s *site, r *reporter) {
			alone := s.leader(nil)
			alone.ns.Run(s.T, "table ip split { chain from { type filter hook input priority 0; ip saddr "+alone.addr[:7]+"1 accept; ip saddr 198.18.0.0/16 accept; ip saddr 10.9.0.0/16 drop; }\n"+
				"chain to { type filter hook output priority 0; ip daddr "+alone.addr[:7]+"1 accept; ip daddr 10.9.0.0/16 drop; }\n}", "nft", "-f", "-")
			s.reports(r, 2)
			alone.ns.Run(s.T, "delete table ip split", "nft", "-f", "-")
			s.reports(r, 1)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, bin, tt.cluster)
			s.addServer()
			one := s.servers[0]
			r := s.join(one, "198.18.0.1", "--own")
			if tt.cluster {
				s.addServer()
			}
			last := s.servers[len(s.servers)-1]
			wrong := s.join(last, "198.18.0.1", "--own")
			anchors := []*reporter{s.join(one, "198.51.100.1", "--anchor"), s.join(last, "192.0.2.1", "--anchor"), s.join(one, "203.0.113.1", "--anchor")}
			s.reports(r, 3)

			listed, wronged := netip.MustParseAddr("203.0.113.77"), netip.MustParseAddr("203.0.113.78")
			for i, a := range append(anchors, r) {
				s.until("a report", func() error { return a.report(s.servers[i%len(s.servers)], listed) })
			}
			s.until("a report", func() error { return wrong.report(last, wronged) })
			s.complete(r)
			if f, err := r.list(last, "public"); err != nil || !slices.Equal(f.Add, []netip.Prefix{netip.PrefixFrom(listed, 32)}) {
				t.Fatalf("the public list is %v, %v", f.Add, err)
			}

			tt.trouble(s, r)
			s.complete(r)

			// What is decided on one server holds on all.
			s.must(one, "revoke", wrong.id())
			s.until("a revocation on each server", func() error {
				if _, err := wrong.list(last, "own"); err == nil {
					return errors.New("a host that was revoked is served")
				}
				return nil
			})
			s.until("an appeal", func() error { // from the address itself
				client := *r.client
				client.Transport = &http.Transport{TLSClientConfig: r.inv.ClientTLS(), DisableKeepAlives: true, DialContext: func(_ context.Context, network, addr string) (net.Conn, error) {
					return s.hub.Dial(network, listed.String(), addr, 5*time.Second)
				}}
				resp, err := client.Post("https://"+last.addr+":8443/v1/appeals", "", nil)
				if err != nil {
					return err
				}
				defer resp.Body.Close()
				if text, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
					return fmt.Errorf("%d %s", resp.StatusCode, text)
				}
				return nil
			})
			for range 2 {
				s.complete(r)
				for _, c := range s.servers {
					f, err := r.list(c, "public")
					own, err2 := r.list(c, "own")
					if err := cmp.Or(err, err2); err != nil || len(f.Add) != 0 || slices.Contains(own.Add, netip.PrefixFrom(wronged, 32)) {
						t.Errorf("after an appeal and a revocation, %v and %v are listed, %v", f.Add, own.Add, err)
					}
				}
				s.again(last)
			}

			// A backup starts alone.
			alone := &communityServer{dir: filepath.Join(t.TempDir(), "alone")}
			s.must(last, "backup", alone.dir+".backup")
			before, _ := r.list(last, "own")
			s.must(alone, "restore", alone.dir+".backup")
			one.end(syscall.SIGTERM)
			s.serve(alone, "198.18.0.1")
			if f, err := r.list(alone, "own"); err != nil || !slices.Equal(f.Add, before.Add) || f.Seq <= before.Seq {
				t.Errorf("the backup has %v, %d, %v; want %v after %d", f.Add, f.Seq, err, before.Add, before.Seq)
			}
		})
	}
}
