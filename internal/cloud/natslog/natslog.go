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
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	broker "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	stream  = "MEFCLOUD"
	subject = "mefcloud.log"
	patient = 30 * time.Second
)

// Options of a Log.
type Options struct {
	Dir   string   // of the broker's files
	URLs  []string // of a NATS cluster; none: the broker runs in this process
	New   bool     // the log may have to be made
	First uint64   // number of the first entry of a log that is made; 0 means 1
}

// A Log is an open log. Its methods can be called from any goroutine.
type Log struct {
	broker *broker.Server // nil: a cluster
	conn   *nats.Conn
	js     jetstream.JetStream
	stream jetstream.Stream
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
			l.Close()
		}
	}()
	if len(opt.URLs) == 0 {
		err = l.embed(opt.Dir)
	} else {
		l.conn, err = nats.Connect(strings.Join(opt.URLs, ","), nats.Name("mefcloud"), nats.MaxReconnects(-1), nats.RetryOnFailedConnect(false), nats.Timeout(5*time.Second))
	}
	if err != nil {
		return nil, fmt.Errorf("NATS: %w", err)
	}
	if l.js, err = jetstream.New(l.conn); err != nil {
		return nil, fmt.Errorf("NATS: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, patient)
	defer cancel()
	l.stream, err = l.js.Stream(ctx, stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) && opt.New {
		l.stream, err = l.js.CreateStream(ctx, config(opt))
	}
	if err != nil {
		return nil, fmt.Errorf("stream %s of NATS: %w", stream, err)
	}
	return l, nil
}

func config(opt Options) jetstream.StreamConfig {
	cfg := jetstream.StreamConfig{Name: stream, Description: "log of mefcloud", Subjects: []string{subject}, Storage: jetstream.FileStorage,
		Compression: jetstream.S2Compression, FirstSeq: cmp.Or(opt.First, 1), DenyDelete: true, MaxMsgSize: 1 << 20}
	if len(opt.URLs) > 0 {
		cfg.Replicas, cfg.MaxAge = 3, 30*24*time.Hour // a server that is behind by more needs a backup of another one
	}
	return cfg
}

// embed starts a broker in this process.
func (l *Log) embed(dir string) (err error) {
	l.broker, err = broker.NewServer(&broker.Options{ServerName: "mefcloud", DontListen: true, JetStream: true, StoreDir: filepath.Join(dir, "nats"), SyncAlways: true,
		NoSigs: true, NoLog: true, JetStreamMaxMemory: 16 << 20, JetStreamMaxStore: 1 << 40})
	if err != nil {
		return err
	}
	l.broker.Start()
	if !l.broker.ReadyForConnections(patient) {
		return fmt.Errorf("the broker does not start; another mefcloud may use %q, or its files are damaged", dir)
	}
	l.conn, err = nats.Connect("", nats.InProcessServer(l.broker))
	return err
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

// Append adds an entry, and returns its number once it is kept. After an error it may or may not be.
func (l *Log) Append(ctx context.Context, data []byte) (seq uint64, err error) {
	ack, err := l.js.Publish(ctx, subject, data)
	if err != nil {
		return 0, fmt.Errorf("log: %w", err)
	}
	return ack.Sequence, nil
}

// Bounds returns the numbers of the first and the last entry. Those of an empty log differ by one: first is the number of the next entry.
func (l *Log) Bounds(ctx context.Context) (first, last uint64, err error) {
	info, err := l.stream.Info(ctx)
	if err != nil {
		return 0, 0, fmt.Errorf("log: %w", err)
	}
	return info.State.FirstSeq, info.State.LastSeq, nil
}

// Read calls f with each entry from a number on, those included that are appended meanwhile, until ctx is done or f fails. It fails if an entry is
// missing.
func (l *Log) Read(ctx context.Context, from uint64, f func(Entry) error) error {
	c, err := l.js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from})
	var messages jetstream.MessagesContext
	if err == nil {
		messages, err = c.Messages()
	}
	switch {
	case ctx.Err() != nil && err != nil:
		return nil
	case err != nil:
		return fmt.Errorf("log: %w", err)
	}
	defer context.AfterFunc(ctx, messages.Stop)()
	defer messages.Stop()
	for next := from; ; next++ {
		m, err := messages.Next()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("log: %w", err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("log: %w", err)
		}
		if meta.Sequence.Stream != next {
			return fmt.Errorf("log: entry %d is missing; the next one is %d", next, meta.Sequence.Stream)
		}
		if err := f(Entry{next, meta.Timestamp, m.Data()}); err != nil {
			return err
		}
	}
}

// Forget removes the entries before a number.
func (l *Log) Forget(ctx context.Context, before uint64) error {
	if err := l.stream.Purge(ctx, jetstream.WithPurgeSequence(before)); err != nil {
		return fmt.Errorf("log: %w", err)
	}
	return nil
}
