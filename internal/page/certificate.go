package page

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/netip"
	"time"

	"mef/internal/page/sandbox"
)

// MakeCertificate writes a self-signed certificate and its key, PEM, for a name of this host and, unless it is 0.0.0.0 or ::, an address.
func MakeCertificate(host, address string, out io.Writer) error {
	at, err := netip.ParseAddr(address)
	if err != nil {
		return err
	}
	if err := sandbox.Enter(); err != nil {
		return err
	}
	now := time.Now()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return err
	}
	form := x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true}
	if !at.IsUnspecified() {
		form.IPAddresses = []net.IP{at.AsSlice()}
	}
	cert, err := x509.CreateCertificate(rand.Reader, &form, &form, private.Public(), private)
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	return errors.Join(pem.Encode(out, &pem.Block{Type: "CERTIFICATE", Bytes: cert}), pem.Encode(out, &pem.Block{Type: "PRIVATE KEY", Bytes: key}))
}
