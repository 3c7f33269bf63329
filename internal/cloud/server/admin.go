package server

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"mef/internal/cloud/reputation"
	"mef/internal/cloud/wire"
)

// listenAdmin listens for the other commands of mefcloud. The directory is for the server's user only.
func listenAdmin(path string) (net.Listener, error) {
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, errors.New("another mefcloud serves this directory")
	} else if errors.Is(err, syscall.ECONNREFUSED) { // left by one that was killed
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	return net.Listen("unix", path)
}

// An Agent is a host as mefcloud agents shows it.
type Agent struct {
	ID       string          `json:"id"`
	Name     string          `json:"name,omitempty"` // of an own host
	Role     reputation.Role `json:"role"`
	Shared   int             `json:"shared"`          // bans of an own host in this hour
	Quota    int             `json:"quota,omitempty"` // how many it may make
	System   string          `json:"system"`
	Trust    float64         `json:"trust"`
	Reports  uint64          `json:"reports"`
	Enrolled time.Time       `json:"enrolled"`
	Last     time.Time       `json:"last,omitzero"` // report
	Revoked  bool            `json:"revoked,omitempty"`
}

// An Appeal is a listing that reporters contest, or that was.
type Appeal struct {
	Address string    `json:"address"`
	Ends    time.Time `json:"ends"` // then its reporters lose trust
}

// An Invited is an invitation and what it makes of a host.
type Invited struct {
	Invitation string          `json:"invitation"`
	Role       reputation.Role `json:"role"`
}

// adminRoutes answers the other commands of mefcloud, whose texts it returns as problem documents.
func (s *Server) adminRoutes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /invite", func(w http.ResponseWriter, r *http.Request) {
		role := reputation.Role(r.URL.Query().Get("role"))
		inv, role, err := s.Invite(r.Context(), role)
		if err != nil {
			wire.WriteProblem(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		answer(w, http.StatusOK, Invited{inv.String(), role})
	})
	mux.HandleFunc("GET /agents", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, s.agents()) })
	mux.HandleFunc("GET /appeals", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, s.appeals()) })
	mux.HandleFunc("POST /revoke", func(w http.ResponseWriter, r *http.Request) {
		id, err := s.agentOf(r.URL.Query().Get("id"))
		if err != nil {
			wire.WriteProblem(w, http.StatusNotFound, err.Error())
			return
		}
		out, err := s.do(r.Context(), entry{Revoke: &id})
		if !s.failed(w, out, err) {
			answer(w, http.StatusOK, struct{}{})
		}
	})
	mux.HandleFunc("POST /quota", func(w http.ResponseWriter, r *http.Request) {
		q := quota{}
		var err error
		if name := r.URL.Query().Get("id"); name != "" {
			if q.Agent, err = s.agentOf(name); err != nil {
				wire.WriteProblem(w, http.StatusNotFound, err.Error())
				return
			}
		}
		if q.Bans, err = strconv.Atoi(r.URL.Query().Get("bans")); err != nil || q.Bans < 1 || q.Bans > maxQuota {
			wire.WriteProblem(w, http.StatusBadRequest, fmt.Sprintf("a quota is a number from 1 to %d", maxQuota))
			return
		}
		out, err := s.do(r.Context(), entry{Quota: &q})
		if !s.failed(w, out, err) {
			answer(w, http.StatusOK, struct{}{})
		}
	})
	mux.HandleFunc("POST /clear", func(w http.ResponseWriter, r *http.Request) {
		addr, err := netip.ParseAddr(r.URL.Query().Get("address"))
		if err != nil {
			wire.WriteProblem(w, http.StatusBadRequest, "this is not an address; write it like 192.0.2.7 or 2001:db8::7")
			return
		}
		out, err := s.do(r.Context(), entry{Clear: &addr})
		if !s.failed(w, out, err) {
			answer(w, http.StatusOK, struct{}{})
		}
	})
	s.neverRoutes(mux)
	mux.HandleFunc("GET /backup", func(w http.ResponseWriter, _ *http.Request) {
		data, err := s.Backup()
		if err != nil {
			wire.WriteProblem(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		_, _ = w.Write(data)
	})
	return mux
}

// agentOf returns the ID of a host that is named by it, or of the own host of a name.
func (s *Server) agentOf(name string) (id string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.agents[name] != nil {
		return name, nil
	}
	for of, h := range s.state.fleet.Hosts {
		if h.Name != name {
			continue
		}
		if id != "" {
			return "", fmt.Errorf("several hosts are called %s; use the first column of mefcloud agents", name)
		}
		id = of
	}
	if id == "" {
		err = errors.New("no host has this name; see mefcloud agents")
	}
	return id, err
}

func (s *Server) agents() []Agent {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := []Agent{} // programs that read JSON want a list, if an empty one
	for _, r := range s.state.book.Reporters() {
		a := s.state.agents[r.ID]
		if a == nil {
			continue
		}
		one := Agent{ID: r.ID, Role: r.Role, System: r.System, Trust: r.Trust(), Reports: a.Reports, Enrolled: a.Enrolled, Last: a.Last, Revoked: r.Revoked}
		if r.Role == reputation.Own {
			st := s.state.fleet.state(r.ID, s.opt.Now())
			one.Shared, one.Quota = st.Used, st.Quota
			if h := s.state.fleet.Hosts[r.ID]; h != nil {
				one.Name = h.Name
			}
		}
		all = append(all, one)
	}
	return all
}

func (s *Server) appeals() []Appeal {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := []Appeal{}
	for p, ends := range s.state.book.Open() {
		all = append(all, Appeal{p.String(), ends.Time()})
	}
	slices.SortFunc(all, func(a, b Appeal) int { return strings.Compare(a.Address, b.Address) })
	return all
}
