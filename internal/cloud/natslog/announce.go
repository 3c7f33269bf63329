package natslog

import (
	"fmt"

	"github.com/nats-io/nats.go"
)

// announced is the subject of messages that are not kept.
const announced = "mefcloud.now"

// Announce sends a message to all servers of the log that listen now, this one included. It is not kept, and needs neither a disk nor a leader of
// the cluster.
func (l *Log) Announce(data []byte) error {
	if err := l.conn.Publish(announced, data); err != nil {
		return fmt.Errorf("announce: %w", err)
	}
	return nil
}

// Listen calls f with each announcement until the log is closed. f must not wait.
func (l *Log) Listen(f func(data []byte)) error {
	if _, err := l.conn.Subscribe(announced, func(m *nats.Msg) { f(m.Data) }); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	return nil
}
