package ipset

import (
	"log/slog"
	"time"

	"mef/internal/enforce"
)

// Form is NewIn with one form of iptables, such as "iptables-legacy".
func Form(name string, netns int, log *slog.Logger, settings enforce.Settings) (*Backend, error) {
	return Lacking(nil, name, netns, log, settings)
}

// Lacking is Form on a kernel that refuses messages about sets; see nfnl.Conn.Refuse.
func Lacking(refuse func([]byte) error, name string, netns int, log *slog.Logger, settings enforce.Settings) (*Backend, error) {
	c, err := dial(netns)
	if err != nil {
		return nil, err
	}
	c.Refuse(refuse)
	return newOver(c, netns, log, settings, []string{name})
}

// SetLongest makes the kernel hold elements no longer than that.
func (b *Backend) SetLongest(d time.Duration) { b.longest = uint64(d / time.Second) }

// SetMaxElem bounds the sets of bans from the next Rebuild on.
func (b *Backend) SetMaxElem(n uint32) { b.maxElem = n }

// Sever closes all connections of the backend without its knowledge.
func (b *Backend) Sever() {
	b.write.Lock()
	defer b.write.Unlock()
	b.read.Lock()
	defer b.read.Unlock()
	b.conn.Sever()
	b.reader.Sever()
}
