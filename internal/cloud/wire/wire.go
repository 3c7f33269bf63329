// Package wire is what hosts and a community server send each other: signed reports of bans, invitations, and signed lists.
//
// A host has an Ed25519 key, made on it, and signs each request with it. Its reports consist of an address, a category, how often it attacked,
// the hour, and a hash of the rules in use; a host has nothing else to send, so nothing else can leak. Everything is bounded and decoded strictly: an
// unknown or repeated key, deep nesting, a wrong size or clock refuses a request whole. Errors are problem documents (RFC 9457).
package wire

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Limits of requests.
const (
	MaxReports = 100       // of one batch
	MaxBody    = 64 << 10  // bytes as sent
	maxPlain   = 256 << 10 // bytes after decompression
	maxDepth   = 4
	maxPast    = 7 * 24 // hours
)

// Categories of attacks. The bit of a category in sets is its index.
var Categories = []string{"other", "ssh", "login", "mail", "web", "telephone", "scan"}

// Counts are how often an address attacked, in ranges.
var Counts = []string{"1", "2-9", "10-99", "100+"}

// CountOf returns the range of a count.
func CountOf(n int) string {
	switch {
	case n < 2:
		return Counts[0]
	case n < 10:
		return Counts[1]
	case n < 100:
		return Counts[2]
	}
	return Counts[3]
}

// A Report is a verified ban.
type Report struct {
	Addr     netip.Addr `json:"addr"`
	Category string     `json:"category"`
	Count    string     `json:"count"`
	Hour     int64      `json:"hour"` // of the last attack, since 1970
}

// A Batch is what a host reports at once.
type Batch struct {
	Rules   string   `json:"rules"`            // hash of the detection rules, in hex
	Reports []Report `json:"reports"`          //
	Benign  []Addr   `json:"benign,omitempty"` // listed addresses that this host knows as benign
}

// An Addr is an address in an object of its own.
type Addr struct {
	Addr netip.Addr `json:"addr"`
}

// encode returns the body of a request, compressed.
func encode(request any) ([]byte, error) {
	text, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, _ = z.Write(text) // a buffer takes everything
	_ = z.Close()
	return out.Bytes(), nil
}

// decode reads the compressed body of a request, of which nothing may be unknown.
func decode(body []byte, request any) error {
	if len(body) > MaxBody {
		return fmt.Errorf("the request has more than %d bytes", MaxBody)
	}
	text, err := inflate(body, maxPlain)
	if err != nil {
		return err
	}
	return Strict(text, request)
}

// Encode returns the body of a request, compressed.
func (b Batch) Encode() ([]byte, error) {
	return encode(b)
}

// DecodeBatch reads the compressed body of a request at a time. Addresses are returned in their canonical form.
func DecodeBatch(body []byte, now time.Time) (b Batch, err error) {
	if err := decode(body, &b); err != nil {
		return b, err
	}
	if n := len(b.Reports) + len(b.Benign); n == 0 || n > MaxReports {
		return b, fmt.Errorf("%d reports; a request has 1 to %d", n, MaxReports)
	}
	if len(b.Rules) > 64 || strings.Trim(b.Rules, "0123456789abcdef") != "" {
		return b, errors.New("rules is not a hash in hex")
	}
	hour := now.Unix() / 3600
	for i := range b.Reports {
		r := &b.Reports[i]
		switch {
		case !Reportable(r.Addr):
			return b, fmt.Errorf("report %d: %s is not a public address", i, r.Addr)
		case !slices.Contains(Categories, r.Category):
			return b, fmt.Errorf("report %d: unknown category %q", i, r.Category)
		case !slices.Contains(Counts, r.Count):
			return b, fmt.Errorf("report %d: unknown count %q", i, r.Count)
		case r.Hour > hour+1:
			return b, fmt.Errorf("report %d is from the future; set the clock of the host", i)
		case r.Hour < hour-maxPast:
			return b, fmt.Errorf("report %d is older than a week", i)
		}
		r.Addr = r.Addr.Unmap()
	}
	for i := range b.Benign {
		if !Reportable(b.Benign[i].Addr) {
			return b, fmt.Errorf("%s is not a public address", b.Benign[i].Addr)
		}
		b.Benign[i].Addr = b.Benign[i].Addr.Unmap()
	}
	return b, nil
}

// Reportable reports whether an address can be that of an attacker on the Internet.
func Reportable(a netip.Addr) bool {
	a = a.Unmap()
	return a.IsValid() && a.Zone() == "" && a.IsGlobalUnicast() && !a.IsPrivate() &&
		!slices.ContainsFunc(special, func(p netip.Prefix) bool { return p.Contains(a) })
}

// special are networks that no host on the Internet has, apart from what package netip knows. Documentation networks are not among them: they are
// harmless, and examples and tests need some addresses.
var special = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("fec0::/10"), netip.MustParsePrefix("::/96")}

func inflate(body []byte, most int64) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("the body is not compressed by gzip")
	}
	text, err := io.ReadAll(io.LimitReader(z, most+1))
	switch {
	case err != nil:
		return nil, errors.New("the compressed body is damaged")
	case int64(len(text)) > most:
		return nil, fmt.Errorf("the body has more than %d bytes after decompression", most)
	}
	return text, nil
}

// Strict decodes a JSON object. In contrast to package json, it refuses repeated keys, keys that differ in case, text after the object, and
// nesting deeper than any request has.
func Strict(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	if err := walk(d, 0); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("text follows the JSON object")
	}
	d = json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("the JSON text does not fit: %w", err)
	}
	return nil
}

// walk reads one value.
func walk(d *json.Decoder, depth int) error {
	token, err := d.Token()
	if err != nil {
		return errors.New("the body is not JSON")
	}
	delim, ok := token.(json.Delim)
	if !ok {
		return nil
	}
	if depth >= maxDepth {
		return fmt.Errorf("JSON nested deeper than %d", maxDepth)
	}
	seen := make(map[string]bool)
	for d.More() {
		if delim == '{' {
			token, err := d.Token()
			key, ok := token.(string)
			if err != nil || !ok {
				return errors.New("the body is not JSON")
			}
			if seen[key] {
				return fmt.Errorf("key %q is repeated", key)
			}
			if strings.ToLower(key) != key {
				return fmt.Errorf("unknown key %q", key)
			}
			seen[key] = true
		}
		if err := walk(d, depth+1); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil {
		return errors.New("the body is not JSON")
	}
	return nil
}
