package server

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"mef/internal/atomicfile"
)

// keysFile has the keys of a server in PEM form: the one that signs lists, and the one of TLS with its certificate. Hosts know both by the
// invitation, so they stay the same.
const keysFile = "keys.pem"

// readKeys reads the keys, or makes them for a new server.
func (s *Server) readKeys(isNew bool) error {
	path := filepath.Join(s.opt.Dir, keysFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && isNew {
		if text, err = makeKeys(); err == nil {
			err = atomicfile.Write(path, text, 0o600)
		}
	}
	if err != nil {
		return fmt.Errorf("%w; %s", err, wayBack)
	}
	sum := sha256.Sum256(text)
	if err = s.parseKeys(text); err == nil && s.state.keys != ([sha256.Size]byte{}) && s.state.keys != sum {
		err = errors.New("it has other keys than those of this server, or is damaged") // a seed with another bit is a key as well
	}
	if err != nil {
		return fmt.Errorf("%s: %w; %s", path, err, wayBack)
	}
	s.state.keys = sum
	return nil
}

func (s *Server) parseKeys(text []byte) error {
	block, rest := pem.Decode(text)
	if block == nil {
		return errors.New("it has no key")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return err
	}
	var ok bool
	if s.feedKey, ok = key.(ed25519.PrivateKey); !ok {
		return errors.New("its first key is not Ed25519")
	}
	s.cert, err = tls.X509KeyPair(rest, rest)
	return err
}

func makeKeys() ([]byte, error) {
	_, feed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	about := x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mefcloud"}, DNSNames: []string{"mefcloud"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // it is known by its key; the clock of either side may be wrong
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	cert, err := x509.CreateCertificate(rand.Reader, &about, &about, key.Public(), key)
	if err != nil {
		return nil, err
	}
	var text []byte
	for _, k := range []any{feed, key} {
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			return nil, err
		}
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...)
	}
	return append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})...), nil
}
