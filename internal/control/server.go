package control

import (
	"bytes"
	"cmp"
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
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Listen opens the control socket at path, readable and writable by root and, if it exists, the group mef. A socket left
// behind by a dead daemon is replaced; one that answers is an error.
func Listen(path string) (net.Listener, error) {
	l, err := ListenPrivate(path, "control_socket")
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := share(path); err != nil {
		l.Close()
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return newListener(l), nil
}

// ListenPrivate listens at the unix socket at path, which only its owner may use until its mode is changed. A socket that nobody listens
// on any more is replaced; one that answers is an error. key is the key of mef.conf that has the path.
func ListenPrivate(path, key string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return nil, fmt.Errorf("%s: another mefdaemon is running; stop it, or set %s", path, key)
	}
	if err := removeSocket(path, key); err != nil {
		return nil, err
	}
	// Nobody may connect between bind and chmod, and the umask is the whole process's, other goroutines' files included: Linux gives the
	// file the mode of the socket.
	private := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var chmod error
		err := c.Control(func(fd uintptr) { chmod = unix.Fchmod(int(fd), 0o600) })
		return cmp.Or(err, chmod)
	}}
	l, err := private.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	return l.(*net.UnixListener), nil
}

// removeSocket removes a socket that nobody listens on any more. What is no socket stays: the path may be mistyped.
func removeSocket(path, key string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s exists and is not a socket; set %s to another path", path, key)
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

// Serve answers requests on l until ctx is done.
func Serve(ctx context.Context, l net.Listener, s Service) error {
	return serve(ctx, l, ownLimited(Handler(s)))
}

// ownUser is the user that mefdaemon.service runs as. The programs that it starts, mefpage and those of [notify], run as this user too.
const ownUser = "mef"

// ownLimited lets processes of the daemon's own user only ask, and reload as the unit does. A program that strangers have taken over must not
// become an operator because it may open the socket. Operators are root and members of the group.
func ownLimited(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.URL.Path != "/v1/reload" && author(r) == ownUser {
			answer(w, nil, Refuse("user %s, as which mefdaemon runs, may only look and reload; run this as root or as another member of the group %s", ownUser, ownUser))
			return
		}
		h.ServeHTTP(w, r)
	})
}

// ServeFor is Serve for clients that act for others. permit returns who sends a request, or why the daemon does not serve it.
func ServeFor(ctx context.Context, l net.Listener, s Service, permit func(*http.Request) (author string, err error)) error {
	h := Handler(s)
	return serve(ctx, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		author, err := permit(r)
		if err != nil {
			answer(w, nil, err)
			return
		}
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), peerKey{}, peer{name: author})))
	}))
}

func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	server := &http.Server{
		Handler:           finish(ctx, h),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       bodyTime,
		IdleTimeout:       5 * time.Second,
		MaxHeaderBytes:    16 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if c, ok := c.(*conn); ok {
				ctx = context.WithValue(ctx, peerKey{}, c.peer)
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

// finish lets a request that changes something go on to its end though its client goes away, until ctx is done: a ban that is lifted in
// the kernel must also be noted as lifted.
func finish(ctx context.Context, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			whole, stop := context.WithCancel(context.WithoutCancel(r.Context()))
			defer stop()
			defer context.AfterFunc(ctx, stop)()
			r = r.WithContext(whole)
		}
		h.ServeHTTP(w, r)
	})
}

// Handler returns the routes of the package comment.
func Handler(s Service) http.Handler {
	mux, limits := http.NewServeMux(), newLimits()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		v, err := s.Status(r.Context())
		answer(w, v, err)
	})
	mux.HandleFunc("GET /v1/bans", limits.oneBig(func(w http.ResponseWriter, r *http.Request) {
		bans, err := s.Bans(r.Context())
		if err != nil {
			answer(w, nil, err)
			return
		}
		stream(w, "[", bans, "]")
	}))
	handleBatches(mux, s, limits)
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
	mux.HandleFunc("GET /v1/services", func(w http.ResponseWriter, r *http.Request) {
		v, err := s.Services(r.Context())
		answer(w, v, err)
	})
	mux.HandleFunc("GET /v1/events", limits.followed(func(w http.ResponseWriter, r *http.Request) { follow(w, r, s) }))
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
	handleLists(mux, s, limits)
	handleNames(mux, s, limits)
	handleReputation(mux, s)
	handleNotify(mux, s)
	handleCloud(mux, s)
	handleViews(mux, s, limits)
	handleBlocked(mux, s)
	mux.HandleFunc("POST /v1/stop", func(w http.ResponseWriter, r *http.Request) {
		s.Stop(author(r))
		answer(w, struct{}{}, nil)
	})
	return mux
}

// decode reads one JSON object, the whole body, into v.
func decode(w http.ResponseWriter, r *http.Request, v any) error {
	return decodeUpTo(maxRequest, w, r, v)
}

// decodeUpTo is decode for a body of at most limit bytes.
func decodeUpTo(limit int64, w http.ResponseWriter, r *http.Request, v any) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
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
