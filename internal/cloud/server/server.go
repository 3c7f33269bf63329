// Package server is the community server: hosts that were invited report their bans, and fetch the list of addresses that follows from the reports.
//
// Everything that changes what the server knows is an entry of one log (package natslog). The state is what follows from the entries in
// their order, so a restart restores it, and several servers of one log agree without talking to each other. A copy of the state on disk
// shortens the restart. A request is answered once its entry is kept and has been applied.
//
// A data directory that was in use is never taken for a new one: if the log or the copy is missing or damaged, or the log ends before an entry
// that was acknowledged, the server does not start, and the error names the way back.
package server

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"mef/internal/atomicfile"
	"mef/internal/cloud/limit"
	"mef/internal/cloud/natslog"
	"mef/internal/cloud/reputation"
	"mef/internal/cloud/wire"
	"mef/internal/cloud/zone"
)

// Files of a data directory.
const (
	SocketFile = "admin.sock" // for mefcloud's other commands
	stateFile  = "state"      // a copy of the state
	ackedFile  = "acked"      // number of the last entry that was acknowledged
)

const (
	saveEvery  = time.Hour
	saveAfter  = 20_000 // entries
	appendTime = 10 * time.Second
	tokenLife  = 24 * time.Hour
)

// Options of a Server.
type Options struct {
	Dir    string // of all files
	Listen string // address of the HTTPS server
	Name   string // HOST:PORT in invitations
	NATS   []string
	ASN    string // file with the autonomous systems of networks; empty: wide networks stand for them
	Export string // directory of backups that the server writes by itself; empty: one in Dir
	DNS    string // address of the DNS server; empty: none
	Zone   string // its zone
	Log    *slog.Logger
	Now    func() time.Time // nil: the clock
}

// A Server is a community server.
type Server struct {
	opt      Options
	feedKey  ed25519.PrivateKey
	cert     tls.Certificate
	log      *natslog.Log
	acked    *os.File
	listener net.Listener
	admin    net.Listener
	limits   *limit.Rate
	index    *zone.Index // what is listed for all
	overview overview
	dns      *zone.Zone // nil: none
	streams  streams
	stopped  chan struct{} // closed when Run ends

	mu      sync.Mutex
	state   *state
	waiting map[uint64]chan<- outcome // by the number of an entry that is appended
	early   map[uint64]outcome        // of entries that were applied before Append returned
	appends int                       // that are in progress
	changed chan struct{}             // closed when a list changes
	savedAt uint64

	fleetChanged chan struct{} // closed when own hosts have something new
}

// Open opens the data directory and the log, restores the state, and listens. Close must be called.
func Open(ctx context.Context, opt Options) (_ *Server, err error) {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	s := &Server{opt: opt, waiting: make(map[uint64]chan<- outcome), early: make(map[uint64]outcome), changed: make(chan struct{}), fleetChanged: make(chan struct{}), stopped: make(chan struct{}), limits: limit.NewRate(perSecond, burst, opt.Now()), index: zone.NewIndex()}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if err := errors.Join(s.checkASN(), os.MkdirAll(opt.Dir, 0o700)); err != nil {
		return nil, err
	}
	isNew := false
	if s.state, isNew, err = s.readState(); err != nil {
		return nil, err
	}
	if err := s.readKeys(isNew); err != nil {
		return nil, err
	}
	if s.log, err = natslog.Open(ctx, natslog.Options{Dir: opt.Dir, URLs: opt.NATS, Owner: s.Pin(), New: isNew || s.restored(), First: s.state.seq + 1}); err != nil {
		return nil, fmt.Errorf("%w; %s", err, wayBack)
	}
	if err := s.catchUp(ctx, isNew); err != nil {
		return nil, err
	}
	if err := s.log.Listen(s.hear); err != nil {
		return nil, err
	}
	if isNew { // from now on the directory is in use
		if err := s.saveState(); err != nil {
			return nil, err
		}
	}
	s.loadIndex()
	if s.listener, err = net.Listen("tcp", opt.Listen); err != nil {
		return nil, err
	}
	s.listener = limit.Listener(s.listener, maxConns, maxConnsNet)
	if opt.DNS != "" {
		if s.dns, err = zone.Open(zone.Options{Zone: opt.Zone, Listen: opt.DNS, Server: opt.Name, Index: s.index}); err != nil {
			return nil, err
		}
	}
	s.admin, err = listenAdmin(filepath.Join(opt.Dir, SocketFile))
	return s, err
}

const wayBack = "if the files cannot be repaired, restore the newest backup (in " + exportDir + ", or where --export says) into an empty directory: mefcloud restore"

// readState reads the copy of the state. A directory without one is new if nothing was acknowledged by its server.
func (s *Server) readState() (st *state, isNew bool, err error) {
	path := filepath.Join(s.opt.Dir, stateFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if info, err := os.Stat(filepath.Join(s.opt.Dir, ackedFile)); err == nil && info.Size() > 0 {
			return nil, false, fmt.Errorf("%s is missing, but the server was in use; %s", path, wayBack)
		}
		return newState(), true, nil
	} else if err != nil {
		return nil, false, err
	}
	if st, _, err = loadState(data); err != nil {
		return nil, false, fmt.Errorf("%s: %w; %s", path, err, wayBack)
	}
	s.savedAt = st.seq
	return st, false, nil
}

// restored reports whether the state comes from a backup and the log has to be made.
func (s *Server) restored() bool {
	_, err := os.Stat(filepath.Join(s.opt.Dir, ackedFile))
	return errors.Is(err, fs.ErrNotExist)
}

// catchUp applies what the log has since the state was saved.
func (s *Server) catchUp(ctx context.Context, isNew bool) error {
	acked, err := s.openAcked()
	if err != nil {
		return err
	}
	known := max(s.state.seq, acked)
	first, last, err := s.log.Bounds(ctx)
	for end := time.Now().Add(patience); err == nil && last < known && len(s.opt.NATS) > 0 && time.Now().Before(end); { // the leader may be one that the others have left
		time.Sleep(time.Second)
		first, last, err = s.log.Bounds(ctx)
	}
	switch {
	case err != nil:
		return err
	case isNew && last > 0 && len(s.opt.NATS) > 0:
		return errors.New("other servers use the log of this cluster; make a backup of one of them, and begin here with mefcloud restore --same-log")
	case first > s.state.seq+1:
		return s.log.Explain(fmt.Errorf("the log begins with entry %d, but entry %d is the last one in the state; %s", first, s.state.seq, wayBack))
	case last < known:
		return s.log.Explain(fmt.Errorf("the log ends with entry %d, but entry %d was acknowledged; %s", last, known, wayBack))
	case last == s.state.seq:
		return nil
	}
	reading, cancel := context.WithCancel(ctx)
	defer cancel()
	stuck := time.AfterFunc(patience, cancel)
	defer stuck.Stop()
	done := errors.New("done")
	err = s.log.Read(reading, s.state.seq+1, func(e natslog.Entry) error {
		stuck.Reset(patience)
		if out := s.state.apply(e); out.err != nil {
			s.opt.Log.Debug("an entry of the log has no effect", "entry", e.Seq, "err", out.err)
		}
		if e.Seq >= last {
			return done
		}
		return nil
	})
	switch {
	case errors.Is(err, done):
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil:
		err = fmt.Errorf("entry %d of the log cannot be read", s.state.seq+1)
	}
	return fmt.Errorf("%w; %s", s.log.Explain(err), wayBack)
}

// patience is how long a start waits for the next entry of the log.
const patience = 20 * time.Second

// The number of the last entry that was acknowledged, and its checksum.
const ackedSize = 12

// openAcked opens the file with the number of the last entry that was acknowledged, and returns the number. A damaged one is written anew: it only
// shows whether the log has lost entries at its end.
func (s *Server) openAcked() (seq uint64, err error) {
	s.acked, err = os.OpenFile(filepath.Join(s.opt.Dir, ackedFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return 0, err
	}
	var raw [ackedSize]byte
	n, err := s.acked.ReadAt(raw[:], 0) // a new file has none
	seq = binary.BigEndian.Uint64(raw[:])
	switch {
	case n == 0 && errors.Is(err, io.EOF):
		return 0, nil
	case n == 8 && errors.Is(err, io.EOF): // of an older mefcloud
		return seq, nil
	case err != nil && !errors.Is(err, io.EOF):
		return 0, err
	case n != ackedSize || binary.BigEndian.Uint32(raw[8:]) != crc32.ChecksumIEEE(raw[:8]):
		s.opt.Log.Warn("a file is damaged and written anew; whether the log has lost its last entries cannot be checked", "file", s.acked.Name())
		return 0, nil
	}
	return seq, nil
}

// noteAcked writes the number of the last entry that was acknowledged. It is not synced: a crash of the process keeps it, and that of the machine
// at worst leaves an older one.
func (s *Server) noteAcked(seq uint64) {
	if _, err := s.acked.WriteAt(ackedNumber(seq), 0); err != nil {
		s.opt.Log.Error("the number of the last entry cannot be written", "err", err)
	}
}

func ackedNumber(seq uint64) []byte {
	raw := binary.BigEndian.AppendUint64(make([]byte, 0, ackedSize), seq)
	return binary.BigEndian.AppendUint32(raw, crc32.ChecksumIEEE(raw))
}

// Pin returns the hash of the key by which hosts know the server.
func (s *Server) Pin() string {
	pin := wire.PinOf(s.cert.Leaf)
	return base64.RawURLEncoding.EncodeToString(pin[:])
}

// DNS returns the address of the DNS server, "" if there is none.
func (s *Server) DNS() string {
	if s.dns == nil {
		return ""
	}
	return s.dns.Addr().String()
}

// Addr returns the address of the HTTPS server.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Close releases everything. It is for servers that Run was not called for as well.
func (s *Server) Close() {
	for _, l := range []net.Listener{s.listener, s.admin} {
		if l != nil {
			l.Close()
		}
	}
	if s.dns != nil {
		s.dns.Close()
	}
	if s.log != nil {
		s.log.Close()
	}
	if s.acked != nil {
		s.acked.Close()
	}
}

// Run serves until ctx is done, answers what was asked by then, and saves the state.
func (s *Server) Run(ctx context.Context) error {
	web := &http.Server{Handler: s.routes(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, WriteTimeout: maxWait + 30*time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(s.opt.Log.Handler(), slog.LevelDebug)}
	admin := &http.Server{Handler: s.adminRoutes(), ReadHeaderTimeout: 5 * time.Second}
	g, running := errgroup.WithContext(ctx)
	following, stop := context.WithCancel(context.WithoutCancel(ctx)) // requests wait for their entries
	g.Go(func() error {
		return s.log.Read(following, s.state.seq+1, func(e natslog.Entry) error { s.applied(e); return nil })
	})
	g.Go(func() error {
		return served(web.Serve(tls.NewListener(s.listener, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{s.cert}})))
	})
	g.Go(func() error { return served(admin.Serve(s.admin)) })
	g.Go(func() error { return s.keepTime(running) })
	if s.dns != nil {
		g.Go(func() error { return s.dns.Run(running) })
	}
	g.Go(func() error {
		<-running.Done()
		defer stop()
		close(s.stopped)
		over, cancel := context.WithTimeout(context.WithoutCancel(ctx), appendTime)
		defer cancel()
		return errors.Join(web.Shutdown(over), admin.Shutdown(over))
	})
	err := g.Wait()
	return errors.Join(err, s.saveState())
}

func served(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// keepTime has time pass in the log, and saves the state now and then.
func (s *Server) keepTime(ctx context.Context) error {
	t := time.NewTicker(time.Minute)
	defer t.Stop()
	var exported exporter
	for last, refreshed := s.opt.Now(), s.opt.Now(); ; {
		if err := s.export(&exported); err != nil {
			s.opt.Log.Error("a backup cannot be written", "err", err)
		}
		s.mu.Lock()
		behind := s.state.book.Now() < reputation.HourOf(s.opt.Now())
		due := s.state.seq-s.savedAt > saveAfter || s.state.seq > s.savedAt && s.opt.Now().Sub(last) > saveEvery
		s.mu.Unlock()
		if behind {
			if _, err := s.do(ctx, entry{Tick: new(struct{})}); err != nil && ctx.Err() == nil {
				s.opt.Log.Error("the log cannot be written", "err", err)
			}
		}
		if s.opt.Now().Sub(refreshed) > refreshEvery {
			refreshed = s.opt.Now()
			s.refreshIndex()
		}
		if due {
			last = s.opt.Now()
			if err := s.saveState(); err != nil {
				s.opt.Log.Error("the state cannot be saved", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// saveState writes a copy of the state, and removes from the log what it no longer needs.
func (s *Server) saveState() error {
	s.mu.Lock()
	plain, err := s.state.plain(nil)
	seq := s.state.seq
	s.mu.Unlock()
	if err != nil {
		return err
	}
	data, err := pack(plain)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(s.opt.Dir, stateFile), data, 0o600); err != nil {
		return err
	}
	s.mu.Lock()
	before := s.savedAt
	s.savedAt = seq
	s.mu.Unlock()
	if len(s.opt.NATS) == 0 && before > 0 { // other servers of a cluster may be behind
		ctx, cancel := context.WithTimeout(context.Background(), appendTime)
		defer cancel()
		return s.log.Forget(ctx, before)
	}
	return nil
}

// do appends an entry, and returns its outcome once it was applied.
func (s *Server) do(ctx context.Context, e entry) (outcome, error) {
	text, err := json.Marshal(e)
	if err != nil {
		return outcome{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, appendTime)
	defer cancel()
	s.mu.Lock()
	s.appends++
	s.mu.Unlock()
	seq, err := s.log.Append(ctx, text)
	s.mu.Lock()
	if s.appends--; err != nil {
		s.mu.Unlock()
		return outcome{}, err
	}
	result := make(chan outcome, 1)
	if out, ok := s.early[seq]; ok {
		result <- out
		delete(s.early, seq)
	} else {
		s.waiting[seq] = result
	}
	if s.appends == 0 {
		clear(s.early)
	}
	s.mu.Unlock()
	select {
	case out := <-result:
		return out, nil
	case <-ctx.Done():
		s.mu.Lock()
		delete(s.waiting, seq)
		s.mu.Unlock()
		return outcome{}, ctx.Err()
	}
}

// applied makes an entry part of the state, and hands its outcome to whoever waits for it.
func (s *Server) applied(e natslog.Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.state.lists[reputation.Public].seq + s.state.lists[reputation.OwnHosts].seq
	shared := s.state.fleet.last()
	out := s.state.apply(e)
	s.updateIndex(out.changed)
	if s.state.fleet.last() != shared {
		s.fleetWoken()
	}
	if s.state.lists[reputation.Public].seq+s.state.lists[reputation.OwnHosts].seq != before {
		s.wake()
	}
	s.noteAcked(e.Seq) // once a request is answered, the entry must be there after a restart
	if waiting := s.waiting[e.Seq]; waiting != nil {
		waiting <- out
		delete(s.waiting, e.Seq)
	} else if s.appends > 0 {
		s.early[e.Seq] = out
	}
}

// wake ends the waiting of requests for a change.
func (s *Server) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Invite returns an invitation for one host. The first one makes it an own host, whatever the role; otherwise, a host of the operator has the role
// Own, one that the operator trusts Anchor, and all others Member.
func (s *Server) Invite(ctx context.Context, role reputation.Role) (wire.Invitation, reputation.Role, error) {
	if role == "" {
		role = reputation.Member
		s.mu.Lock()
		if len(s.state.agents) == 0 {
			role = reputation.Own
		}
		s.mu.Unlock()
	}
	inv := wire.Invitation{Server: s.opt.Name, Feed: s.feedKey.Public().(ed25519.PublicKey), Token: make([]byte, 16)}
	_, _ = rand.Read(inv.Token) // never fails
	inv.Pin = wire.PinOf(s.cert.Leaf)
	out, err := s.do(ctx, entry{Invite: &invite{Hash: sha256.Sum256(inv.Token), Role: role, Ends: s.opt.Now().Add(tokenLife)}})
	return inv, role, errors.Join(err, out.err)
}
