//go:build integration

package policytest_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"testing"

	"mef/internal/firewall/iptables"
	"mef/internal/firewall/policy"
	"mef/internal/netnstest"
)

// TestHelperOpensDataConnections has a client speak FTP in passive mode: the port that the server announces is open to it, another is not.
func TestHelperOpensDataConnections(t *testing.T) {
	netnstest.Need(t)
	const text = `policy dir=in action=drop
rule dir=in action=accept proto=all ct=established,related
rule dir=in action=accept proto=icmp6
rule dir=in action=accept proto=tcp dport=ftp helper=ftp
`
	src, err := policy.Parse("mef.rules", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for name, load := range backends {
		t.Run(name, func(t *testing.T) {
			server, client := netnstest.New(t), netnstest.New(t)
			netnstest.Join(t, server, client, "192.0.2.1/24 2001:db8::1/64", "192.0.2.7/24 2001:db8::7/64")
			load(t, server, src.Policy(policy.Facts{}))
			load(t, server, src.Policy(policy.Facts{})) // in place of itself
			for _, c := range []struct{ addr, command, reply string }{
				{"192.0.2.1", "PASV", "227 Entering Passive Mode (192,0,2,1,200,1)"},
				{"2001:db8::1", "EPSV", "229 Entering Extended Passive Mode (|||51201|)"},
			} {
				control := listen(t, server, net.JoinHostPort(c.addr, "21"))
				listen(t, server, net.JoinHostPort(c.addr, "51201"))
				listen(t, server, net.JoinHostPort(c.addr, "51202"))
				client.Blocked(t, "tcp", "", net.JoinHostPort(c.addr, "51201"))
				conn, err := client.Dial("tcp", "", net.JoinHostPort(c.addr, "21"), netnstest.Patience)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				answering, err := control.Accept()
				if err != nil {
					t.Fatal(err)
				}
				defer answering.Close()
				in, asked := bufio.NewReader(conn), bufio.NewReader(answering)
				exchange(t, answering, in, "220 ready")
				exchange(t, conn, asked, c.command)
				exchange(t, answering, in, c.reply)
				data, err := client.Dial("tcp", "", net.JoinHostPort(c.addr, "51201"), netnstest.Patience)
				if err != nil {
					t.Errorf("the data connection to %s: %v", c.addr, err)
					continue
				}
				data.Close()
				client.Blocked(t, "tcp", "", net.JoinHostPort(c.addr, "51202"))
			}
			if name == "nft" {
				listed := server.Run(t, "", "nft", "list", "table", "inet", "mef")
				server.Run(t, "delete table inet mef\n"+listed, "nft", "-f", "-")
				return
			}
			variant := name[len("iptables-"):]
			state := func() iptables.State {
				return iptables.ReadState(server.Run(t, "", "iptables-"+variant+"-save"), server.Run(t, "", "ip6tables-"+variant+"-save"), "")
			}
			for _, step := range iptables.Clear(state()).Steps() {
				server.Run(t, step.Text, step.Program[:len(step.Program)-len("restore")]+variant+"-restore", "--noflush")
			}
			if left := state(); !left.Empty() {
				t.Errorf("left after clear:\n%s", left)
			}
		})
	}
}

func listen(t *testing.T, ns *netnstest.NS, addr string) net.Listener {
	t.Helper()
	l := netnstest.In(t, ns, func() (net.Listener, error) { return net.Listen("tcp", addr) })
	t.Cleanup(func() { l.Close() })
	return l
}

// exchange sends a line and waits for it at the other end.
func exchange(t *testing.T, to io.Writer, from *bufio.Reader, line string) {
	t.Helper()
	if _, err := fmt.Fprintf(to, "%s\r\n", line); err != nil {
		t.Fatal(err)
	}
	if got, err := from.ReadString('\n'); err != nil || got != line+"\r\n" {
		t.Fatalf("%q arrived as %q: %v", line, got, err)
	}
}
