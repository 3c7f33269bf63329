// Package natslog is an append-only log of a community server, kept by NATS JetStream.
//
// Without addresses, the broker runs within the process: it keeps its files below a directory, opens no port, and an entry is on the disk before Append
// returns. With addresses, the log is a stream with three replicas of a NATS cluster, shared by all servers that use it; how soon the cluster
// writes to its disks is set there (sync_interval).
//
// Each entry has a number and a time, which the broker assigns: all readers see the same entries in the same order with the same times.
package natslog

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	broker "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	stream    = "MEFCLOUD"
	subject   = "mefcloud.log"
	owner     = "mefcloud-owner" // in the metadata of the stream
	patient   = 30 * time.Second // until a log must be open
	attempt   = 2 * time.Second  // of a request to a cluster
	again     = 100 * time.Millisecond
	heartbeat = time.Second // of the reader
)

// Options of a Log.
type Options struct {
	Dir   string   // of the broker's files
	URLs  []string // of a NATS cluster; none: the broker runs in this process
	Owner string   // whose log it is: a log of another owner is not opened
	New   bool     // the log may have to be made
	First uint64   // number of the first entry of a log that is made; 0 means 1
}

// A Log is an open log. Its methods can be called from any goroutine.
type Log struct {
	broker  *broker.Server // nil: a cluster
	faults  faults
	conn    *nats.Conn
	js      jetstream.JetStream
	stream  jetstream.Stream
	mu      sync.Mutex
	renewed time.Time // when the last request succeeded, or another server of the cluster was chosen
}

// An Entry is one of the log.
type Entry struct {
	Seq  uint64
	Time time.Time
	Data []byte
}

// Open opens a log. It fails if there is none and none may be made.
func Open(ctx context.Context, opt Options) (_ *Log, err error) {
	l := new(Log)
	defer func() {
		if err != nil {
			err = l.faults.explain(err)
			l.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, patient)
	defer cancel()
	if len(opt.URLs) == 0 {
		err = l.embed(opt.Dir)
	} else {
		err = l.connect(ctx, opt.URLs)
	}
	if err != nil {
		return nil, fmt.Errorf("NATS: %w", err)
	}
	if l.js, err = jetstream.New(l.conn); err != nil {
		return nil, fmt.Errorf("NATS: %w", err)
	}
	err = l.insist(ctx, func(ctx context.Context) error {
		l.stream, err = l.js.Stream(ctx, stream)
		if errors.Is(err, jetstream.ErrStreamNotFound) && opt.New {
			l.stream, err = l.js.CreateStream(ctx, config(opt))
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("stream %s of NATS: %w", stream, err)
	}
	if of := l.stream.CachedInfo().Config.Metadata[owner]; of != "" && of != opt.Owner {
		return nil, fmt.Errorf("stream %s of NATS is the log of another community server, %q", stream, of)
	}
	return l, nil
}

func config(opt Options) jetstream.StreamConfig {
	cfg := jetstream.StreamConfig{Name: stream, Description: "log of mefcloud", Subjects: []string{subject}, Storage: jetstream.FileStorage,
		Compression: jetstream.S2Compression, FirstSeq: cmp.Or(opt.First, 1), DenyDelete: true, MaxMsgSize: 1 << 20, Metadata: map[string]string{owner: opt.Owner}}
	if len(opt.URLs) > 0 {
		cfg.Replicas, cfg.MaxAge = 3, 30*24*time.Hour // a server that is behind by more needs a backup of another one
		cfg.Duplicates = time.Minute                  // longer than anyone tries to append an entry
	}
	return cfg
}

// embed starts a broker in this process.
func (l *Log) embed(dir string) (err error) {
	dir = filepath.Join(dir, "nats")
	l.broker, err = broker.NewServer(&broker.Options{ServerName: "mefcloud", DontListen: true, JetStream: true, StoreDir: dir, SyncAlways: true,
		NoSigs: true, NoLog: true, JetStreamMaxMemory: 16 << 20, JetStreamMaxStore: 1 << 40})
	if err != nil {
		return err
	}
	l.faults.dir = dir
	l.broker.SetLogger(&l.faults, false, false)
	l.broker.Start()
	if !l.broker.ReadyForConnections(patient) {
		return fmt.Errorf("the broker does not start; another mefcloud may use %q, or its files are damaged", dir)
	}
	l.conn, err = nats.Connect("", nats.InProcessServer(l.broker))
	return err
}

// connect connects to a cluster. A server that hangs is noticed by pings.
func (l *Log) connect(ctx context.Context, urls []string) error {
	for {
		conn, err := nats.Connect(strings.Join(urls, ","), nats.Name("mefcloud"), nats.MaxReconnects(-1), nats.ReconnectWait(again), nats.ReconnectJitter(again, again),
			nats.ReconnectBufSize(-1), nats.Timeout(attempt), nats.PingInterval(attempt), nats.MaxPingsOutstanding(2), nats.NoCallbacksAfterClientClose())
		if err == nil {
			l.conn = conn
			return nil
		}
		if !pause(ctx, again) {
			return err
		}
	}
}

// insist repeats a request to a cluster, which may be choosing a leader, until it succeeds or ctx is done. A broker in this process is asked once.
func (l *Log) insist(ctx context.Context, request func(context.Context) error) error {
	for {
		try, cancel := context.WithTimeout(ctx, attempt)
		if l.broker != nil {
			try = ctx
		}
		err := request(try)
		cancel()
		switch {
		case err == nil:
			l.mu.Lock()
			l.renewed = time.Now()
			l.mu.Unlock()
			return nil
		case l.broker != nil, errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, jetstream.ErrStreamNameAlreadyInUse):
			return err
		}
		l.renew()
		if !pause(ctx, again) {
			return err
		}
	}
}

// renew changes to another server of a cluster if nothing has succeeded for a while: this one may be separated from the others, or hang.
func (l *Log) renew() {
	l.mu.Lock()
	due := time.Since(l.renewed) > 2*attempt
	if due {
		l.renewed = time.Now()
	}
	l.mu.Unlock()
	if due && l.broker == nil {
		_ = l.conn.ForceReconnect() // fails if the connection is closed
	}
}

func pause(ctx context.Context, wait time.Duration) bool {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// Close ends the use of the log. What was appended stays.
func (l *Log) Close() {
	if l.conn != nil {
		l.conn.Close()
	}
	if l.broker != nil {
		l.broker.Shutdown()
		l.broker.WaitForShutdown()
	}
}

// Append adds an entry, and returns its number once it is kept. After an error it may or may not be. With a cluster it is repeated until it is kept or
// ctx is done, and added once in any case.
func (l *Log) Append(ctx context.Context, data []byte) (seq uint64, err error) {
	var opts []jetstream.PublishOpt
	if l.broker == nil {
		opts = append(opts, jetstream.WithMsgID(rand.Text()), jetstream.WithRetryAttempts(0))
	}
	err = l.insist(ctx, func(ctx context.Context) error {
		ack, err := l.js.Publish(ctx, subject, data, opts...)
		if err == nil {
			seq = ack.Sequence
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("log: %w", err)
	}
	return seq, nil
}

// Bounds returns the numbers of the first and the last entry. Those of an empty log differ by one: first is the number of the next entry.
func (l *Log) Bounds(ctx context.Context) (first, last uint64, err error) {
	err = l.insist(ctx, func(ctx context.Context) error {
		info, err := l.stream.Info(ctx)
		if err == nil {
			first, last = info.State.FirstSeq, info.State.LastSeq
		}
		return err
	})
	if err != nil {
		return 0, 0, fmt.Errorf("log: %w", err)
	}
	return first, last, nil
}

// Read calls f with each entry from a number on, those included that are appended meanwhile, until ctx is done or f fails. It fails if an entry is
// missing, and goes on after any other trouble.
func (l *Log) Read(ctx context.Context, from uint64, f func(Entry) error) error {
	for next := from; ; {
		err := l.read(ctx, &next, f)
		var final *finalError
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &final):
			return final.error
		}
		l.renew()
		if !pause(ctx, again) {
			return nil
		}
	}
}

// A finalError is one that reading again does not cure.
type finalError struct{ error }

// read reads from one consumer, from next on, until it fails.
func (l *Log) read(ctx context.Context, next *uint64, f func(Entry) error) error {
	c, err := l.js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: *next, MaxResetAttempts: 1})
	if err != nil {
		return err
	}
	messages, err := c.Messages(jetstream.PullHeartbeat(heartbeat), jetstream.PullExpiry(10*heartbeat))
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, messages.Stop)()
	defer messages.Stop()
	for {
		m, err := messages.Next()
		if err != nil {
			return err
		}
		meta, err := m.Metadata()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		case meta.Sequence.Stream < *next: // of a consumer that began again
			continue
		case meta.Sequence.Stream > *next:
			return &finalError{l.faults.explain(fmt.Errorf("log: entry %d is missing; the next one is %d", *next, meta.Sequence.Stream))}
		}
		if err := f(Entry{*next, meta.Timestamp, m.Data()}); err != nil {
			return &finalError{err}
		}
		*next++
	}
}

// Explain adds what the broker has said about its files to an error.
func (l *Log) Explain(err error) error { return l.faults.explain(err) }

// Forget removes the entries before a number.
func (l *Log) Forget(ctx context.Context, before uint64) error {
	if err := l.stream.Purge(ctx, jetstream.WithPurgeSequence(before)); err != nil {
		return fmt.Errorf("log: %w", err)
	}
	return nil
}
