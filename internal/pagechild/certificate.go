package pagechild

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"mef/internal/atomicfile"
	"mef/internal/conf"
	"mef/internal/run"
)

// certificate returns the certificate and the key of the page, none for plain HTTP. program is that of mefpage, which makes a certificate.
func certificate(ctx context.Context, cfg conf.Page, stateDir, program string) (cert, key []byte, err error) {
	at, err := netip.ParseAddrPort(cfg.Address)
	if err != nil {
		return nil, nil, err
	}
	certPath, keyPath := cfg.Certificate, cfg.Key
	switch {
	case certPath == "" && at.Addr().IsLoopback():
		return nil, nil, nil
	case certPath == "":
		certPath, keyPath = filepath.Join(stateDir, "page.crt"), filepath.Join(stateDir, "page.key")
		if err := makeCertificate(ctx, program, certPath, keyPath, at.Addr(), time.Now()); err != nil {
			return nil, nil, fmt.Errorf("make a certificate: %w; or set page_certificate and page_key", err)
		}
	}
	return readPair("page", certPath, keyPath)
}

// readPair reads a certificate and its key, which NAME_certificate and NAME_key name.
func readPair(name, certPath, keyPath string) (cert, key []byte, err error) {
	if keyPath == "" {
		return nil, nil, fmt.Errorf("%s_certificate is set, but %s_key is not", name, name)
	}
	if cert, err = readFile(certPath); err != nil {
		return nil, nil, fmt.Errorf("%s_certificate: %w", name, err)
	}
	if key, err = readFile(keyPath); err != nil {
		return nil, nil, fmt.Errorf("%s_key: %w; its group must be mef, and its mode 640", name, err)
	}
	if _, err := tls.X509KeyPair(cert, key); err != nil {
		return nil, nil, fmt.Errorf("%s_certificate=%s, %s_key=%s: %w", name, certPath, name, keyPath, err)
	}
	return cert, key, nil
}

// renewAhead is how long a self-signed certificate must still be valid at the start, otherwise another is made.
const renewAhead = 30 * 24 * time.Hour

// makeCertificate makes a self-signed certificate for this host, unless there is one that is good.
func makeCertificate(ctx context.Context, program, certPath, keyPath string, at netip.Addr, now time.Time) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	if _, err := os.Stat(keyPath); err == nil && good(certPath, host, at, now) {
		return nil
	}
	both, err := run.Output(ctx, maxFile, program, "--make-certificate", host, at.String())
	if err != nil {
		return err
	}
	block, _ := pem.Decode(both)
	if block == nil || block.Type != "CERTIFICATE" {
		return errors.New("mefpage did not write a certificate")
	}
	cert := pem.EncodeToMemory(block)
	if err := atomicfile.Write(keyPath, both[len(cert):], 0o600); err != nil {
		return err
	}
	return atomicfile.Write(certPath, cert, 0o644)
}

// good reports whether a certificate is for this host and stays valid for a while.
func good(certPath string, host string, at netip.Addr, now time.Time) bool {
	text, err := readFile(certPath)
	if err != nil {
		return false
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return false
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	return err == nil && cert.NotAfter.After(now.Add(renewAhead)) && cert.Subject.CommonName == host && (at.IsUnspecified() || cert.VerifyHostname(at.String()) == nil)
}
