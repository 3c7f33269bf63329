package server

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"

	"mef/internal/cloud/reputation"
	"mef/internal/cloud/wire"
)

// nameEntry is what a host has sent of user names.
type nameEntry struct {
	Agent string         `json:"agent"`
	Seq   uint64         `json:"seq"`
	Batch wire.NameBatch `json:"batch"`
}

// names makes a request about user names part of the state.
func (s *state) names(in *nameEntry) error {
	a := s.agents[in.Agent]
	switch {
	case a == nil:
		return reputation.ErrUnknown
	case in.Seq < a.NamesSeq:
		return errCloned
	}
	a.NamesSeq = in.Seq
	return s.book.Names(in.Agent, int64(in.Batch.Week), hashes(in.Batch.Names), hashes(in.Batch.Own))
}

func hashes(all []wire.NameHash) []uint64 {
	out := make([]uint64, len(all))
	for i, h := range all {
		out[i] = uint64(h)
	}
	return out
}

// hotNames returns the hot names of a week.
func (s *state) hotNames(week wire.Week, waiting bool) (out []wire.NameHash) {
	for _, h := range s.book.HotNames(int64(week), wire.MaxHot, waiting) {
		out = append(out, wire.NameHash(h))
	}
	return out
}

// salt returns that of a week: the same on all servers of a log, because they have the same key.
func (s *Server) salt(week wire.Week) wire.Salt {
	mac := hmac.New(sha256.New, s.feedKey.Seed())
	_, _ = mac.Write(binary.BigEndian.AppendUint64([]byte("mef names salt 1\n"), uint64(week))) // never fails
	return wire.Salt(mac.Sum(nil)[:len(wire.Salt{})])
}

// getNames answers a host with the hot user names of this week and the one before. Strangers do not get them: attackers would find out which names to leave out.
// waiting=1 is for own hosts, which can veto those that are not hot yet.
func (s *Server) getNames(w http.ResponseWriter, r *http.Request) {
	_, who, ok := s.signed(w, r, nil)
	if !ok {
		return
	}
	waiting := r.URL.Query().Get("waiting") == "1"
	if waiting && who.Role != reputation.Own {
		wire.WriteProblem(w, http.StatusForbidden, "names that wait for a veto are for hosts of the operator")
		return
	}
	l := wire.NameList{At: s.opt.Now()}
	now := wire.WeekOf(l.At)
	s.mu.Lock()
	for _, week := range []wire.Week{now, now - 1} {
		l.Weeks = append(l.Weeks, wire.NameWeek{Week: week, Salt: s.salt(week), Names: s.state.hotNames(week, waiting)})
	}
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(l.Encode(s.feedKey))
}

// postNames takes hashes of user names that a host sees attacked.
func (s *Server) postNames(w http.ResponseWriter, r *http.Request) {
	text, a, who, ok := s.signedBody(w, r)
	if !ok {
		return
	}
	batch, err := wire.DecodeNames(text)
	if err == nil && batch.Week != wire.WeekOf(s.opt.Now()) {
		err = reputation.ErrWeek
	}
	if err == nil && len(batch.Own) > 0 && who.Role != reputation.Own {
		err = errors.New("only hosts of the operator send names that exist there")
	}
	if err != nil {
		wire.WriteProblem(w, http.StatusBadRequest, err.Error())
		return
	}
	if err := s.settle(r, who); s.failed(w, outcome{}, err) {
		return
	}
	out, err := s.do(r.Context(), entry{Names: &nameEntry{Agent: a.ID, Seq: a.Seq, Batch: batch}})
	if err == nil && (errors.Is(out.err, reputation.ErrQuota) || errors.Is(out.err, reputation.ErrFull)) {
		w.Header().Set("Retry-After", "86400")
		wire.WriteProblem(w, http.StatusTooManyRequests, fmt.Sprintf("some of the names were not taken: %v; send names once a day", out.err))
		return
	}
	if s.failed(w, out, err) {
		return
	}
	answer(w, http.StatusAccepted, wire.Receipt{Accepted: len(batch.Names) + len(batch.Own)})
}
