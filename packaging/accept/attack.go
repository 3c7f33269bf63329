package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"
)

// Addresses of hosts in the internet.
const (
	attacker4 = "203.0.113.7"
	attacker6 = "2001:db8:bad::7"
	user4     = "198.51.100.9"
	user6     = "2001:db8:900d::9"
)

// The address at the other end of the server's cable, which reaches the server as soon as it has an address.
const (
	neighbor4 = "192.0.2.254"
	neighbor6 = "2001:db8:1::ff"
)

// Ports of the server. Nothing listens on the last two. The policy opens one of them to everyone, and the kernel refuses connections to it.
const (
	sshPort    = "22"
	webPort    = "80"
	closedPort = "8443"
)

// answerTime is how long the server may take to answer. Over the cable it takes less than a millisecond.
const answerTime = time.Second

// errSilence means that the server does not answer, as a banned host sees it.
var errSilence = errors.New("the server is silent")

// dial connects from an address to a port of the server.
func dial(ctx context.Context, from, port string) (net.Conn, error) {
	addr := netip.MustParseAddr(from)
	server := "192.0.2.1"
	if addr.Is6() {
		server = "2001:db8:1::1"
	}
	dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)), Timeout: answerTime}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(server, port))
	if err != nil {
		return nil, silence(err)
	}
	return conn, nil
}

// silence turns a time-out into errSilence.
func silence(err error) error {
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() || errors.Is(err, os.ErrDeadlineExceeded) {
		return errSilence
	}
	return err
}

// errRefused means that the password is wrong.
var errRefused = errors.New("the password is refused")

// login logs in over ssh, and reports whether the password was right.
func login(ctx context.Context, from, user, password string) (ok bool, err error) {
	client, err := connect(ctx, from, user, ssh.Password(password))
	switch {
	case err == nil:
		return true, client.Close()
	case errors.Is(err, errRefused):
		return false, nil
	}
	return false, err
}

// connect is login that leaves the connection open. Its error is errRefused if the password is wrong.
func connect(ctx context.Context, from, user string, by ssh.AuthMethod) (*ssh.Client, error) {
	conn, err := dial(ctx, from, sshPort)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(answerTime + 4*time.Second)) // sshd answers a wrong password after some seconds
	client, chans, reqs, err := ssh.NewClientConn(conn, conn.RemoteAddr().String(), &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{by}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	switch {
	case err == nil:
		return ssh.NewClient(client, chans, reqs), conn.SetDeadline(time.Now().Add(patience))
	case strings.Contains(err.Error(), "unable to authenticate"):
		err = errRefused
	}
	return nil, errors.Join(silence(err), conn.Close())
}

// run runs a script as the user over ssh, and returns its output. It is no error if the script fails.
func run(ctx context.Context, from, script string) (output string, err error) {
	client, err := connect(ctx, from, account, ssh.Password(password))
	if err != nil {
		return "", err
	}
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		return "", err
	}
	out, err := session.CombinedOutput(script)
	if failed := new(ssh.ExitError); errors.As(err, &failed) {
		err = nil
	}
	return string(out), err
}

// bruteForce guesses passwords until the server is silent, and returns how many it refused. A busy server may be slow during a login,
// but a server that does not answer a connection request has banned the client.
func bruteForce(ctx context.Context, from string) (refused int, err error) {
	const most = 20
	for range most {
		ok, err := login(ctx, from, "root", fmt.Sprintf("guess %d", refused))
		switch {
		case errors.Is(err, errSilence):
			if errors.Is(reaches(ctx, from), errSilence) {
				return refused, nil
			}
		case err != nil:
			return refused, fmt.Errorf("attacker at %s: %w", from, err)
		case ok:
			return refused, fmt.Errorf("attacker at %s logged in", from)
		default:
			refused++
		}
	}
	return refused, fmt.Errorf("attacker at %s tried %d times, and is not banned", from, most)
}

// attackers runs fn for all attackers at the same time.
func attackers(ctx context.Context, fn func(ctx context.Context, from string) error) error {
	return each(ctx, fn, attacker4, attacker6)
}

func each(ctx context.Context, fn func(ctx context.Context, from string) error, addrs ...string) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, from := range addrs {
		g.Go(func() error { return fn(ctx, from) })
	}
	return g.Wait()
}

// reaches returns an error unless sshd answers.
func reaches(ctx context.Context, from string) error {
	conn, err := dial(ctx, from, sshPort)
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	return conn.Close()
}

// banned returns an error unless the server is silent towards the attackers.
func banned(ctx context.Context) error {
	return attackers(ctx, func(ctx context.Context, from string) error {
		switch err := reaches(ctx, from); {
		case err == nil:
			return fmt.Errorf("%s reaches sshd", from)
		case !errors.Is(err, errSilence):
			return err
		}
		return nil
	})
}

// silentDuring runs fn and returns an error if a client received an answer meanwhile on a port that must be silent, even a refusal, unless
// the machine has halted.
func (m *machine) silentDuring(ctx context.Context, port string, who []string, fn func(context.Context) error) error {
	knocking, stop := context.WithCancel(ctx)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return each(knocking, func(ctx context.Context, from string) error { return m.knock(ctx, from, port) }, who...)
	})
	g.Go(func() error { defer stop(); return fn(ctx) })
	return g.Wait()
}

// knock sends a connection request every few milliseconds until ctx is done. It returns an error if one is answered.
func (m *machine) knock(ctx context.Context, from, port string) error {
	const every, most = 10 * time.Millisecond, 200
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(most)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return g.Wait()
		case <-tick.C:
		}
		g.Go(func() error {
			if heard, err := answered(ctx, from, port); heard && !m.over() {
				return fmt.Errorf("%s was answered on port %s: %v", from, port, err)
			}
			return nil
		})
	}
}

// answered reports whether the server answers on a port, even by a refusal. The error is why not if it does not.
func answered(ctx context.Context, from, port string) (bool, error) {
	conn, err := dial(ctx, from, port)
	if err == nil {
		return true, conn.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED), err
}

// policed returns an error unless every client gets an answer on the web port, and on the closed port only if no policy is to be in
// force.
func policed(ctx context.Context, policy bool) error {
	return each(ctx, func(ctx context.Context, from string) error {
		for port, want := range map[string]bool{webPort: true, closedPort: !policy} {
			if heard, err := answered(ctx, from, port); heard != want {
				return fmt.Errorf("%s, on port %s: answered %v, want %v: %v", from, port, heard, want, err)
			}
		}
		return nil
	}, neighbor4, neighbor6, user4, user6)
}

// welcome returns an error unless the user can log in.
func welcome(ctx context.Context) error {
	return each(ctx, func(ctx context.Context, from string) error {
		ok, err := login(ctx, from, account, password)
		if err == nil && !ok {
			err = errRefused
		}
		if err != nil {
			return fmt.Errorf("%s at %s: %w", account, from, err)
		}
		return nil
	}, user4, user6)
}

// The account of a user.
const (
	account  = "alice"
	password = "correct horse"
)
