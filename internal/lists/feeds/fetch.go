package feeds

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"syscall"
	"time"

	"mef/internal/conf/diag"
)

// Timeouts of a download.
const (
	connectTimeout = 15 * time.Second
	headerTimeout  = 30 * time.Second
	stallTimeout   = 30 * time.Second // without a byte
	totalTimeout   = 5 * time.Minute
	maxRedirects   = 5
)

// validators tell a server which version of a feed there is already.
type validators struct {
	ETag     string `json:"etag,omitempty"`
	Modified string `json:"modified,omitempty"` // Last-Modified, as the server wrote it
}

// A fetched is the answer of a server.
type fetched struct {
	validators
	unchanged bool  // the version is that of the validators
	size      int64 // bytes written
}

// A fetcher downloads feeds.
type fetcher struct {
	client    *http.Client
	userAgent string
	stall     time.Duration
	total     time.Duration
}

// newFetcher returns a fetcher that trusts the certificates of roots; nil: those of this host.
func newFetcher(roots *x509.CertPool, userAgent string) *fetcher {
	dialer := net.Dialer{Timeout: connectTimeout}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext,
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, TLSHandshakeTimeout: connectTimeout,
		ResponseHeaderTimeout: headerTimeout, MaxResponseHeaderBytes: 64 << 10, ForceAttemptHTTP2: true,
		DisableKeepAlives: true, // hours lie between two downloads
	}
	return &fetcher{userAgent: userAgent, stall: stallTimeout, total: totalTimeout, client: &http.Client{Transport: transport,
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			switch {
			case r.URL.Scheme != "https":
				return fmt.Errorf("the server redirects to %q, which is not https", r.URL.Redacted())
			case len(via) > maxRedirects:
				return fmt.Errorf("more than %d redirects", maxRedirects)
			}
			return nil
		}}}
}

// fetch writes what is at a URL to w, at most maxSize bytes, unless it is the version of known. After an error w has a part of it, or nothing.
func (f *fetcher) fetch(ctx context.Context, from string, known validators, knownSize int64, maxSize int64, w io.Writer) (fetched, error) {
	u, err := url.Parse(from)
	if err != nil {
		return fetched{}, err
	}
	if u.Scheme == "file" {
		return readFile(u.Path, known, maxSize, w)
	}
	got, err := f.download(ctx, from, known, maxSize, w)
	if err == nil && got.unchanged && got.size >= 0 && got.size != knownSize {
		// The server claims that the copy here is its version and has another length: one of the two is wrong.
		return f.download(ctx, from, validators{}, maxSize, w)
	}
	return got, err
}

// download is one request. The size of an unchanged feed is that which the server names, -1 if it names none.
func (f *fetcher) download(ctx context.Context, from string, known validators, maxSize int64, w io.Writer) (fetched, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, f.total, fmt.Errorf("it is not complete after %v", f.total))
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return fetched{}, err
	}
	req.Header.Set("User-Agent", f.userAgent)
	req.Header.Set("Accept", "text/plain, */*;q=0.5")
	if known.ETag != "" {
		req.Header.Set("If-None-Match", known.ETag)
	}
	if known.Modified != "" {
		req.Header.Set("If-Modified-Since", known.Modified)
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return fetched{}, errors.New(diag.Printable(cause(ctx, err).Error())) // a certificate may have any name
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotModified && known == validators{}:
		return fetched{}, errors.New("the server answers 304 Not Modified, although there is no copy here")
	case resp.StatusCode == http.StatusNotModified:
		size, err := strconv.ParseInt(resp.Header.Get("Content-Length"), 10, 64)
		if err != nil || size == 0 || resp.Header.Get("Content-Encoding") != "" {
			size = -1
		}
		return fetched{validators: known, unchanged: true, size: size}, nil
	case resp.StatusCode != http.StatusOK:
		return fetched{}, fmt.Errorf("the server answers %s", http.StatusText(resp.StatusCode)+" ("+strconv.Itoa(resp.StatusCode)+")")
	}
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); kind == "text/html" || kind == "application/xhtml+xml" {
		return fetched{}, errors.New("the server answers with a web page instead of a list")
	}
	if resp.ContentLength > maxSize {
		return fetched{}, tooLarge(maxSize)
	}
	// The transport has removed a compression; the limit is on what comes out of it.
	watch := time.AfterFunc(f.stall, func() { stop(fmt.Errorf("the server sent nothing for %v", f.stall)) })
	defer watch.Stop()
	size, err := io.Copy(w, io.LimitReader(&progress{resp.Body, watch, f.stall}, maxSize+1))
	if err == nil {
		err = context.Cause(ctx) // a server whose client gives up may end its answer as if it were whole
	}
	switch {
	case err != nil:
		return fetched{}, fmt.Errorf("after %d bytes: %w", size, cause(ctx, err))
	case size > maxSize:
		return fetched{}, tooLarge(maxSize)
	}
	return fetched{validators: validators{ETag: resp.Header.Get("ETag"), Modified: resp.Header.Get("Last-Modified")}, size: size}, nil
}

// cause returns why a context ended, if it did, instead of what came of it.
func cause(ctx context.Context, err error) error {
	if why := context.Cause(ctx); why != nil {
		return why
	}
	var inner *url.Error
	if errors.As(err, &inner) {
		err = inner.Err // the URL is named by the caller
	}
	return err
}

func tooLarge(maxSize int64) error {
	return fmt.Errorf("it is larger than %d MB (max_size)", maxSize>>20)
}

// A progress puts off a timer with every byte.
type progress struct {
	r     io.Reader
	timer *time.Timer
	every time.Duration
}

func (p *progress) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	if n > 0 {
		p.timer.Reset(p.every)
	}
	return n, err
}

// readFile is fetch for a file.
func readFile(path string, known validators, maxSize int64, w io.Writer) (fetched, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe would block
	if err != nil {
		return fetched{}, err
	}
	defer file.Close()
	info, err := file.Stat()
	switch {
	case err != nil:
		return fetched{}, err
	case !info.Mode().IsRegular():
		return fetched{}, errors.New("it is not a regular file")
	case info.Size() > maxSize:
		return fetched{}, tooLarge(maxSize)
	}
	now := validators{Modified: fmt.Sprintf("%s, %d bytes", info.ModTime().UTC().Format(time.RFC3339Nano), info.Size())}
	if now == known {
		return fetched{validators: now, unchanged: true}, nil
	}
	size, err := io.Copy(w, io.LimitReader(file, maxSize+1))
	if err == nil && size > maxSize {
		err = tooLarge(maxSize)
	}
	return fetched{validators: now, size: size}, err
}
