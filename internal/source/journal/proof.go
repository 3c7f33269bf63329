package journal

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"time"
)

// A journal is read only if what is logged arrives. journald may store nothing (Storage=none), its files may be unreadable, journalctl
// may hang: all of that looks like a quiet host. So the follower logs an entry of its own from time to time, and whenever somebody
// asks, and waits for it to come back. How long that takes is also the true lag: it includes the entries of others that journald had to
// write first.
const (
	proofEvery   = time.Minute
	proofTimeout = 10 * time.Second // without the entry and without any other, journalctl is restarted
	awaitProof   = 2 * time.Second  // so long somebody who asks waits for a new one
)

// FreshProof is how old the last proof may be for somebody who asks.
const FreshProof = 5 * time.Second

// proofIdentifier is the SYSLOG_IDENTIFIER of the follower's own entries.
const proofIdentifier = "mefdaemon-proof"

// A prover logs entries and records which of them came back.
type prover struct {
	socket string
	token  string // in the entries of this follower alone; users do not have it before it is logged

	mu     sync.Mutex
	sent   uint64        // number of the last entry
	sentAt time.Time     // of the oldest entry that has not come back; zero: none is under way
	failed error         // why the last entry could not be sent
	back   time.Time     // when an entry last came back; zero: never
	moved  time.Time     // when anything last came from journalctl
	came   chan struct{} // closed when an entry comes back
}

func newProver(socket string) *prover {
	return &prover{socket: cmp.Or(socket, "/run/systemd/journal/socket"), token: rand.Text(), came: make(chan struct{})}
}

// send logs an entry. journald that does not receive is given a second.
func (p *prover) send(now time.Time) {
	p.mu.Lock()
	p.sent++
	n := p.sent
	if p.sentAt.IsZero() {
		p.sentAt = now
	}
	p.mu.Unlock()
	err := p.log(fmt.Sprintf("PRIORITY=7\nSYSLOG_IDENTIFIER=%s\nMESSAGE=%s\n", proofIdentifier, p.message(n)))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failed = err
}

func (p *prover) message(n uint64) string {
	return "The journal is read: " + p.token + " " + strconv.FormatUint(n, 10)
}

// log sends an entry in journald's own protocol.
func (p *prover) log(entry string) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: p.socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	_, err = conn.Write([]byte(entry))
	return err
}

// take reports whether an entry is one of the prover's own, and notes that it came back.
func (p *prover) take(e *entry, now time.Time) bool {
	if string(e.Identifier) != proofIdentifier || e.UID != uint32(os.Geteuid()) {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if string(e.message) == p.message(p.sent) {
		p.sentAt, p.back = time.Time{}, now
		close(p.came)
		p.came = make(chan struct{})
	}
	return true
}

// read notes that journalctl is alive.
func (p *prover) read(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.moved = now
}

// A verdict is the result of a prover.
type verdict struct {
	proven bool          // entries come back
	silent bool          // for a while, nothing came at all
	late   time.Duration // how long an entry has been under way; 0: none is
	err    error         // why entries cannot even be sent
}

func (p *prover) verdict(now time.Time) verdict {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := verdict{proven: !p.back.IsZero(), err: p.failed}
	if !p.sentAt.IsZero() {
		v.late = now.Sub(p.sentAt)
		v.silent = v.late > proofTimeout && now.Sub(p.moved) > proofTimeout
	}
	return v
}

// restart forgets what is under way, because a new journalctl is to prove itself.
func (p *prover) restart(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.moved = now
}

// errSilent reports that a journalctl was stopped because nothing came from it.
var errSilent = errors.New("entries written to the journal cannot be read back: see Storage= in journald.conf(5), and whether the daemon may read the journal (group systemd-journal)")

// prove keeps proving until ctx is done, and stops a journalctl from which nothing comes.
func (f *Follower) prove(ctx context.Context) {
	next := time.NewTimer(0)
	defer next.Stop()
	var sent time.Time
	for {
		asked := false
		select {
		case <-ctx.Done():
			return
		case <-f.asked:
			asked = true
		case <-next.C:
		}
		now := time.Now()
		v := f.proof.verdict(now)
		if v.silent && !f.waiting.Load() {
			f.interrupt(errSilent)
			f.proof.restart(now)
		}
		switch {
		case v.late > proofTimeout, v.late == 0 && (asked || now.Sub(sent) >= proofEvery):
			f.proof.send(now)
			sent = now
			next.Reset(proofTimeout + time.Second) // then it is back, or overdue
		case v.late > 0:
			next.Reset(proofTimeout + time.Second - v.late)
		default:
			next.Reset(proofEvery - now.Sub(sent))
		}
	}
}

// Prove has an entry go through the journal and returns once it came back, or after two seconds. A proof of the last five seconds
// will do. Status then reports what is known.
func (f *Follower) Prove(ctx context.Context) {
	f.proof.mu.Lock()
	came, fresh := f.proof.came, time.Since(f.proof.back) < FreshProof && f.proof.sentAt.IsZero()
	f.proof.mu.Unlock()
	if fresh {
		return
	}
	select {
	case f.asked <- struct{}{}:
	default:
	}
	limit := time.NewTimer(awaitProof)
	defer limit.Stop()
	select {
	case <-came:
	case <-limit.C:
	case <-ctx.Done():
	}
}

// judge adds the result of the proof to a status.
func (v verdict) judge(s *Status) {
	switch {
	case s.State == Waiting:
	case v.err != nil:
		s.State, s.Reason = Waiting, "journald does not take entries: "+v.err.Error()
	case !v.proven:
		s.State, s.Reason = Waiting, "no entry was read back from it yet"
	case v.silent:
		s.State, s.Reason = Waiting, errSilent.Error()
	}
	if v.late > time.Second {
		s.Lag = max(s.Lag, v.late)
	}
}
