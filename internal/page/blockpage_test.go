//go:build !cgo

package page_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"mef/internal/conf"
	"mef/internal/control"
)

func (d *daemon) Blocked(_ context.Context, addr netip.Addr) (control.Blocked, error) {
	return control.Blocked{Addr: addr.String(), Since: time.Now(), Ports: "80", Reference: "MEF-ABCDEFGH"}, nil
}

func (d *daemon) Free(_ context.Context, req control.FreeRequest) error {
	d.did("free %s by %s", req.Addr, req.Code)
	return nil
}

// freePorts returns the first of two ports in sequence at which nothing listens.
func freePorts(t *testing.T) int {
	t.Helper()
	for range 100 {
		first, err := net.Listen("tcp", ":0")
		if err != nil {
			t.Fatal(err)
		}
		port := first.Addr().(*net.TCPAddr).Port
		second, err := net.Listen("tcp", ":"+strconv.Itoa(port+1))
		first.Close()
		if err == nil {
			second.Close()
			return port
		}
	}
	t.Fatal("no two free ports in sequence")
	return 0
}

// blockPage runs mefpage with the page for blocked customers beside an operator's page whose address is in use.
func blockPage(t *testing.T) (port int, roots *x509.CertPool) {
	t.Helper()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() })
	pem, err := exec.Command(newChild(t, conf.Page{}, t.TempDir(), io.Discard).Program, "--make-certificate", "shop.example", "192.0.2.1").Output()
	if err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	file := filepath.Join(t.TempDir(), "shop.pem")
	if err := os.WriteFile(file, pem, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := settings(t, taken.Addr().String())
	cfg.BlockPort, cfg.BlockCertificate, cfg.BlockKey = freePorts(t), file, file
	child := start(t, cfg, &daemon{})
	if all := strings.Join(child.Warnings(), "\n"); !strings.Contains(all, "another program listens there") {
		t.Errorf("warnings %q", all)
	}
	return cfg.BlockPort, roots
}

// The page for blocked customers is served although the operator's page cannot be, over TLS for the names of its certificate only.
func TestBlockPage(t *testing.T) {
	port, roots := blockPage(t)
	get := func(url, name string) (status int, body string, err error) {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: name}}
		defer transport.CloseIdleConnections()
		resp, err := (&http.Client{Transport: transport, Timeout: time.Minute}).Get(url)
		if err != nil {
			return 0, "", err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if resp.ProtoMajor != 1 || !resp.Close {
			t.Errorf("%s: %s, close %v", url, resp.Proto, resp.Close)
		}
		return resp.StatusCode, string(text), err
	}
	for name, url := range map[string]string{"IPv4": fmt.Sprintf("http://127.0.0.1:%d/any", port), "IPv6": fmt.Sprintf("http://[::1]:%d/", port), "shop.example": fmt.Sprintf("https://127.0.0.1:%d/", port+1)} {
		if status, body, err := get(url, name); err != nil || status != http.StatusForbidden || !strings.Contains(body, "MEF-ABCDEFGH") {
			t.Errorf("%s: status %d, %v\n%s", name, status, err, body)
		}
	}
	if _, _, err := get(fmt.Sprintf("https://127.0.0.1:%d/", port+1), "other.example"); err == nil || !strings.Contains(err.Error(), "remote error: tls") {
		t.Errorf("another name: %v", err)
	}
}

// What a client sends that is too much ends its connection, and one connection has one answer.
func TestBlockPageLimits(t *testing.T) {
	port, _ := blockPage(t)
	say := func(text string) string {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		_, _ = io.WriteString(c, text) // it may be closed before it has sent all
		all, err := io.ReadAll(c)
		if err != nil && len(all) == 0 {
			return err.Error()
		}
		return string(all)
	}
	const request = "GET / HTTP/1.1\r\nHost: shop.example\r\n"
	if got := say(request + "\r\n" + request + "\r\n" + request + "\r\n"); strings.Count(got, "HTTP/1.1 ") != 1 {
		t.Errorf("requests in sequence are answered by\n%s", got)
	}
	for name, text := range map[string]string{
		"huge header": request + "Cookie: " + strings.Repeat("a", 64<<10) + "\r\n\r\n",
		"many":        request + strings.Repeat("A: b\r\n", 10_000) + "\r\n",
		"no HTTP":     "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
	} {
		if got := say(text); strings.Contains(got, " 403 ") {
			t.Errorf("%s: %.100s", name, got)
		}
	}
	form := "POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Type: application/x-www-form-urlencoded\r\n"
	if got := say(form + "Content-Length: 1000000\r\n\r\n" + strings.Repeat("code=A&", 150_000)); !strings.Contains(got, "HTTP/1.1 ") && !strings.Contains(got, "reset") {
		t.Errorf("huge form: %.100s", got)
	}
}

// Clients that send nothing keep nobody out, and lose their connections.
func TestBlockPageSlowClients(t *testing.T) {
	t.Parallel()
	port, _ := blockPage(t)
	for _, at := range []int{port, port + 1} {
		var idle []net.Conn
		for i := range 320 { // of 80 addresses
			dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i/4))}, Timeout: time.Minute}
			c, err := dialer.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", at))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: ") // it may have been closed for another
			idle = append(idle, c)
		}
		if at == port {
			c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", at))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(time.Minute))
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n")
			if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || resp.StatusCode != http.StatusForbidden {
				t.Errorf("a customer gets %v, %v", resp, err)
			}
		}
		for _, c := range idle {
			_ = c.SetReadDeadline(time.Now().Add(time.Minute))
			if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal("a connection without a request stays open")
			}
		}
	}
}
