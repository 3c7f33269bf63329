package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"mef/internal/sleep"
)

// stopTimeout is how long a daemon may take to end.
const stopTimeout = 5 * time.Second

// A Client asks a daemon. It is safe for concurrent use.
type Client struct {
	path string
	http http.Client
	// queryTime and changeTime are how long an answer may take: to a question, and to a change, which has to reach the kernel first.
	queryTime, changeTime time.Duration
	header                http.Header // of every request
}

// NewClient returns a client of the daemon that listens at path.
func NewClient(path string) *Client {
	return NewClientOver(path, func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	})
}

// NewClientOver returns a client whose connections are made by a function. path is what error messages name.
func NewClientOver(path string, dial func(context.Context) (net.Conn, error)) *Client {
	return &Client{path: path, queryTime: 20 * time.Second, changeTime: 2 * time.Minute, http: http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
	}}}
}

// With returns a client that shares the connections of c and sends a header with each request.
func (c *Client) With(header http.Header) *Client {
	with := *c
	with.header = header
	return &with
}

// Status asks for the daemon's status.
func (c *Client) Status(ctx context.Context) (v Status, err error) {
	return v, c.do(ctx, http.MethodGet, "/v1/status", nil, &v)
}

// Services asks for what waits for strangers.
func (c *Client) Services(ctx context.Context) (v []ListeningService, err error) {
	return v, c.do(ctx, http.MethodGet, "/v1/services", nil, &v)
}

// Bans asks for the bans in force.
func (c *Client) Bans(ctx context.Context) (v []Ban, err error) {
	return v, c.do(ctx, http.MethodGet, "/v1/bans", nil, &v)
}

// Ban asks for a ban and returns it as it holds.
func (c *Client) Ban(ctx context.Context, req BanRequest) (v Ban, err error) {
	return v, c.do(ctx, http.MethodPost, "/v1/bans", req, &v)
}

// Unban lifts bans and returns those that were lifted.
func (c *Client) Unban(ctx context.Context, req UnbanRequest) (v []Ban, err error) {
	return v, c.do(ctx, http.MethodDelete, "/v1/bans", req, &v)
}

// Why asks about one address.
func (c *Client) Why(ctx context.Context, addr netip.Addr) (v Why, err error) {
	return v, c.do(ctx, http.MethodGet, "/v1/why?addr="+url.QueryEscape(addr.String()), nil, &v)
}

// Stop ends the daemon and returns once nothing answers at the socket any more.
func (c *Client) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	err := c.do(ctx, http.MethodPost, "/v1/stop", nil, new(struct{}))
	if err != nil {
		return err
	}
	for err == nil {
		var conn net.Conn
		if conn, err = new(net.Dialer).DialContext(ctx, "unix", c.path); err == nil {
			conn.Close()
			if !sleep.For(ctx, 10*time.Millisecond) {
				return fmt.Errorf("mefdaemon does not stop within %v", stopTimeout)
			}
		}
	}
	if explained := c.explain(err); !errors.Is(explained, ErrNotRunning) {
		return explained
	}
	return nil
}

// Follow calls emit for each record, recent ones first, until ctx is done, the daemon stops or emit fails.
func (c *Client) Follow(ctx context.Context, emit func(Record) error) error {
	resp, err := c.send(ctx, http.MethodGet, "/v1/events", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var rec Record
		if err := json.Unmarshal(lines.Bytes(), &rec); err != nil {
			return fmt.Errorf("event stream: %w", err)
		}
		if err := emit(rec); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("event stream: %w", err)
	}
	return nil
}

func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	limit := c.queryTime
	if method != http.MethodGet {
		limit = c.changeTime
	}
	return c.within(ctx, limit, method, path, in, out)
}

// within sends a request that must be answered within a time.
func (c *Client) within(ctx context.Context, limit time.Duration, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("mefdaemon does not answer within %v; see journalctl -u mefdaemon; mefctl off works without it", limit))
	defer cancel()
	err := c.exchange(ctx, method, path, in, out)
	if cause := context.Cause(ctx); err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return cause
	}
	return err
}

func (c *Client) exchange(ctx context.Context, method, path string, in, out any) error {
	resp, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("answer of mefdaemon: %w", err)
	}
	return nil
}

// send returns the answer to a request that was served; its body is to be closed.
func (c *Client) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://mefdaemon"+path, &body)
	if err != nil {
		return nil, err
	}
	for name, values := range c.header {
		req.Header[name] = values
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(err)
	}
	if resp.StatusCode >= 400 {
		defer resp.Body.Close()
		refused := new(Error)
		if err := json.NewDecoder(resp.Body).Decode(refused); err != nil || refused.Message == "" {
			return nil, fmt.Errorf("mefdaemon answered %s to %s", resp.Status, path)
		}
		return nil, refused
	}
	return resp, nil
}

// ErrNotRunning is wrapped by every error that means that no daemon answers at the socket.
var ErrNotRunning = errors.New("mefdaemon is not running")

// explain turns a failed connection into what the operator can do about it.
func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: nothing answers at %s; run mefctl enable if it has never run here, otherwise mefctl start; --config names another configuration", ErrNotRunning, c.path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: permission denied; only root%s may use it", c.path, orJoin(c.path))
	}
	return err
}

// orJoin names the group whose members may use the socket at path, "" if none but root may. Who cannot see the socket sees the
// directory in which it is.
func orJoin(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		info, err = os.Stat(filepath.Dir(path))
	}
	if err != nil {
		return ""
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || owner.Gid == 0 {
		return ""
	}
	gid := strconv.FormatUint(uint64(owner.Gid), 10)
	if group, err := user.LookupGroupId(gid); err == nil {
		return " and members of the group " + group.Name
	}
	return " and members of the group " + gid
}
