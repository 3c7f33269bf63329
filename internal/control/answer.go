package control

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"mef/internal/ban"
	"mef/internal/printable"
)

// What one careless or hostile client of the group can use up.
const (
	maxRequest = 64 << 10 // bytes of a request body
	maxBatch   = 16 << 20 // the same of a batch, of which one is read at a time
	maxFollow  = 16       // event streams at a time, of members and of root each

	// answerTime is within what time a client has to take its answer, and recordTime a record of an event stream.
	answerTime = 30 * time.Second
	// bodyTime is within what time a request must have been sent.
	bodyTime   = 10 * time.Second
	recordTime = 10 * time.Second
)

// limits keep answers that take much memory or time from adding up. Root never waits for members of the group.
type limits struct {
	big, rootBig       chan struct{}
	follow, rootFollow chan struct{}
}

func newLimits() limits {
	return limits{make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{}, maxFollow), make(chan struct{}, maxFollow)}
}

// oneBig serves one request at a time; the others wait, as long as their clients do.
func (l limits) oneBig(serve http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		slot := l.big
		if sender(r).root {
			slot = l.rootBig
		}
		select {
		case slot <- struct{}{}:
			defer func() { <-slot }()
			serve(w, r)
		case <-r.Context().Done():
		}
	}
}

// followed serves maxFollow requests at a time and refuses the others.
func (l limits) followed(serve http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		slots := l.follow
		if sender(r).root {
			slots = l.rootFollow
		}
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			serve(w, r)
		default:
			w.Header().Set("Connection", "close") // its slot is for others
			answer(w, nil, &Error{"too many clients follow the events already; end one, or use ban_log_path"})
		}
	}
}

// answer writes v, or err if there is one.
func answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTime))
	if err != nil {
		status := http.StatusInternalServerError
		refused := new(Error)
		if errors.As(err, &refused) {
			status = http.StatusBadRequest
		}
		w.WriteHeader(status)
		v = &Error{err.Error()}
	}
	// The reader may have disconnected; then nothing reads the error.
	_ = json.NewEncoder(printable.JSON(w)).Encode(v)
}

// stream writes a list, one item after the other, between two pieces of JSON. Encoded as a whole it would be in memory a second time.
func stream[T any](w http.ResponseWriter, before string, items []T, after string) {
	w.Header().Set("Content-Type", "application/json")
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTime))
	out := bufio.NewWriterSize(w, 64<<10)
	out.WriteString(before)
	for i := range items {
		text, err := printable.Marshal(&items[i])
		if err != nil {
			panic(http.ErrAbortHandler) // half an answer must not look whole
		}
		if i > 0 {
			out.WriteByte(',')
		}
		if _, err := out.Write(text); err != nil {
			return // the reader has disconnected
		}
	}
	out.WriteString(after + "\n")
	out.Flush()
}

// follow streams records until the reader goes, or takes none for too long, or the daemon stops.
func follow(w http.ResponseWriter, r *http.Request, s Service) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	rc := http.NewResponseController(w)
	_ = rc.Flush()
	enc := json.NewEncoder(printable.JSON(w))
	_ = s.Follow(r.Context(), func(rec Record) error {
		_ = rc.SetWriteDeadline(time.Now().Add(recordTime))
		if err := enc.Encode(rec); err != nil {
			return err
		}
		return rc.Flush()
	})
}

// ShowPorts is the word for ports in answers.
func ShowPorts(p ban.Ports) string {
	if p == "" {
		return "all"
	}
	return string(p)
}

// Moment is a time in answers: nil for the zero time.
func Moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// ShowBan is a ban in answers, without what the kernel counts.
func ShowBan(b ban.Ban) Ban {
	return Ban{Prefix: ban.Key{Prefix: b.Prefix}.String(), Ports: ShowPorts(b.Ports), Class: b.Class.String(), Rule: b.Rule,
		Service: b.Service, Start: b.Start, Until: Moment(b.Until), Count: b.Count, Reason: b.Reason, Evidence: b.Evidence,
		Author: b.Author, Note: b.Note}
}

// BanRecord is the record of an event about a ban: "ban", "would-ban", "unban" or "error".
func BanRecord(event string, b ban.Ban) Record {
	return Record{Time: b.Start, Event: event, Rule: b.Rule, Service: b.Service, Prefix: b.Key.Prefix.String(),
		Ports: ShowPorts(b.Ports), Class: b.Class.String(), Until: Moment(b.Until), Reason: b.Reason,
		Listed: b.Listed, Evidence: b.Evidence, Author: b.Author, Note: b.Note}
}

// Refuse returns an Error.
func Refuse(format string, args ...any) error { return &Error{Message: fmt.Sprintf(format, args...)} }
