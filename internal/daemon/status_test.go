package daemon

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mef/internal/sdnotify"
)

// The service manager hears when the configuration is read again, and that the daemon is ready again, whether that went well or not.
func TestServiceManagerHearsOfReloads(t *testing.T) {
	h := settle(t, "", nil)
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(h.dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	h.manager, err = sdnotify.New(func(name string) string {
		return map[string]string{"NOTIFY_SOCKET": socket.LocalAddr().String()}[name]
	})
	if err != nil {
		t.Fatal(err)
	}
	hears := func(want string) {
		t.Helper()
		socket.SetReadDeadline(time.Now().Add(patience))
		buf := make([]byte, 1000)
		n, err := socket.Read(buf)
		if got := string(buf[:n]); err != nil || !strings.HasPrefix(got, want) {
			t.Fatalf("the service manager hears %q, %v; want %q", got, err, want)
		}
	}
	for _, settings := range []string{"bantime=1h\n", "mistake=1\n", "mode=observe\n"} {
		h.configure(settings)
		_, err := h.Reload(t.Context(), "alice")
		if bad := settings == "mistake=1\n"; (err != nil) != bad {
			t.Errorf("%q: %v", settings, err)
		}
		hears("RELOADING=1\nMONOTONIC_USEC=")
		mode := "enforce"
		if settings == "mode=observe\n" {
			mode = "observe"
		}
		hears("READY=1\nSTATUS=" + mode + ", 0 bans; see mefctl status")
	}
}
