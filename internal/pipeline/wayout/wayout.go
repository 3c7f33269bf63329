// Package wayout decides whether a blocked customer may lift the ban of his address: by a code of support, or by a sum.
//
// A code is made by an operator for one address (IPv6: its /64, in which a client changes its address) and works once. A sum is for everybody
// who can add two numbers, so it only keeps scripts out that nobody wrote for this page: what bounds it is how often an address, and all
// addresses together, may use one in a day. A question is not kept: it is in the token of its form, signed with a key of this run.
//
// Codes and the counts of the day outlive a restart: each change is saved as a text.
package wayout

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

// CodeTime is how long a code works.
const CodeTime = time.Hour

// Limits of codes. A code is void after wrongCodes wrong ones.
const (
	wrongCodes = 5
	maxCodes   = 1000
	// wrongDay is how many wrong codes an address may try in a day at which it has codes, and wrongDays how many all may.
	wrongDay, wrongDays = 20, 1000
)

// Limits of sums. A form is good for sumTime; an address may give wrongSums wrong answers a day.
const (
	sumTime   = 10 * time.Minute
	wrongSums = 20
	maxPeople = 10_000 // addresses with a wrong answer in a day
)

// Why an answer does not lift the ban.
var (
	ErrCode = errors.New("the code is wrong, was used, or is too old")
	ErrSum  = errors.New("the answer is wrong, or the form is too old")
	ErrUsed = errors.New("too many bans were lifted by a sum today, or too many answers were wrong")
)

// A Sum is a question, and the token that its form sends back with the answer.
type Sum struct {
	Question string `json:"question"` // such as "7 + 12"
	Token    string `json:"token"`
}

// Limits are how often bans may be lifted by a sum in a day.
type Limits struct{ Each, Total int } // by an address, 0: never; by all

// Ways are the ways out. Any goroutine may use them.
type Ways struct {
	save func(text string)
	key  [32]byte

	mu    sync.Mutex
	kept  kept
	used  map[string]time.Time     // forms, by when they become too old; at most as many as sums in a day
	wrong map[netip.Prefix]int     // answers to sums today
	spent map[netip.Prefix]outcome // codes that were used a moment ago: a browser may send a form twice
}

// kept is what is saved.
type kept struct {
	Codes map[netip.Prefix]*code `json:"codes,omitempty"`
	Day   string                 `json:"day,omitempty"`   // of the following
	Freed map[netip.Prefix]int   `json:"freed,omitempty"` // by sums
	Wrong map[netip.Prefix]int   `json:"wrong,omitempty"` // codes
}

type code struct {
	Text   string    `json:"text"`
	Until  time.Time `json:"until"`
	Wrong  int       `json:"wrong,omitempty"`
	Author string    `json:"author"`
}

type outcome struct {
	text, author string
	at           time.Time
}

// again is how long a used code is still known.
const again = 10 * time.Second

// New returns the ways out. save is called with a text for Restore after each change.
func New(save func(text string)) *Ways {
	w := &Ways{save: save, used: make(map[string]time.Time), wrong: make(map[netip.Prefix]int), spent: make(map[netip.Prefix]outcome)}
	_, _ = rand.Read(w.key[:]) // never fails
	return w
}

// Restore takes over what an earlier run saved. A text that it cannot read is as none.
func (w *Ways) Restore(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kept = kept{}
	if json.Unmarshal([]byte(text), &w.kept) != nil {
		w.kept = kept{}
	}
	for k, c := range w.kept.Codes {
		if c == nil {
			delete(w.kept.Codes, k)
		}
	}
}

// Customer returns what is one customer.
func Customer(addr netip.Addr) netip.Prefix {
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	p, _ := addr.Prefix(bits)
	return p
}

// today begins a new day if it is one, and forgets the codes that are too old.
func (w *Ways) today(now time.Time) {
	for k, c := range w.kept.Codes {
		if !now.Before(c.Until) {
			delete(w.kept.Codes, k)
		}
	}
	for token, end := range w.used {
		if !now.Before(end) {
			delete(w.used, token)
		}
	}
	for k, o := range w.spent {
		if now.Sub(o.at) > again {
			delete(w.spent, k)
		}
	}
	if day := now.UTC().Format(time.DateOnly); w.kept.Day != day {
		w.kept.Day, w.kept.Freed, w.kept.Wrong = day, nil, nil
		clear(w.wrong)
	}
}

func (w *Ways) changed() {
	text, err := json.Marshal(&w.kept)
	if err == nil { // it always is
		w.save(string(text))
	}
}

// MakeCode makes a code for an address, in place of the one before.
func (w *Ways) MakeCode(addr netip.Addr, author string, now time.Time) (text string, until time.Time, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.today(now)
	who := Customer(addr)
	if len(w.kept.Codes) >= maxCodes && w.kept.Codes[who] == nil {
		return "", until, fmt.Errorf("%d codes are unused; wait until the first one ends, at most %v", maxCodes, CodeTime)
	}
	if w.kept.Codes == nil {
		w.kept.Codes = make(map[netip.Prefix]*code)
	}
	made := &code{Text: rand.Text()[:10], Until: now.Add(CodeTime), Author: author} // 50 random bits, base32
	w.kept.Codes[who] = made
	w.changed()
	return made.Text, made.Until, nil
}

// UseCode uses up a code and returns its author, or ErrCode.
func (w *Ways) UseCode(addr netip.Addr, text string, now time.Time) (author string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.today(now)
	who := Customer(addr)
	text = strings.ToUpper(strings.TrimSpace(text))
	known := w.kept.Codes[who]
	if known == nil {
		if o, ok := w.spent[who]; ok && equal(o.text, text) {
			return o.author, nil
		}
		return "", ErrCode
	}
	if w.kept.Wrong[who] >= wrongDay || sum(w.kept.Wrong) >= wrongDays {
		return "", ErrCode
	}
	right := equal(known.Text, text)
	if !right {
		known.Wrong++
		count(&w.kept.Wrong, who)
	}
	if right || known.Wrong >= wrongCodes {
		delete(w.kept.Codes, who)
	}
	w.changed()
	if !right {
		return "", ErrCode
	}
	w.spent[who] = outcome{text: text, author: known.Author, at: now}
	return known.Author, nil
}

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

func count(of *map[netip.Prefix]int, who netip.Prefix) {
	if *of == nil {
		*of = make(map[netip.Prefix]int)
	}
	(*of)[who]++
}

func sum(of map[netip.Prefix]int) (all int) {
	for _, n := range of {
		all += n
	}
	return all
}

// may reports whether an address may lift a ban by a sum today.
func (w *Ways) may(who netip.Prefix, l Limits) bool {
	_, known := w.wrong[who]
	return w.kept.Freed[who] < l.Each && sum(w.kept.Freed) < l.Total && w.wrong[who] < wrongSums && (known || len(w.wrong) < maxPeople)
}

// Ask returns a sum for an address. ok is false if it may not lift a ban by one today.
func (w *Ways) Ask(addr netip.Addr, l Limits, now time.Time) (q Sum, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.today(now)
	if !w.may(Customer(addr), l) {
		return q, false
	}
	form := make([]byte, formSize, formSize+sha256.Size)
	_, _ = rand.Read(form)
	form[0], form[1] = 2+form[0]%18, 2+form[1]%18
	binary.BigEndian.PutUint64(form[2:], uint64(now.Add(sumTime).Unix()))
	return Sum{Question: fmt.Sprintf("%d + %d", form[0], form[1]), Token: base64.RawURLEncoding.EncodeToString(append(form, w.sign(form, addr)...))}, true
}

// formSize is the length of what a token has before its signature: two numbers, when it becomes too old, and random bytes.
const formSize = 1 + 1 + 8 + 8

func (w *Ways) sign(form []byte, addr netip.Addr) []byte {
	m := hmac.New(sha256.New, w.key[:])
	m.Write(form)
	m.Write([]byte(Customer(addr).String()))
	return m.Sum(nil)
}

// Solve uses up a sum, or returns ErrSum or ErrUsed.
func (w *Ways) Solve(addr netip.Addr, token, answer string, l Limits, now time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.today(now)
	who := Customer(addr)
	raw, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(raw) != formSize+sha256.Size || !hmac.Equal(raw[formSize:], w.sign(raw[:formSize], addr)) {
		return ErrSum
	}
	end := time.Unix(int64(binary.BigEndian.Uint64(raw[2:])), 0)
	form := string(raw[:formSize]) // not the token: other texts may decode to the same
	_, used := w.used[form]
	switch n, err := strconv.Atoi(strings.TrimSpace(answer)); {
	case used || !now.Before(end):
		return ErrSum
	case !w.may(who, l):
		return ErrUsed
	case err != nil || n != int(raw[0])+int(raw[1]):
		w.wrong[who]++
		return ErrSum
	}
	w.used[form] = end
	count(&w.kept.Freed, who)
	w.changed()
	return nil
}
