package agent

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	mathrand "math/rand/v2"
	"net/http"
	"slices"
	"time"

	"mef/internal/atomicfile"
	"mef/internal/cloud/wire"
	"mef/internal/conf"
	"mef/internal/webclient"
)

// A host fetches the user names that enough unrelated hosts see attacked, and reports those that it sees attacked itself, never in plain text: see wire.NameBatch.
// A name that exists on the host or is near one that does is not reported; nor is one of eight others, chosen by the key of the host, so that it shows little
// that a name is missing. Own hosts also veto names of the list that exist there.
const (
	namesFile  = "names"   // of listPath
	namesEvery = time.Hour // the list is fetched
	namesDaily = 24 * time.Hour
	leftOut    = 256 / 8 // of 256 names
)

// Names is what an Agent needs of the host's dictionary of user names. It is set before Run.
type Names struct {
	// Attacked returns at most so many names that may be reported, those that most networks try first.
	Attacked func(ctx context.Context, most int) ([]string, error)

	// Users returns all names of the host.
	Users func(ctx context.Context) ([]string, error)

	// Use is called when the list has changed, with a function that reports whether it has a name; nil: there is no list. The function is not for
	// several goroutines at once.
	Use func(ctx context.Context, attacked func(name string) bool)
}

// sharesNames reports whether names are exchanged with the server.
func sharesNames(m *membership, cfg *conf.Community) bool {
	return m != nil && cfg.Names && (cfg.Report || cfg.Protection)
}

// shareNames exchanges names until ctx is done.
func (a *Agent) shareNames(ctx context.Context, m *membership, cfg conf.Community) {
	for failures := 0; ; {
		err := a.exchangeNames(ctx, m, &cfg)
		if ctx.Err() != nil {
			return
		}
		a.note("user names", err)
		wait := namesEvery*3/4 + mathrand.N(namesEvery/4)
		if failures++; err == nil {
			failures = 0
		} else {
			wait = later(failures)
			a.dropOldNames(ctx, time.Now())
		}
		if !pause(ctx, wait) {
			return
		}
	}
}

// exchangeNames fetches the list, and reports names if that is due.
func (a *Agent) exchangeNames(ctx context.Context, m *membership, cfg *conf.Community) error {
	l, data, err := a.fetchNames(ctx, m, "")
	if err != nil {
		return err
	}
	if !a.useNames(ctx, m, l, cfg.Protection) {
		return nil
	}
	if cfg.Protection {
		a.keepNames(m, data)
	}
	if !cfg.Report {
		return nil
	}
	batch, err := a.nameBatch(ctx, m, l)
	if err != nil {
		return err
	}
	a.mu.Lock()
	due := time.Since(m.Named) >= namesDaily || time.Until(m.Named) > 0 // the clock was set back
	a.mu.Unlock()
	if !due {
		batch.Names = nil
	}
	if slices.Contains(m.Lists, ownList) {
		if batch.Own, err = a.vetoes(ctx, m); err != nil {
			return err
		}
	}
	if len(batch.Names)+len(batch.Own) == 0 {
		return nil
	}
	return a.sendNames(ctx, m, batch)
}

// fetchNames gets the list of the server, or with a query the one of names that own hosts can veto.
func (a *Agent) fetchNames(ctx context.Context, m *membership, query string) (l wire.NameList, data []byte, err error) {
	data, err = m.ask(ctx, http.MethodGet, "/v1/names"+query, 0, nil, wire.MaxNameList)
	if err != nil {
		return l, nil, err
	}
	if l, err = wire.DecodeNameList(data, m.server.Feed); err != nil {
		return l, nil, err
	}
	a.mu.Lock()
	before := a.names.At
	a.mu.Unlock()
	return l, data, credibleNames(l, before, time.Now())
}

// credibleNames returns why a list cannot be meant, when the one before has a time.
func credibleNames(l wire.NameList, before, now time.Time) error {
	if l.At.Before(before.Add(-wire.MaxSkew)) {
		return errors.New("the server sends an older list of names than before")
	}
	return timely("list of names", l.At, now)
}

// useNames replaces the list, and has it used if the configuration asks for that. It reports whether the host is still a member.
func (a *Agent) useNames(ctx context.Context, m *membership, l wire.NameList, use bool) bool {
	a.mu.Lock()
	if a.member != m {
		a.mu.Unlock()
		return false
	}
	same := a.namesInUse == use && !a.namesUnheard && a.names.Same(l)
	a.names, a.namesInUse, a.namesOf = l, use, m
	a.mu.Unlock()
	if same || a.Names.Use == nil {
		return true
	}
	if use {
		a.Names.Use(ctx, l.Matcher())
	} else {
		a.Names.Use(ctx, nil)
	}
	a.heard(ctx)
	return true
}

// heard notes whether the engine has heard of the names in use: it may not if the configuration was reloaded meanwhile.
func (a *Agent) heard(ctx context.Context) {
	a.mu.Lock()
	a.namesUnheard = ctx.Err() != nil
	a.mu.Unlock()
}

// forgetNames forgets the list: the host has left the server that signed it, or does not want it.
func (a *Agent) forgetNames(ctx context.Context) {
	a.mu.Lock()
	used := a.namesInUse || a.namesUnheard
	a.names, a.keptNames, a.namesInUse, a.namesOf = wire.NameList{}, wire.NameList{}, false, nil
	a.mu.Unlock()
	if used && a.Names.Use != nil {
		a.Names.Use(ctx, nil)
		a.heard(ctx)
	}
}

// dropOldNames drops a list that is too old.
func (a *Agent) dropOldNames(ctx context.Context, now time.Time) {
	a.mu.Lock()
	old := len(a.names.Weeks) > 0 && now.Sub(a.names.At) > tooOld
	a.mu.Unlock()
	if old {
		a.log.Error("the user names of the community server are older than 48 hours and no longer used")
		a.forgetNames(ctx)
	}
}

// nameBatch returns the names that are to be reported next, with the salt of a list. It does not have Own.
func (a *Agent) nameBatch(ctx context.Context, m *membership, l wire.NameList) (b wire.NameBatch, err error) {
	if a.Names.Attacked == nil {
		return b, nil
	}
	attacked, err := a.Names.Attacked(ctx, 2*wire.MaxNames)
	if err != nil {
		return b, err
	}
	attacked = slices.DeleteFunc(attacked, func(name string) bool { return omits(m, name) })
	hasher := wire.NewNameHasher(l.Weeks[0].Salt)
	b.Week = l.Weeks[0].Week
	for _, name := range attacked[:min(len(attacked), wire.MaxNames)] {
		b.Names = append(b.Names, hasher.Sum(name))
	}
	slices.Sort(b.Names)
	b.Names = slices.Compact(b.Names)
	return b, nil
}

// omits reports whether a name is one that this host never reports: always the same ones, so that many reports show no more than one.
func omits(m *membership, name string) bool {
	mac := hmac.New(sha256.New, m.Key.Seed())
	_, _ = fmt.Fprintf(mac, "mef name %s", name) // never fails
	return mac.Sum(nil)[0] < leftOut
}

// vetoes returns the names of the list that exist on this own host.
func (a *Agent) vetoes(ctx context.Context, m *membership) (own []wire.NameHash, err error) {
	l, _, err := a.fetchNames(ctx, m, "?waiting=1")
	if err != nil || a.Names.Users == nil || l.Len() == 0 {
		return nil, err
	}
	users, err := a.Names.Users(ctx)
	if err != nil {
		return nil, err
	}
	hasher := wire.NewNameHasher(l.Weeks[0].Salt)
	for _, name := range users {
		h := hasher.Sum(name)
		if _, listed := slices.BinarySearch(l.Weeks[0].Names, h); listed {
			own = append(own, h)
		}
	}
	slices.Sort(own)
	own = slices.Compact(own)
	return own[:min(len(own), wire.MaxNames)], nil
}

func (a *Agent) sendNames(ctx context.Context, m *membership, batch wire.NameBatch) error {
	body, err := batch.Encode()
	if err != nil {
		return err
	}
	if _, err = m.ask(ctx, http.MethodPost, "/v1/names", a.nextSeq(m), body, webclient.MaxAnswer); err != nil {
		return err
	}
	if len(batch.Names) == 0 {
		return nil
	}
	a.mu.Lock()
	m.Named, m.NamedCount = time.Now(), len(batch.Names)
	a.mu.Unlock()
	return a.keep(m)
}

// keepNames writes a list that was received, if the one on the disk is another or gets old.
func (a *Agent) keepNames(m *membership, data []byte) {
	a.saving.Lock()
	defer a.saving.Unlock()
	a.mu.Lock()
	due := a.member == m && (!a.keptNames.Same(a.names) || a.names.At.Sub(a.keptNames.At) > listAtMost)
	l := a.names
	a.mu.Unlock()
	if !due {
		return
	}
	err := atomicfile.Write(a.listPath(namesFile), data, 0o600)
	a.note("user names, on the disk", err)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.member == m {
		a.keptNames = l
	}
}

// loadNames reads the list that was kept. One that is damaged, too old or not the server's is not used.
func (a *Agent) loadNames(now time.Time) {
	data, err := readFile(a.listPath(namesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var l wire.NameList
	if err == nil {
		l, err = wire.DecodeNameList(data, a.member.server.Feed)
	}
	if err == nil {
		err = credibleNames(l, time.Time{}, now)
	}
	if err != nil {
		a.log.Warn("community server", "what", "user names", "err", fmt.Errorf("%q is not used: %w", a.listPath(namesFile), err))
		return
	}
	a.names, a.keptNames, a.namesInUse, a.namesOf = l, l, true, a.member
}

// previewNames returns the next report of names, nil if there is none.
func (a *Agent) previewNames(ctx context.Context) (json.RawMessage, error) {
	a.mu.Lock()
	m, l, cfg := a.member, a.names, a.cfg
	a.mu.Unlock()
	if !sharesNames(m, &cfg) || !cfg.Report || len(l.Weeks) == 0 {
		return nil, nil
	}
	b, err := a.nameBatch(ctx, m, l)
	if err != nil || len(b.Names) == 0 {
		return nil, err
	}
	return json.Marshal(b)
}
