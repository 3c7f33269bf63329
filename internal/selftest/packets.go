package selftest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"mef/internal/sleep"
)

const (
	// silence is how long nothing must arrive for packets to have vanished. Over the cable, a round trip takes far less than a
	// millisecond; a busy machine may need longer, so a ban's counter must rise as well.
	silence = 100 * time.Millisecond

	// patience is how long packets may take that must arrive. It costs nothing when all is well.
	patience = 2 * time.Second

	// pause is between two tries.
	pause = 5 * time.Millisecond
)

// describe returns the route in words, as in "tcp from 192.0.2.7 to port 22 of 192.0.2.1".
func (r route) describe(at site) string {
	return fmt.Sprintf("%s from %s to port %d of %s", r.network, at.addrs[r.from], r.port, at.addrs[r.to])
}

// passes returns an error unless packets arrive, and answers too.
func (w *world) passes(ctx context.Context, at site, r route) error {
	end := time.Now().Add(patience)
	for {
		err := w.send(at, r)
		if err == nil {
			return nil
		}
		if time.Now().After(end) || !sleep.For(ctx, pause) { // an error may come at once
			return fmt.Errorf("%s did not get through: %w", r.describe(at), err)
		}
	}
}

// vanishes returns an error unless packets disappear without a word.
func (w *world) vanishes(ctx context.Context, at site, r route) error {
	err := w.send(at, r)
	switch {
	case err == nil:
		return fmt.Errorf("%s got through", r.describe(at))
	case ctx.Err() != nil:
		return ctx.Err()
	case !errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%s did not vanish in silence: %w", r.describe(at), err)
	}
	return nil
}

// send makes a TCP connection, or sends a UDP packet and answers it. The error wraps os.ErrDeadlineExceeded if nothing came
// within the time of silence.
func (w *world) send(at site, r route) error {
	from, to := netip.AddrPortFrom(at.addrs[r.from], 0), netip.AddrPortFrom(at.addrs[r.to], r.port)
	if r.network == "tcp" {
		return connect(w.of(r.from), w.of(r.to), from, to)
	}
	return exchange(w.of(r.from), w.of(r.to), from, to)
}

// connect connects to a listener, which need not do anything: the kernel answers.
func connect(client, server namespace, from, to netip.AddrPort) error {
	var l net.Listener
	err := server.do(func() (err error) {
		l, err = net.Listen("tcp", to.String())
		return err
	})
	if err != nil {
		return err
	}
	defer l.Close()
	dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(from), Timeout: silence}
	return client.do(func() error {
		conn, err := dialer.Dial("tcp", to.String())
		if err != nil {
			return timeout(err)
		}
		return conn.Close()
	})
}

// timeout makes a connection's timeout one that errors.Is recognises.
func timeout(err error) error {
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		return os.ErrDeadlineExceeded
	}
	return err
}

// exchange sends a packet, and another one back.
func exchange(client, server namespace, from, to netip.AddrPort) error {
	here, err := listen(client, from)
	if err != nil {
		return err
	}
	defer here.Close()
	there, err := listen(server, to)
	if err != nil {
		return err
	}
	defer there.Close()
	if _, err := here.WriteToUDPAddrPort([]byte("word"), to); err != nil {
		return err
	}
	buf := make([]byte, 16)
	_, sender, err := there.ReadFromUDPAddrPort(buf)
	if err != nil {
		return err
	}
	if _, err := there.WriteToUDPAddrPort([]byte("answer"), sender); err != nil {
		return err
	}
	_, _, err = here.ReadFromUDPAddrPort(buf)
	return err
}

// listen opens a UDP socket that waits for packets for the time of silence.
func listen(n namespace, at netip.AddrPort) (conn *net.UDPConn, err error) {
	err = n.do(func() error {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		return err
	})
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(silence))
}
