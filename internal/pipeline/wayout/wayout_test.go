package wayout

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	now   = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	alice = netip.MustParseAddr("192.0.2.7")
	bob   = netip.MustParseAddr("2001:db8::7")
)

// ways returns the ways out, and what they saved last.
func ways() (*Ways, *string) {
	saved := new(string)
	return New(func(text string) { *saved = text }), saved
}

func mustMake(t *testing.T, w *Ways, addr netip.Addr, now time.Time) string {
	t.Helper()
	text, until, err := w.MakeCode(addr, "support", now)
	if err != nil || len(text) != 10 || !until.Equal(now.Add(CodeTime)) {
		t.Fatalf("code %q until %v, %v", text, until, err)
	}
	return text
}

// A code works once, for its address (IPv6: its /64), for an hour, and not after five wrong ones.
func TestCodes(t *testing.T) {
	w, _ := ways()
	use := func(addr netip.Addr, text string, at time.Time) bool {
		t.Helper()
		author, err := w.UseCode(addr, text, at)
		if err == nil && author != "support" || err != nil && !errors.Is(err, ErrCode) {
			t.Errorf("author %q, %v", author, err)
		}
		return err == nil
	}
	made := mustMake(t, w, alice, now)
	if use(bob, made, now) {
		t.Error("the code of another address works")
	}
	if use(alice, made, now.Add(CodeTime)) {
		t.Error("an old code works")
	}
	made = mustMake(t, w, alice, now)
	if !use(alice, " "+strings.ToLower(made)+"\n", now) {
		t.Error("a code does not work")
	}
	if !use(alice, made, now.Add(time.Second)) {
		t.Error("a form that is sent twice fails")
	}
	if use(alice, made, now.Add(time.Minute)) {
		t.Error("a code works twice")
	}
	made = mustMake(t, w, bob, now)
	for range wrongCodes {
		if use(bob, "WRONG", now) {
			t.Error("a wrong code works")
		}
	}
	if use(bob, made, now) {
		t.Error("a code works after five wrong ones")
	}
	if !use(netip.MustParseAddr("2001:db8::8"), mustMake(t, w, bob, now), now) {
		t.Error("the code does not work from another address of the /64")
	}
}

// An address cannot guess for ever, whatever codes support makes for it; nor can all together.
func TestGuesses(t *testing.T) {
	w, _ := ways()
	for range wrongDay {
		mustMake(t, w, alice, now)
		if _, err := w.UseCode(alice, "WRONG", now); err == nil {
			t.Fatal("a wrong code works")
		}
	}
	if _, err := w.UseCode(alice, mustMake(t, w, alice, now), now); err == nil {
		t.Error("a code works after many wrong ones")
	}
	if _, err := w.UseCode(alice, mustMake(t, w, alice, now.Add(24*time.Hour)), now.Add(24*time.Hour)); err != nil {
		t.Errorf("on the next day: %v", err)
	}
	for i := range wrongDays {
		addr := netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
		mustMake(t, w, addr, now)
		_, _ = w.UseCode(addr, "WRONG", now)
		_, _ = w.UseCode(addr, "WRONG", now)
		delete(w.kept.Codes, Customer(addr))
	}
	if _, err := w.UseCode(bob, mustMake(t, w, bob, now), now); err == nil {
		t.Error("a code works after many wrong ones of all")
	}
}

func TestManyCodes(t *testing.T) {
	w, _ := ways()
	for i := range maxCodes {
		mustMake(t, w, netip.MustParseAddr(fmt.Sprintf("198.18.%d.%d", i/256, i%256)), now)
	}
	if _, _, err := w.MakeCode(alice, "support", now); err == nil {
		t.Errorf("there are more than %d codes", maxCodes)
	}
	mustMake(t, w, netip.MustParseAddr("198.18.0.0"), now) // another one in place of the first
	mustMake(t, w, alice, now.Add(2*time.Hour))
	if n := len(w.kept.Codes); n != 1 {
		t.Errorf("%d codes after all have ended", n)
	}
}

// solve answers a question, wrong by off.
func solve(t *testing.T, w *Ways, addr netip.Addr, q Sum, l Limits, off int, at time.Time) error {
	t.Helper()
	var a, b int
	if _, err := fmt.Sscanf(q.Question, "%d + %d", &a, &b); err != nil {
		t.Fatalf("question %q: %v", q.Question, err)
	}
	return w.Solve(addr, q.Token, " "+strconv.Itoa(a+b+off)+" ", l, at)
}

func TestSums(t *testing.T) {
	w, _ := ways()
	limits := Limits{Each: 2, Total: 3}
	ask := func(addr netip.Addr, at time.Time) Sum {
		t.Helper()
		q, ok := w.Ask(addr, limits, at)
		if !ok {
			t.Fatalf("%s gets no sum", addr)
		}
		return q
	}
	q := ask(alice, now)
	for name, err := range map[string]error{
		"wrong answer":        solve(t, w, alice, q, limits, 1, now),
		"another address":     solve(t, w, bob, q, limits, 0, now),
		"too late":            solve(t, w, alice, q, limits, 0, now.Add(sumTime)),
		"changed token":       w.Solve(alice, "AAAA"+q.Token[4:], "20", limits, now),
		"no token":            w.Solve(alice, "", "20", limits, now),
		"no number":           w.Solve(alice, q.Token, "many", limits, now),
		"token of before":     func() error { other, _ := ways(); return solve(t, other, alice, q, limits, 0, now) }(),
		"very long token":     w.Solve(alice, strings.Repeat("A", 100_000), "20", limits, now),
		"trailing bits in it": w.Solve(alice, q.Token+"=", "20", limits, now),
	} {
		if !errors.Is(err, ErrSum) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := solve(t, w, alice, q, limits, 0, now); err != nil {
		t.Errorf("right answer: %v", err)
	}
	if err := solve(t, w, alice, q, limits, 0, now); !errors.Is(err, ErrSum) {
		t.Errorf("a form works twice: %v", err)
	}
	again := q
	again.Token += "\n" // which base64 ignores
	if err := solve(t, w, alice, again, limits, 0, now); !errors.Is(err, ErrSum) {
		t.Errorf("a form works twice, with a line end behind it: %v", err)
	}
	first, second := ask(alice, now), ask(alice, now)
	if err := solve(t, w, alice, first, limits, 0, now); err != nil {
		t.Errorf("second sum of a day: %v", err)
	}
	if err := solve(t, w, alice, second, limits, 0, now); !errors.Is(err, ErrUsed) {
		t.Errorf("third sum of a day: %v", err)
	}
	if _, ok := w.Ask(alice, limits, now); ok {
		t.Error("a third sum of a day is offered")
	}
	if err := solve(t, w, bob, ask(bob, now), limits, 0, now); err != nil {
		t.Error(err)
	}
	if _, ok := w.Ask(bob, limits, now); ok {
		t.Error("more sums of a day than of all are offered")
	}
	if _, ok := w.Ask(alice, limits, now.Add(12*time.Hour)); !ok {
		t.Error("no sum on the next day")
	}
	if _, ok := w.Ask(alice, Limits{Total: 3}, now.Add(12*time.Hour)); ok {
		t.Error("a sum although there are to be none")
	}
}

// Wrong answers of an address are counted, and how many addresses they are counted of is bounded.
func TestWrongSums(t *testing.T) {
	w, _ := ways()
	limits := Limits{Each: 1, Total: 10}
	for range wrongSums {
		q, _ := w.Ask(alice, limits, now)
		_ = solve(t, w, alice, q, limits, 1, now)
	}
	if _, ok := w.Ask(alice, limits, now); ok {
		t.Error("a sum after many wrong answers")
	}
	for i := range maxPeople + 10 {
		addr := netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
		if q, ok := w.Ask(addr, limits, now); ok {
			_ = solve(t, w, addr, q, limits, 1, now)
		}
	}
	if n := len(w.wrong); n != maxPeople {
		t.Errorf("the answers of %d addresses are counted", n)
	}
}

// Codes and counts outlive a restart.
func TestRestore(t *testing.T) {
	w, saved := ways()
	limits := Limits{Each: 1, Total: 10}
	made := mustMake(t, w, alice, now)
	for range wrongCodes - 1 {
		_, _ = w.UseCode(alice, "WRONG", now)
	}
	q, _ := w.Ask(bob, limits, now)
	if err := solve(t, w, bob, q, limits, 0, now); err != nil {
		t.Fatal(err)
	}
	next, _ := ways()
	next.Restore(*saved)
	if _, ok := next.Ask(bob, limits, now); ok {
		t.Error("the count of the day is lost")
	}
	if author, err := next.UseCode(alice, made, now); err != nil || author != "support" {
		t.Errorf("the code: %q, %v", author, err)
	}
	next, _ = ways()
	next.Restore(*saved)
	_, _ = next.UseCode(alice, "WRONG", now)
	if _, err := next.UseCode(alice, made, now); err == nil {
		t.Error("the count of wrong codes is lost")
	}
	for _, text := range []string{"", "{", `{"codes":{"192.0.2.7/32":null}}`, `{"codes":{"x":{}}}`, `[]`} {
		next.Restore(text)
		if _, err := next.UseCode(alice, "", now); err == nil {
			t.Errorf("a code is made of %q", text)
		}
		mustMake(t, next, alice, now)
	}
}
