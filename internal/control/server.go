package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"mef/internal/printable"

	"golang.org/x/sys/unix"
)

// Limits of the socket: what one careless or hostile client of the group can use up.
const (
	maxConns   = 64
	maxRequest = 64 << 10 // bytes of a request body
)

// Listen opens the control socket at path, readable and writable by root and, if it exists, the group mef. A socket left
// behind by a dead daemon is replaced; one that answers is an error.
func Listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return nil, fmt.Errorf("control socket %s: another mefdaemon is running; stop it, or set control_socket", path)
	}
	if err := removeSocket(path); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	// Nobody may connect between bind and chmod.
	old := unix.Umask(0o177)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := share(path); err != nil {
		l.Close()
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return listener{l, make(chan struct{}, maxConns)}, nil
}

// removeSocket removes a socket that nobody listens on any more. What is no socket stays: the path may be mistyped.
func removeSocket(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is there and no socket; set control_socket to a path of its own", path)
	}
	return os.Remove(path)
}

// share gives the socket to the group mef where there is one and we may. A daemon that runs as that group need not, and its
// sandbox may forbid it.
func share(path string) error {
	group, err := user.LookupGroup("mef")
	if err == nil && group.Gid != strconv.Itoa(os.Getegid()) {
		gid, _ := strconv.Atoi(group.Gid)
		if err := os.Chown(path, -1, gid); err != nil {
			return err
		}
	}
	return os.Chmod(path, 0o660)
}

type peerKey struct{}

// Serve answers requests on l until ctx is done.
func Serve(ctx context.Context, l net.Listener, s Service) error {
	server := &http.Server{
		Handler:           Handler(s),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if c, ok := c.(*conn); ok {
				ctx = context.WithValue(ctx, peerKey{}, peer(c.UnixConn))
			}
			return ctx
		},
	}
	// Streams end with ctx, and so does what is still being answered, soon.
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if server.Shutdown(last) != nil {
			server.Close()
		}
	})
	err := server.Serve(l)
	if stop() {
		return fmt.Errorf("control socket: %w", err)
	}
	<-ended
	return nil
}

// A listener hands out at most maxConns connections at a time; further clients wait in the kernel's queue.
type listener struct {
	*net.UnixListener
	slots chan struct{}
}

func (l listener) Accept() (net.Conn, error) {
	l.slots <- struct{}{}
	c, err := l.AcceptUnix()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &conn{UnixConn: c, release: sync.OnceFunc(func() { <-l.slots })}, nil
}

type conn struct {
	*net.UnixConn
	release func()
}

func (c *conn) Close() error {
	defer c.release()
	return c.UnixConn.Close()
}

// peer names the user at the other end of c, as the kernel knows it: "alice", or "uid 1000" if it has no name.
func peer(c *net.UnixConn) string {
	raw, err := c.SyscallConn()
	if err != nil {
		return "unknown"
	}
	var cred *unix.Ucred
	if err := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || cred == nil {
		return "unknown"
	}
	uid := strconv.FormatUint(uint64(cred.Uid), 10)
	if u, err := user.LookupId(uid); err == nil {
		return u.Username
	}
	return "uid " + uid
}

// Handler returns the routes of the package comment.
func Handler(s Service) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		v, err := s.Status(r.Context())
		answer(w, v, err)
	})
	mux.HandleFunc("GET /v1/bans", func(w http.ResponseWriter, r *http.Request) {
		v, err := s.Bans(r.Context())
		answer(w, v, err)
	})
	mux.HandleFunc("POST /v1/bans", func(w http.ResponseWriter, r *http.Request) {
		var req BanRequest
		if err := decode(w, r, &req); err != nil {
			answer(w, nil, err)
			return
		}
		req.Author = author(r)
		v, err := s.Ban(r.Context(), req)
		answer(w, v, err)
	})
	mux.HandleFunc("DELETE /v1/bans", func(w http.ResponseWriter, r *http.Request) {
		var req UnbanRequest
		if err := decode(w, r, &req); err != nil {
			answer(w, nil, err)
			return
		}
		req.Author = author(r)
		v, err := s.Unban(r.Context(), req)
		answer(w, v, err)
	})
	mux.HandleFunc("POST /v1/bans/clear", func(w http.ResponseWriter, r *http.Request) {
		v, err := s.ClearBans(r.Context(), author(r))
		answer(w, v, err)
	})
	mux.HandleFunc("GET /v1/why", func(w http.ResponseWriter, r *http.Request) {
		addr, err := netip.ParseAddr(r.URL.Query().Get("addr"))
		if err != nil {
			answer(w, nil, &Error{"why needs addr=ADDRESS, such as 192.0.2.7 or 2001:db8::7"})
			return
		}
		v, err := s.Why(r.Context(), addr.Unmap().WithZone(""))
		answer(w, v, err)
	})
	mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, r *http.Request) { follow(w, r, s) })
	mux.HandleFunc("POST /v1/reload", func(w http.ResponseWriter, r *http.Request) {
		v, err := s.Reload(r.Context(), author(r))
		answer(w, v, err)
	})
	mux.HandleFunc("POST /v1/arm", func(w http.ResponseWriter, r *http.Request) {
		var req ArmRequest
		if err := decode(w, r, &req); err != nil {
			answer(w, nil, err)
			return
		}
		req.Author = author(r)
		v, err := s.Arm(r.Context(), req)
		answer(w, v, err)
	})
	mux.HandleFunc("POST /v1/confirm", func(w http.ResponseWriter, r *http.Request) {
		answer(w, struct{}{}, s.Confirm(r.Context(), author(r)))
	})
	handleLists(mux, s)
	mux.HandleFunc("POST /v1/stop", func(w http.ResponseWriter, r *http.Request) {
		s.Stop(author(r))
		answer(w, struct{}{}, nil)
	})
	return mux
}

func author(r *http.Request) string {
	name, _ := r.Context().Value(peerKey{}).(string)
	return name
}

// decode reads one JSON object, the whole body, into v.
func decode(w http.ResponseWriter, r *http.Request, v any) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		return &Error{fmt.Sprintf("request body: %v", err)}
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return &Error{fmt.Sprintf("request body: %v", err)}
	}
	if _, err := d.Token(); err != io.EOF {
		return &Error{"request body: more than one JSON value"}
	}
	return nil
}

func answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		status := http.StatusInternalServerError
		refused := new(Error)
		if errors.As(err, &refused) {
			status = http.StatusBadRequest
		}
		w.WriteHeader(status)
		v = &Error{err.Error()}
	}
	// The reader may be gone; there is nobody left to tell.
	_ = json.NewEncoder(printable.JSON(w)).Encode(v)
}

func follow(w http.ResponseWriter, r *http.Request, s Service) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	rc := http.NewResponseController(w)
	_ = rc.Flush()
	enc := json.NewEncoder(printable.JSON(w))
	// An error here means that the reader is gone or that the daemon stops: either way the stream ends.
	_ = s.Follow(r.Context(), func(rec Record) error {
		if err := enc.Encode(rec); err != nil {
			return err
		}
		return rc.Flush()
	})
}
