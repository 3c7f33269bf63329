package control

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// busy is a daemon with many bans and endless events.
type busy struct {
	Service
	bans         []Ban
	asked, most  atomic.Int32  // answers to Bans being written, and the most at a time
	release      chan struct{} // Bans waits for it, if it is not nil
	followsBegan chan struct{}
}

func (b *busy) Status(context.Context) (Status, error) { return Status{Protected: true}, nil }

func (b *busy) Bans(ctx context.Context) ([]Ban, error) {
	now := b.asked.Add(1)
	defer b.asked.Add(-1)
	for most := b.most.Load(); now > most && !b.most.CompareAndSwap(most, now); most = b.most.Load() {
	}
	if b.release != nil {
		select {
		case <-b.release:
		case <-ctx.Done():
		}
	}
	return b.bans, nil
}

func (b *busy) Follow(ctx context.Context, emit func(Record) error) error {
	b.followsBegan <- struct{}{}
	<-ctx.Done()
	return nil
}

// open serves s at a socket that every user may use.
func open(t *testing.T, s Service) (path string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be another user")
	}
	dir, err := os.MkdirTemp("/tmp", "mef")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path = filepath.Join(dir, "sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(path, 0o666)); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, s) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return path
}

// member returns a client that connects as a user other than root.
func member(path string) *Client {
	c := NewClient(path)
	c.http.Transport = &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return dialAs(12345, path) }}
	return c
}

// dialAs connects as another user. The kernel takes the user of the thread, which ends with its goroutine.
func dialAs(uid int, path string) (conn net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // permanently: no other goroutine may run as this user
		if _, _, e := syscall.RawSyscall(syscall.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); e != 0 {
			err = e
			return
		}
		conn, err = net.Dial("unix", path)
	}()
	<-done
	return conn, err
}

// However many streams and idle connections members of the group keep open, root and other members are answered.
func TestMembersCannotLockOutRoot(t *testing.T) {
	s := &busy{followsBegan: make(chan struct{}, 200)}
	path := open(t, s)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var refused atomic.Int32
	var streams sync.WaitGroup
	for range 64 {
		streams.Go(func() {
			err := member(path).Follow(ctx, func(Record) error { return nil })
			if err != nil && strings.Contains(err.Error(), "too many clients follow the events") {
				refused.Add(1)
			} else if err != nil {
				t.Errorf("stream: %v", err)
			}
		})
	}
	for range maxFollow {
		<-s.followsBegan
	}
	for refused.Load() < 64-maxFollow {
		if t.Failed() || t.Context().Err() != nil {
			return
		}
		runtime.Gosched()
	}
	// The connections of the streams that were refused close; then there is room for a member again.
	deadline := time.Now().Add(time.Minute)
	for {
		st, err := member(path).Status(t.Context())
		if err == nil && st.Protected {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("status of a member beside 64 streams: %+v, %v", st, err)
		}
		time.Sleep(time.Millisecond)
	}
	// Idle connections take what is left of the members' slots; root has its own.
	for range memberConns {
		conn, err := dialAs(12345, path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	if _, err := member(path).Status(t.Context()); err == nil || !strings.Contains(err.Error(), "too many connections; try again, or as root") {
		t.Errorf("one member too many: %v", err)
	}
	if st, err := NewClient(path).Status(t.Context()); err != nil || !st.Protected {
		t.Errorf("status of root: %+v, %v", st, err)
	}
	stop()
	streams.Wait()
	if n := refused.Load(); n != 64-maxFollow {
		t.Errorf("%d streams were refused, want %d", n, 64-maxFollow)
	}
}

// Sixty clients that ask for all bans at a time are answered one after the other, and root does not wait for them.
func TestBigAnswersWaitForEachOther(t *testing.T) {
	s := &busy{bans: make([]Ban, 300), release: make(chan struct{})}
	path := open(t, s)
	var clients sync.WaitGroup
	for range 40 {
		clients.Go(func() {
			c := member(path)
			c.queryTime = time.Minute // the last one waits for all others
			if bans, err := c.Bans(t.Context()); err != nil || len(bans) != len(s.bans) {
				t.Errorf("%d bans, %v", len(bans), err)
			}
		})
	}
	clients.Go(func() {
		if bans, err := NewClient(path).Bans(t.Context()); err != nil || len(bans) != len(s.bans) {
			t.Errorf("root: %d bans, %v", len(bans), err)
		}
	})
	for s.asked.Load() < 2 { // one of the members' and root's
		runtime.Gosched()
	}
	close(s.release)
	clients.Wait()
	if most := s.most.Load(); most != 2 {
		t.Errorf("%d answers at a time; want one for members and one for root", most)
	}
}

// A recorder notes the deadlines that an answer sets.
type recorder struct {
	*httptest.ResponseRecorder
	deadlines []time.Time
}

func (r *recorder) SetWriteDeadline(at time.Time) error {
	r.deadlines = append(r.deadlines, at)
	return nil
}

// A client that does not read its answer cannot keep it for ever.
func TestEveryAnswerHasADeadline(t *testing.T) {
	for target, within := range map[string]time.Duration{"/v1/status": answerTime, "/v1/bans": answerTime} {
		w := &recorder{ResponseRecorder: httptest.NewRecorder()}
		Handler(&busy{bans: make([]Ban, 3)}).ServeHTTP(w, httptest.NewRequest("GET", target, nil))
		if len(w.deadlines) == 0 || time.Until(w.deadlines[0]) > within {
			t.Errorf("%s: write deadlines %v, want one within %v", target, w.deadlines, within)
		}
		if !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s answers %s", target, w.Body)
		}
	}
	w := &recorder{ResponseRecorder: httptest.NewRecorder()}
	follow(w, httptest.NewRequest("GET", "/v1/events", nil), &emits{})
	if len(w.deadlines) != 2 {
		t.Errorf("two records of an event stream set deadlines %v", w.deadlines)
	}
}

type emits struct{ Service }

func (*emits) Follow(_ context.Context, emit func(Record) error) error {
	return errors.Join(emit(Record{Event: "ban"}), emit(Record{Event: "unban"}))
}

// A daemon that accepts and never answers ends the patience of a client, which reports what to do.
func TestClientGivesUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := NewClient(path)
	c.queryTime = 50 * time.Millisecond
	if _, err := c.Status(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "mefdaemon does not answer within 50ms; see journalctl -u mefdaemon") {
		t.Errorf("status: %v", err)
	}
}

// What other goroutines create while the socket is made keeps its mode: the umask is the whole process's.
func TestListenLeavesTheUmaskAlone(t *testing.T) {
	dir := t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	made := make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			path := filepath.Join(dir, "file")
			os.Remove(path)
			if err := os.WriteFile(path, nil, 0o600|0o100); err != nil {
				made <- err
				return
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o700 {
				made <- errors.Join(err, errors.New("a file was made with mode "+info.Mode().String()))
				return
			}
		}
		made <- nil
	}()
	for range 500 {
		l, err := Listen(filepath.Join(dir, "sock"))
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
	}
	stop()
	if err := <-made; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "sock")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket of a closed listener: %v", err)
	}
}
