package wire

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// AuthHeader has the signature of a request.
const AuthHeader = "Mef-Auth"

// MaxSkew is how far the clocks of a host and a server may differ.
const MaxSkew = 5 * time.Minute

// KeyID returns the name of a key.
func KeyID(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	id := base64.RawURLEncoding.EncodeToString(sum[:12])
	if id[0] == '-' { // operators give names to commands, which would take it for a flag
		id = "_" + id[1:]
	}
	return id
}

// An Auth is the signature of a request.
type Auth struct {
	ID   string // of the key
	Time time.Time
	Seq  uint64 // grows with each batch of a host
	sig  []byte
}

// signed returns what is signed: nothing of a request can be changed or replayed elsewhere.
func (a Auth) signed(method, path string, body []byte) []byte {
	return fmt.Appendf(nil, "mef request 1\n%s\n%s\n%d\n%d\n%x", method, path, a.Time.Unix(), a.Seq, sha256.Sum256(body))
}

// Sign signs a request whose body is given.
func Sign(req *http.Request, key ed25519.PrivateKey, now time.Time, seq uint64, body []byte) {
	a := Auth{ID: KeyID(key.Public().(ed25519.PublicKey)), Time: now, Seq: seq}
	sig := ed25519.Sign(key, a.signed(req.Method, req.URL.RequestURI(), body))
	req.Header.Set(AuthHeader, fmt.Sprintf("v1,%s,%d,%d,%s", a.ID, now.Unix(), seq, base64.RawURLEncoding.EncodeToString(sig)))
}

// ParseAuth reads the signature of a request. It does not verify it.
func ParseAuth(header string) (a Auth, err error) {
	part := strings.Split(header, ",")
	if len(part) != 5 || part[0] != "v1" || len(part[1]) > 32 {
		return a, errors.New("the request is not signed in a way that this server understands")
	}
	at, err1 := strconv.ParseInt(part[2], 10, 64)
	seq, err2 := strconv.ParseUint(part[3], 10, 64)
	sig, err3 := base64.RawURLEncoding.DecodeString(part[4])
	if err := errors.Join(err1, err2, err3); err != nil || len(sig) != ed25519.SignatureSize {
		return a, errors.New("the signature of the request is malformed")
	}
	return Auth{ID: part[1], Time: time.Unix(at, 0), Seq: seq, sig: sig}, nil
}

// Verify returns why a request is not one of the owner of a key, now.
func (a Auth) Verify(key ed25519.PublicKey, now time.Time, method, path string, body []byte) error {
	if len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, a.signed(method, path, body), a.sig) {
		return errors.New("the signature of the request is wrong")
	}
	if d := now.Sub(a.Time); d > MaxSkew || d < -MaxSkew {
		return fmt.Errorf("the clock of the host differs by %v from that of the server; set it", d.Round(time.Second))
	}
	return nil
}

// A Problem is why a request failed (RFC 9457).
type Problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"` // what to do
}

func (p *Problem) Error() string {
	if p.Detail == "" {
		return p.Title
	}
	return p.Title + ": " + p.Detail
}

// WriteProblem answers a request that failed.
func WriteProblem(w http.ResponseWriter, status int, detail string) {
	text, _ := json.Marshal(Problem{http.StatusText(status), status, detail}) // strings and a number have a JSON form
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(text)
}

// ProblemOf returns the error that an answer describes. Its text is that of the server and must be quoted or made printable.
func ProblemOf(status int, body []byte) *Problem {
	var p Problem
	if json.Unmarshal(body, &p) != nil || p.Title == "" {
		p.Title = http.StatusText(status)
	}
	p.Status = status
	if len(p.Detail) > 500 {
		p.Detail = p.Detail[:500]
	}
	return &p
}
