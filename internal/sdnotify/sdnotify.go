// Package sdnotify reports our state to the service manager that started us, in the protocol of sd_notify(3).
//
// systemd gives a service the path of a datagram socket in $NOTIFY_SOCKET. What the service sends there are lines of the form
// NAME=VALUE: that it is ready and others may start, that it is reading its configuration again, that it is about to end, and a
// sentence for systemctl status. If $WATCHDOG_USEC is set, the service must send a sign of life at least that often, or it is taken for
// hung and started again.
//
// Without $NOTIFY_SOCKET nobody listens: all methods of a nil Manager do nothing, so a daemon started by hand needs no other
// code.
package sdnotify

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxStatus bounds a sentence for systemctl status, in bytes.
const maxStatus = 200

// sendTime is how long a message may wait for room in the manager's queue.
const sendTime = 5 * time.Second

// A Manager is the service manager that started us. Its methods may be called from any goroutine.
type Manager struct {
	socket   *net.UnixAddr
	watchdog time.Duration // between two signs of life; 0: there is no watchdog
}

// New returns the manager that the environment names, nil if there is none. getenv is os.Getenv. An error says that a variable
// has no sense; there may be a manager nevertheless, which does not watch then.
func New(getenv func(string) string) (*Manager, error) {
	path := getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil, nil
	}
	if path[0] != '/' && path[0] != '@' { // "@" begins a name in the abstract namespace (unix(7))
		return nil, fmt.Errorf("NOTIFY_SOCKET=%q is neither an absolute path nor an abstract name", path)
	}
	m := &Manager{socket: &net.UnixAddr{Name: path, Net: "unixgram"}}
	usec := getenv("WATCHDOG_USEC")
	if pid := getenv("WATCHDOG_PID"); usec == "" || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return m, nil
	}
	n, err := strconv.ParseInt(usec, 10, 64)
	if err != nil || n <= 0 || n > int64(24*time.Hour/time.Microsecond) {
		return m, fmt.Errorf("WATCHDOG_USEC=%q is no number of microseconds up to a day", usec)
	}
	m.watchdog = time.Duration(n) * time.Microsecond
	return m, nil
}

// Ready reports that we do our work, and a status for systemctl status. It ends what Reloading began.
func (m *Manager) Ready(status string) error { return m.send("READY=1\nSTATUS=" + oneLine(status)) }

// Status reports what systemctl status is to show.
func (m *Manager) Status(status string) error { return m.send("STATUS=" + oneLine(status)) }

// Stopping reports that we are about to end.
func (m *Manager) Stopping() error { return m.send("STOPPING=1\nSTATUS=stopping") }

// Reloading reports that we read our configuration again. Ready must follow, whether the new one is good or not.
func (m *Manager) Reloading() error {
	// The manager compares this clock with its own, to distinguish an answer to its signal from an older one.
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	return m.send(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d\nSTATUS=reading the configuration", now.Nano()/1000))
}

// Watch calls alive twice as often as the manager expects a sign of life, and passes on what it returns as a sign of life and status,
// until ctx is done. While alive blocks or fails, the manager gets no sign of life, and will start us again. Without a watchdog Watch
// returns at once. Errors of sending are passed to failed.
func (m *Manager) Watch(ctx context.Context, alive func(context.Context) (status string, err error), failed func(error)) {
	if m == nil || m.watchdog == 0 {
		return
	}
	tick := time.NewTicker(m.watchdog / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if ctx.Err() != nil {
			return // select chooses at random when both are due
		}
		status, err := alive(ctx)
		if err == nil {
			err = m.send("WATCHDOG=1\nSTATUS=" + oneLine(status))
		}
		if err != nil && ctx.Err() == nil {
			failed(err)
		}
	}
}

// send sends one message.
func (m *Manager) send(message string) error {
	if m == nil {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, m.socket)
	if err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	defer conn.Close()
	conn.SetWriteDeadline(time.Now().Add(sendTime))
	if _, err := conn.Write([]byte(message)); err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	return nil
}

// oneLine makes text a single line that cannot hold a second NAME=VALUE, and not a long one.
func oneLine(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxStatus {
		text = strings.ToValidUTF8(text[:maxStatus], "") + "…"
	}
	return text
}
