//go:build linux

package lab

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A client that is reset reports it even where the kernel gave the reset to another call, and an orderly end is none.
func TestResetIsNoEndOfStream(t *testing.T) {
	for name, tt := range map[string]struct {
		reset bool
		want  error
	}{"reset": {true, syscall.ECONNRESET}, "closed": {false, io.EOF}} {
		t.Run(name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			conn, err := net.Dial("tcp", listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			peer, err := listener.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if tt.reset {
				peer.(*net.TCPConn).SetLinger(0)
			}
			peer.Close()
			raw, err := conn.(*net.TCPConn).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			for end := time.Now().Add(patience); tt.reset; time.Sleep(time.Millisecond) {
				given := 0 // what a call of another goroutine would have been given
				raw.Control(func(fd uintptr) { given, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR) })
				if syscall.Errno(given) == syscall.ECONNRESET {
					break
				}
				if err != nil || time.Now().After(end) {
					t.Fatalf("no reset arrived: %d, %v", given, err)
				}
			}
			client := &clientConn{Conn: conn}
			for range 2 {
				if _, err := client.Read(make([]byte, 1)); !errors.Is(err, tt.want) {
					t.Errorf("Read: %v, want %v", err, tt.want)
				}
			}
		})
	}
}
