// Package gen writes the mixed log of a busy exposed server, line by line, for benchmarks.
//
// The log consists of dialogues: the messages of a daemon about one connection, one cron job, one mail. A few dozen dialogues
// are open at any time and take turns, so that their lines interleave as they do in a real file. A few attackers are seen
// all the time, and many once (Zipf's law). Everything depends on the seed: the same Config gives the same bytes.
//
// The lines are written from the daemons' own format strings, see dialogues.go.
package gen

import (
	"math/rand/v2"
	"net/netip"
	"strconv"
	"time"
)

// A Service is a group of programs that share a part of the log.
type Service int

// The services, in the order of Shares.
const (
	SSHD Service = iota
	Postfix
	Dovecot
	Cron
	Kernel
	Logind
	Sudo
	services // how many there are
)

// String returns the service's name as on the command line.
func (s Service) String() string {
	return [services]string{"sshd", "postfix", "dovecot", "cron", "kernel", "logind", "sudo"}[s]
}

// Services lists all services in order.
func Services() []Service {
	all := make([]Service, services)
	for i := range all {
		all[i] = Service(i)
	}
	return all
}

// Shares are the shares of the services in the log's lines. Only their ratio counts; a service with share 0 does not appear.
type Shares [services]int

// DefaultShares is the mix of a server that is reachable by SSH and runs a small mail service.
func DefaultShares() Shares {
	return Shares{SSHD: 40, Postfix: 20, Dovecot: 12, Cron: 10, Kernel: 10, Logind: 4, Sudo: 4}
}

// Config describes a log. The zero value of every field but Seed means its default.
type Config struct {
	Seed      uint64
	Attackers int       // how many hostile addresses there are; default 20,000
	Shares    Shares    // default DefaultShares
	Start     time.Time // of the first line; default 2026-01-02 03:04:05 UTC
	PerSecond int       // lines a second by the log's own clock; default 200
	RFC3339   bool      // stamps of RFC 3339 and sshd-session as in Debian 13, instead of RFC 3164 and sshd as in Debian 12
}

// open is the number of dialogues that take turns.
const open = 48

// A Generator writes the lines of one log. It is not safe for concurrent use.
type Generator struct {
	cfg     Config
	rnd     *rand.Rand
	attacks *rand.Zipf // ranks of attackers
	clock   time.Time
	sum     int           // of Shares
	planned [services]int // lines of each service written or waiting in an open dialogue
	total   int           // sum of planned
	talks   [open]talk
	stamp   stamper
}

// A talk is one dialogue in progress, with the values that its lines share.
type talk struct {
	left    []string // templates still to write
	addr    netip.Addr
	user    string // the user name that the client gives
	session string // Dovecot's session, and Postfix's queue ID
	pid     int
	port    int
}

// New returns a generator at the start of its log.
func New(cfg Config) *Generator {
	if cfg.Attackers == 0 {
		cfg.Attackers = 20_000
	}
	if cfg.Shares == (Shares{}) {
		cfg.Shares = DefaultShares()
	}
	if cfg.Start.IsZero() {
		cfg.Start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	}
	if cfg.PerSecond == 0 {
		cfg.PerSecond = 200
	}
	g := &Generator{cfg: cfg, clock: cfg.Start, rnd: rand.New(rand.NewPCG(cfg.Seed, 0x6d6566))}
	g.attacks = rand.NewZipf(g.rnd, 1.1, 20, uint64(cfg.Attackers-1))
	for _, n := range cfg.Shares {
		g.sum += n
	}
	return g
}

// Append appends the next line with its line feed to b, stamped by the log's own clock, and returns the result.
func (g *Generator) Append(b []byte) []byte {
	g.clock = g.clock.Add(time.Duration(g.rnd.Int64N(int64(2*time.Second) / int64(g.cfg.PerSecond))))
	return g.AppendAt(b, g.clock)
}

// AppendAt is Append with the caller's time, for a log that is written live.
func (g *Generator) AppendAt(b []byte, at time.Time) []byte {
	t := &g.talks[g.rnd.IntN(open)]
	if len(t.left) == 0 {
		g.begin(t)
	}
	b = g.stamp.append(b, at, g.cfg.RFC3339)
	b = append(b, " srv1 "...)
	b = g.expand(b, t.left[0], t)
	t.left = t.left[1:]
	return append(b, '\n')
}

// begin fills t with a new dialogue of the service that is furthest behind its share.
func (g *Generator) begin(t *talk) {
	service := g.behind()
	d := g.pick(dialogues[service])
	g.planned[service] += len(d.lines)
	g.total += len(d.lines)
	*t = talk{
		left:    d.lines,
		pid:     1000 + g.rnd.IntN(4_000_000),
		port:    1024 + g.rnd.IntN(64512),
		session: g.token(),
	}
	switch d.client {
	case hostile:
		t.addr = Addr(g.attacks.Uint64())
		t.user = guesses[g.rnd.IntN(len(guesses))]
		if g.rnd.IntN(4) == 0 {
			t.user += strconv.Itoa(g.rnd.IntN(100))
		}
	case stray:
		t.addr = Addr(g.rnd.Uint64N(1 << 24))
	case stray4:
		t.addr = Addr4(g.rnd.Uint64N(1 << 24))
	case friend:
		n := g.rnd.IntN(len(accounts))
		t.user = accounts[n]
		t.addr = netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + n)}) // everybody at home
	}
}

// behind returns the service whose lines are furthest below its share.
func (g *Generator) behind() Service {
	best, most := Service(-1), 0
	for s, share := range g.cfg.Shares {
		if share == 0 {
			continue
		}
		if lack := share*g.total - g.planned[s]*g.sum; best < 0 || lack > most {
			best, most = Service(s), lack
		}
	}
	return best
}

// pick chooses one dialogue by weight.
func (g *Generator) pick(from []dialogue) *dialogue {
	sum := 0
	for i := range from {
		sum += from[i].weight
	}
	n := g.rnd.IntN(sum)
	for i := range from {
		if n -= from[i].weight; n < 0 {
			return &from[i]
		}
	}
	panic("unreachable: the weights add up to more than n")
}

// token returns ten letters and digits, as mail programs name their sessions.
func (g *Generator) token() string {
	const alphabet = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"
	var b [10]byte
	n := g.rnd.Uint64()
	for i := range b {
		b[i] = alphabet[n%uint64(len(alphabet))]
		n /= uint64(len(alphabet))
	}
	return string(b[:])
}

// expand appends template to b with its %-letters replaced.
func (g *Generator) expand(b []byte, template string, t *talk) []byte {
	for i := 0; i < len(template); i++ {
		c := template[i]
		if c != '%' {
			b = append(b, c)
			continue
		}
		i++
		switch template[i] {
		case 'S': // the program that serves one SSH connection: a separate one since OpenSSH 9.8
			b = append(b, "sshd"...)
			if g.cfg.RFC3339 {
				b = append(b, "-session"...)
			}
		case 'i':
			b = strconv.AppendInt(b, int64(t.pid), 10)
		case 'a':
			b = t.addr.AppendTo(b)
		case 'l': // the server's address, of the client's family
			if t.addr.Is6() {
				b = append(b, "2001:db8::10"...)
			} else {
				b = append(b, "198.51.100.10"...)
			}
		case 'p':
			b = strconv.AppendInt(b, int64(t.port), 10)
		case 'u':
			b = append(b, t.user...)
		case 's':
			b = append(b, t.session...)
		case 'd':
			b = strconv.AppendInt(b, int64(1+g.rnd.IntN(9)), 10)
		case 'n':
			b = strconv.AppendInt(b, int64(1000+g.rnd.IntN(60000)), 10)
		default:
			panic("template " + strconv.Quote(template) + ": unknown letter")
		}
	}
	return b
}

// Addr returns the hostile address number n. Different n give different addresses, every twelfth of them IPv6, scattered
// as attackers are; none is private, reserved or for documentation except the IPv6 ones (2001:db8::/32, a /64 each).
func Addr(n uint64) netip.Addr {
	if n%12 == 11 {
		a := [16]byte{0x20, 0x01, 0x0d, 0xb8, 15: 0x42}
		for i, x := 7, n*0x9e3779b1%(1<<32); i >= 4; i, x = i-1, x>>8 { // odd factor: a permutation of the 2^32 /64s
			a[i] = byte(x)
		}
		return netip.AddrFrom16(a)
	}
	return Addr4(n)
}

// Addr4 is Addr without the IPv6 ones, for programs that support only one family at a time.
func Addr4(n uint64) netip.Addr {
	const space = 176 << 24
	x := (n + 1) * 2_654_435_761 % space // a prime factor: a permutation of space
	first := byte(11 + x>>24)
	for _, gap := range [...]byte{100, 127, 169, 172} { // shared, loopback, link-local and private ranges
		if first >= gap {
			first++
		}
	}
	return netip.AddrFrom4([4]byte{first, byte(x >> 16), byte(x >> 8), byte(x)})
}

// A stamper formats times and keeps the part that stays the same within a second.
type stamper struct {
	second int64
	prefix []byte // all but the fraction
	zone   []byte
}

// append appends at to b: "Jan  2 03:04:05" or "2026-01-02T03:04:05.000000+00:00".
func (s *stamper) append(b []byte, at time.Time, rfc3339 bool) []byte {
	if second := at.Unix(); second != s.second || s.prefix == nil {
		s.second = second
		if rfc3339 {
			s.prefix = at.AppendFormat(s.prefix[:0], "2006-01-02T15:04:05")
			s.zone = at.AppendFormat(s.zone[:0], "-07:00")
		} else {
			s.prefix = at.AppendFormat(s.prefix[:0], time.Stamp)
		}
	}
	b = append(b, s.prefix...)
	if !rfc3339 {
		return b
	}
	b = append(b, '.')
	for micro, unit := at.Nanosecond()/1000, 100_000; unit > 0; unit /= 10 {
		b = append(b, byte('0'+micro/unit%10))
	}
	return append(b, s.zone...)
}
