package nftset

import (
	"log/slog"

	"mef/internal/enforce"
)

// Pretend makes the backend behave as on a kernel with other features.
func (b *Backend) Pretend(f Features) { b.features = f }

// Lacking is NewIn on a kernel that refuses messages; see nfnl.Conn.Refuse.
func Lacking(refuse func([]byte) error, netns int, log *slog.Logger, settings enforce.Settings) (*Backend, error) {
	c, err := dial(netns)
	if err != nil {
		return nil, err
	}
	c.Refuse(refuse)
	return newOver(c, netns, log, settings)
}

// Narrow makes transactions of more than n bytes fail, as in a user namespace.
func (b *Backend) Narrow(n int) {
	b.conn.SetRoom(n)
}

// Undisturbed is the check that Watch makes when it begins to listen.
func (b *Backend) Undisturbed() bool { return b.undisturbed() }

// PauseListener pauses the listener as Apply does for many elements.
func (b *Backend) PauseListener(elements int) (resume func()) { return b.pauseListener(elements) }

// Sever closes all connections of the backend without its knowledge.
func (b *Backend) Sever() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.listener != nil {
		b.listener.Close()
	}
	for _, c := range []*conn{b.conn, b.finder.conn, b.lister.conn} {
		if c != nil {
			c.Sever()
		}
	}
}
