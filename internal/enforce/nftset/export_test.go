package nftset

// Pretend makes the backend behave as on a kernel with other features.
func (b *Backend) Pretend(f Features) { b.features = f }

// Narrow makes transactions of more than n bytes fail, as in a user namespace.
func (b *Backend) Narrow(n int) {
	b.conn.SetRoom(n)
}

// Undisturbed is what Watch asks when it begins to listen.
func (b *Backend) Undisturbed() bool { return b.undisturbed() }

// PauseListener is what Apply does around many elements.
func (b *Backend) PauseListener(elements int) (resume func()) { return b.pauseListener(elements) }

// Sever closes all connections under the backend's feet.
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
