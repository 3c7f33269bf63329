package kernel

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"mef/internal/conf"
	"mef/internal/enforce"
	"mef/internal/event"
	"mef/internal/netlink/nflog"
	"mef/internal/netlink/sockdiag"
	"mef/internal/sleep"
)

const (
	// sampleEvery is how often the counters of packets that are not reported are read while packets come, and sampleOld the age from which a
	// reading is too old to compute a rate from it and the next.
	sampleEvery = 2 * time.Second
	sampleOld   = 10 * time.Second
	// listenEvery is how often the listening ports are read, and servedFor how long a port counts as that of a service afterwards.
	listenEvery = time.Hour
	servedFor   = 7 * 24 * time.Hour
	maxServed   = 4096
	// manyReports is how many packets a second are collected by the kernel before it sends them.
	manyReports = 80
	// receiveAgain is how long to wait after the kernel's reports could not be received.
	receiveAgain = 10 * time.Second
)

// A scans is the state of the detection of scans and floods. It may be used by any goroutine.
type scans struct {
	log     *slog.Logger
	changed chan struct{} // holds one message: scan has changed

	receiving *atomic.Bool

	mu      sync.Mutex
	scan    conf.Scan
	flood   bool
	peers   bool
	problem string // why no packets are received; empty if they are
	lost    uint64 // reports that were lost on the way
	served  map[servedPort]time.Time
	before  sample
	latest  sample
}

// A sample is how many packets were not reported until a time.
type sample struct {
	at    time.Time
	count uint64
}

func newScans(log *slog.Logger) scans {
	return scans{log: log, changed: make(chan struct{}, 1), receiving: new(atomic.Bool), served: make(map[servedPort]time.Time)}
}

// want applies settings.
func (s *scans) want(settings Settings) {
	s.mu.Lock()
	s.scan, s.flood = settings.Scan, settings.Flood.Enabled
	s.peers = settings.Peers != ""
	s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

func (s *scans) wanted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.scan.Enabled || s.flood || s.peers
}

func (s *scans) fail(problem string) {
	s.mu.Lock()
	changed := problem != s.problem
	s.problem = problem
	s.mu.Unlock()
	if changed && problem != "" {
		s.log.Warn("port scans and floods are not reported; bans work without that", "reason", problem)
	}
}

// A servedPort is a port of a service.
type servedPort struct {
	protocol event.Protocol
	port     uint16
}

// MarshalText returns the port as "tcp/22".
func (p servedPort) MarshalText() ([]byte, error) {
	return fmt.Appendf(nil, "%s/%d", p.protocol, p.port), nil
}

// UnmarshalText reads what MarshalText returns.
func (p *servedPort) UnmarshalText(text []byte) error {
	name, number, _ := strings.Cut(string(text), "/")
	port, err := strconv.ParseUint(number, 10, 16)
	p.port = uint16(port)
	switch {
	case name == event.TCP.String():
		p.protocol = event.TCP
	case name == event.UDP.String():
		p.protocol = event.UDP
	case err == nil:
		err = fmt.Errorf("unknown protocol %q", name)
	}
	return err
}

// listen reads at which ports sockets listen.
func (s *scans) listen(now time.Time) error {
	c, err := sockdiag.Dial()
	if err != nil {
		return err
	}
	defer c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, kind := range []struct {
		protocol event.Protocol
		states   sockdiag.States
	}{{event.TCP, sockdiag.Listen}, {event.UDP, sockdiag.Close}} {
		err = errors.Join(err, c.Each(byte(kind.protocol), kind.states, nil, func(socket sockdiag.Socket) {
			s.serve(kind.protocol, socket.Local.Port(), now)
		}))
	}
	for key, at := range s.served {
		if now.Sub(at) > servedFor {
			delete(s.served, key)
		}
	}
	return err
}

// serve notes that a service has a port. UDP sockets above are those of clients, each with a port of its own.
func (s *scans) serve(protocol event.Protocol, port uint16, now time.Time) {
	const clients = 32768
	key := servedPort{protocol, port}
	if _, known := s.served[key]; (known || len(s.served) < maxServed) && (protocol == event.TCP || port < clients) {
		s.served[key] = now
	}
}

// RestoreServed restores what Packets saved in an earlier run. It must be called before Packets.
func (k *Kernel) RestoreServed(text string) {
	var served map[servedPort]time.Time
	if json.Unmarshal([]byte(text), &served) != nil || len(served) > maxServed {
		return // nothing was saved
	}
	k.scans.mu.Lock()
	defer k.scans.mu.Unlock()
	for key, at := range served {
		k.scans.served[key] = at
	}
}

// save returns the ports of services as text.
func (s *scans) save() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	text, err := json.Marshal(s.served)
	if err != nil {
		return ""
	}
	return string(text)
}

// closed returns the packets without those to ports of services: clients of a service that is being restarted are not scanning.
func (s *scans) closed(packets []event.Packet) []event.Packet {
	s.mu.Lock()
	defer s.mu.Unlock()
	var left []event.Packet
	for i := range packets {
		_, served := s.served[servedPort{packets[i].Protocol, packets[i].Port}]
		if packets[i].Mark != event.ClosedPort || s.scan.Enabled && !served {
			left = append(left, packets[i])
		}
	}
	return left
}

// Packets passes packets to closed ports, and those of sources that exceed limits, to deliver, while the settings ask for them and until ctx is
// done. It passes the text for RestoreServed to save. While deliver does not return, the kernel keeps some seconds of reports; others are lost
// and counted.
func (k *Kernel) Packets(ctx context.Context, deliver func(context.Context, []event.Packet) error, save func(string)) error {
	s := &k.scans
	hourly := time.NewTicker(listenEvery)
	defer hourly.Stop()
	learn := func() {
		if err := s.listen(time.Now()); err != nil {
			s.log.Warn("read the listening ports", "err", err)
		}
		save(s.save())
	}
	defer learn()
	for first := true; ctx.Err() == nil; first = false {
		running, stop := context.WithCancel(ctx)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			if s.wanted() {
				k.receive(running, deliver)
			} else {
				<-running.Done()
			}
		}()
		if first {
			learn()
		}
		for waiting := true; waiting; {
			select {
			case <-hourly.C:
				learn()
			case <-s.changed:
				waiting = false
			case <-ctx.Done():
				waiting = false
			}
		}
		stop()
		<-ended
	}
	return nil
}

// receive receives packets until ctx is done, and tries again after an error.
func (k *Kernel) receive(ctx context.Context, deliver func(context.Context, []event.Packet) error) {
	for ctx.Err() == nil {
		err := k.receiveFrom(ctx, deliver)
		if ctx.Err() != nil {
			break
		}
		k.scans.fail(err.Error())
		sleep.For(ctx, receiveAgain)
	}
	k.scans.fail("")
}

func (k *Kernel) receiveFrom(ctx context.Context, deliver func(context.Context, []event.Packet) error) error {
	conn, err := nflog.Dial(0, enforce.LogGroup)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	s := &k.scans
	s.fail("")
	s.receiving.Store(true)
	defer s.receiving.Store(false)
	var packets []event.Packet
	var rate rate
	for {
		var lost bool
		if packets, lost, err = conn.Receive(packets[:0]); err != nil {
			return fmt.Errorf("receive packets: %w", err)
		}
		if lost {
			s.mu.Lock()
			s.lost++
			s.mu.Unlock()
		}
		now := time.Now()
		k.sample(now)
		if on, changed := rate.collect(now, len(packets)); changed {
			if err := conn.Collect(on); err != nil {
				return fmt.Errorf("receive packets: %w", err)
			}
		}
		if left := s.closed(packets); len(left) > 0 {
			if err := deliver(ctx, left); err != nil {
				return err
			}
		}
	}
}

// A rate is how many packets came since a time, in seconds of at least one packet each. The zero value has begun with the first.
type rate struct {
	since      time.Time
	n          int
	collecting bool // they are many, so that the kernel collects them
}

// collect counts packets. It reports whether the kernel is to collect them, and whether that is a change.
func (r *rate) collect(now time.Time, packets int) (on, changed bool) {
	r.n += packets
	passed := now.Sub(r.since)
	if passed < time.Second {
		return r.collecting, false
	}
	on = float64(r.n) > manyReports*passed.Seconds() && !r.since.IsZero()
	changed = on != r.collecting
	*r = rate{now, 0, on}
	return on, changed
}

// sample reads how many packets were not reported, unless that was done less than sampleEvery ago.
func (k *Kernel) sample(now time.Time) {
	if !k.scans.stale(now, sampleEvery) {
		return
	}
	if d, err := k.filter.Detection(); err == nil { // the enforcer reports what is wrong with the table
		k.scans.note(now, d)
	}
}

// stale reports whether the latest sample is at least so old.
func (s *scans) stale(now time.Time, age time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return now.Sub(s.latest.at) >= age
}

// note makes a sample of a reading.
func (s *scans) note(now time.Time, d enforce.Detection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before, s.latest = s.latest, sample{now, d.Unadmitted + d.Muted + d.Full + s.lost}
}

// ScanStatus is the state of the detection of scans.
type ScanStatus = enforce.ScanStatus

// ScanStatus returns it.
func (k *Kernel) ScanStatus(now time.Time) ScanStatus {
	d, err := k.filter.Detection()
	s := &k.scans
	if err == nil && s.stale(now, time.Second) {
		s.note(now, d)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st := ScanStatus{On: s.scan.Enabled, Guard: s.flood, Receiving: s.receiving.Load()}
	if st.Guard {
		st.GuardOff = d.FloodOff
		if d.FloodOff == "" && s.problem != "" {
			st.Warnings = append(st.Warnings, "sources that exceed limits are not reported: "+s.problem)
		}
	}
	if s.peers {
		if why := cmp.Or(d.PeersOff, s.problem); why != "" {
			st.Warnings = append(st.Warnings, "block lists are not asked about new connections: "+why)
		}
	}
	if !st.On {
		return st
	}
	st.Off = s.problem
	if err == nil && d.Off != "" {
		st.Off = d.Off
	}
	gap := s.latest.at.Sub(s.before.at)
	if n := s.latest.count - s.before.count; s.latest.count > s.before.count && gap > 0 && gap < sampleOld {
		st.Sampling = fmt.Sprintf("a flood of packets to closed ports: %.0f a second are not examined, so scans may be missed", float64(n)/gap.Seconds())
	}
	st.Warnings = append(st.Warnings, missingInterfaces("ps_interface", s.scan.On)...)
	st.Warnings = append(st.Warnings, missingInterfaces("ps_interface_exclude", s.scan.NotOn)...)
	return st
}

// missingInterfaces returns a warning for each interface of a list that does not exist.
func missingInterfaces(key string, names []string) (warnings []string) {
	for _, name := range names {
		if name == conf.AllInterfaces {
			continue
		}
		var missing *net.OpError
		if _, err := net.InterfaceByName(name); errors.As(err, &missing) && !errors.Is(err, unix.EPERM) {
			warnings = append(warnings, fmt.Sprintf("%s: there is no interface %q now; scans count by this key once it is there", key, name))
		}
	}
	return warnings
}
