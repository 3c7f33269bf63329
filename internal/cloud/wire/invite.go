package wire

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"net"
	"strings"
)

// An Invitation has what a host needs to join a server. Its text is one word: mef1.ADDRESS.KEY.PIN.TOKEN, in which the last three are base64url.
type Invitation struct {
	Server string            // HOST:PORT
	Feed   ed25519.PublicKey // signs lists
	Pin    [sha256.Size]byte // of the server's TLS key
	Token  []byte            // 16 bytes; none once it was used
}

const inviteTag = "mef1"

func (i Invitation) String() string {
	enc := base64.RawURLEncoding.EncodeToString
	return strings.Join([]string{inviteTag, enc([]byte(i.Server)), enc(i.Feed), enc(i.Pin[:]), enc(i.Token)}, ".")
}

// ParseInvitation reads the text of an Invitation.
func ParseInvitation(text string) (i Invitation, err error) {
	part := strings.Split(strings.TrimSpace(text), ".")
	bad := errors.New("this is no invitation; copy the whole text that mefcloud invite printed, which begins with mef1")
	if len(text) > 1000 || len(part) != 5 || part[0] != inviteTag {
		return i, bad
	}
	var raw [4][]byte
	for n := range raw {
		if raw[n], err = base64.RawURLEncoding.DecodeString(part[n+1]); err != nil {
			return i, bad
		}
	}
	i = Invitation{Server: string(raw[0]), Feed: raw[1], Token: raw[3]}
	host, port, err := net.SplitHostPort(i.Server)
	if err != nil || host == "" || port == "" || strings.ContainsAny(host, "/@?# ") || len(i.Feed) != ed25519.PublicKeySize || len(raw[2]) != len(i.Pin) || len(i.Token) > 64 {
		return i, bad
	}
	copy(i.Pin[:], raw[2])
	return i, nil
}

// PinOf returns the pin of a certificate: the hash of its public key.
func PinOf(cert *x509.Certificate) [sha256.Size]byte {
	return sha256.Sum256(cert.RawSubjectPublicKeyInfo)
}

// ClientTLS returns how a host connects to the server of an invitation: the server must have the key of the pin, and needs no certificate of
// an authority.
func (i Invitation) ClientTLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, // the pin is compared instead
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return errors.New("the server has no certificate")
			}
			if pin := PinOf(s.PeerCertificates[0]); subtle.ConstantTimeCompare(pin[:], i.Pin[:]) != 1 {
				return errors.New("the server has another key than the invitation names: it is not the server that invited this host, or its key was replaced")
			}
			return nil
		}}
}

// An Enrolment asks to join.
type Enrolment struct {
	Token string `json:"token"` // base64url
	Key   []byte `json:"key"`   // Ed25519
}

// Enrolled is the answer to an Enrolment.
type Enrolled struct {
	ID    string   `json:"id"`
	Lists []string `json:"lists"` // that the host may fetch
}

// A Receipt is the answer to a Batch.
type Receipt struct {
	Accepted int       `json:"accepted"`
	Dropped  []Dropped `json:"dropped,omitempty"`
}

// Dropped is a report that has no effect.
type Dropped struct {
	Index  int    `json:"index"`
	Reason string `json:"reason"`
}
