package wire

import (
	"bufio"
	"errors"
	"io"
	"strings"
)

// A Message is one event of a stream (text/event-stream).
type Message struct {
	ID   string // empty: it has none
	Name string // empty: "message"
	Data string
}

// maxMessage bounds a line of a stream.
const maxMessage = 16 << 10

// ReadStream calls f with each message of a stream until it ends or f fails, and alive with each line, comments too.
func ReadStream(r io.Reader, alive func(), f func(Message) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 1<<10), maxMessage)
	var m Message
	for lines.Scan() {
		alive()
		line := strings.TrimSuffix(lines.Text(), "\r")
		if line == "" {
			if m.Data != "" {
				if err := f(m); err != nil {
					return err
				}
			}
			m = Message{}
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "id":
			m.ID = value
		case "event":
			m.Name = value
		case "data":
			if m.Data != "" {
				return errors.New("the stream of the server has a message of several lines")
			}
			m.Data = value
		}
	}
	return lines.Err()
}
