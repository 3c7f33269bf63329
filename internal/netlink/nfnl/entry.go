package nfnl

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Entry asks connection tracking for one entry, in the caller's network namespace, and returns its attributes, or an error that wraps ENOENT.
// The kernel marks the answer as part of a list that never ends, for which a Conn would wait.
func Entry(q Query, patience time.Duration) ([]byte, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open nfnetlink: %w", err)
	}
	defer unix.Close(fd)
	wait := unix.NsecToTimeval(patience.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		return nil, fmt.Errorf("open nfnetlink: %w", err)
	}
	m := q.message(0)
	m.Header.Length = uint32(unix.SizeofNlMsghdr + len(m.Data))
	text, err := m.MarshalBinary()
	if err != nil {
		return nil, err
	}
	if err := unix.Sendto(fd, text, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("ask for a conntrack entry: %w", err)
	}
	answer := make([]byte, receiveBuffer)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return nil, fmt.Errorf("ask for a conntrack entry: %w", err)
	}
	if answer = answer[:n]; n < unix.SizeofNlMsghdr+4 {
		return nil, fmt.Errorf("ask for a conntrack entry: %w", unix.EBADMSG)
	}
	data := answer[unix.SizeofNlMsghdr:]
	if typ := netlink.HeaderType(binary.NativeEndian.Uint16(answer[4:])); typ == netlink.Error {
		return nil, fmt.Errorf("ask for a conntrack entry: %w", unix.Errno(-int32(binary.NativeEndian.Uint32(data))))
	}
	return data[4:], nil
}
