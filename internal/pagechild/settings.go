package pagechild

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"mef/internal/conf"
)

// The file descriptors that mefpage inherits.
const (
	ControlFile  = 3 // over it, mefpage connects to the daemon; see Dial
	FirstService = 4 // the listener of the first service, the others follow
)

// Settings are what mefpage reads from its standard input. It opens no file itself.
type Settings struct {
	Version  string
	Services []Service
	Users    []User         // who may log in with a password
	Groups   map[int]string // roles by group ID
	Contact  string         // whom blocked customers may ask
}

// A Service is what mefpage serves at one listener.
type Service struct {
	Kind    string // "page", "metrics" or "block_page"
	Address string // as in mef.conf
	Unix    bool

	Certificate []byte // PEM; empty: plain HTTP
	Key         []byte
}

// A User is a line of the password file, NAME:ROLE:HASH.
type User struct{ Name, Role, Hash string }

// maxFile is how much is read of a password file, a certificate and a key, in bytes.
const maxFile = 64 << 10

// Read returns what mefpage is to serve, with what the files of the configuration have now. Without services nothing is to be served. A mistake
// in the settings of one service leaves the others: then both a service and an error may be returned.
func (c *Child) Read(ctx context.Context) (s Settings, err error) {
	cfg := c.config()
	s.Version = c.version
	if cfg.BlockPort != 0 {
		s.Contact = cfg.BlockContact
		s.Services = append(s.Services, Service{Kind: "block_page", Address: ":" + strconv.Itoa(cfg.BlockPort)})
	}
	if port := cfg.BlockTLSPort(); port != 0 {
		tls := Service{Kind: "block_page", Address: ":" + strconv.Itoa(port)}
		if tls.Certificate, tls.Key, err = readPair("block_page", cfg.BlockCertificate, cfg.BlockKey); err == nil {
			s.Services = append(s.Services, tls)
		}
	}
	if cfg.Metrics != "" {
		s.Services = append(s.Services, Service{Kind: "metrics", Address: cfg.Metrics, Unix: filepath.IsAbs(cfg.Metrics)})
	}
	if cfg.Address != "" {
		page, wrong := c.readPage(ctx, cfg, &s)
		if err = errors.Join(err, wrong); wrong == nil {
			s.Services = append(s.Services, page)
		}
	}
	return s, err
}

// readPage returns the service of the operator's page, and sets who may use it.
func (c *Child) readPage(ctx context.Context, cfg conf.Page, s *Settings) (page Service, err error) {
	page = Service{Kind: "page", Address: cfg.Address, Unix: filepath.IsAbs(cfg.Address)}
	if page.Unix {
		if s.Groups = groups(cfg.Groups); len(s.Groups) == 0 {
			return page, errNoGroup
		}
		return page, nil
	}
	if s.Users, err = ReadUsers(cfg.PasswordFile); err == nil {
		page.Certificate, page.Key, err = certificate(ctx, cfg, c.stateDir, c.program())
	}
	return page, err
}

// Check returns what would keep mefpage from serving as a configuration says, and what to do about it. With listen, it also tries whether the
// addresses are free, which they are not while the daemon runs.
func Check(cfg conf.Page, listen bool) (all []string) {
	add := func(err error) {
		if err != nil {
			all = append(all, "page: "+err.Error())
		}
	}
	if cfg.Address != "" && filepath.IsAbs(cfg.Address) {
		if len(groups(cfg.Groups)) == 0 {
			add(errNoGroup)
		}
	} else if cfg.Address != "" {
		_, err := ReadUsers(cfg.PasswordFile)
		add(err)
		if cfg.Certificate != "" {
			_, _, err := readPair("page", cfg.Certificate, cfg.Key)
			add(err)
		}
	}
	services := []Service{{Kind: "page", Address: cfg.Address}, {Kind: "metrics", Address: cfg.Metrics}}
	if cfg.BlockPort != 0 {
		services = append(services, Service{Kind: "block_page", Address: ":" + strconv.Itoa(cfg.BlockPort)})
	}
	if port := cfg.BlockTLSPort(); port != 0 {
		_, _, err := readPair("block_page", cfg.BlockCertificate, cfg.BlockKey)
		add(err)
		services = append(services, Service{Kind: "block_page", Address: ":" + strconv.Itoa(port)})
	}
	for _, s := range services {
		if listen && s.Address != "" && !filepath.IsAbs(s.Address) {
			l, err := open(s)
			if err != nil {
				add(explain(s, err))
				continue
			}
			l.Close()
		}
	}
	return all
}

var errNoGroup = errors.New("no group of page_groups exists on this host: create it, or set page_groups")

// groups returns roles by group ID. A group that is named twice, or under two names, has the greater role.
func groups(named []conf.PageGroup) map[int]string {
	roles := make(map[int]string)
	for _, g := range named {
		found, err := user.LookupGroup(g.Name)
		if err != nil {
			continue // its members cannot exist either
		}
		id, err := strconv.Atoi(found.Gid)
		if err == nil && rank(g.Role) > rank(roles[id]) {
			roles[id] = g.Role
		}
	}
	return roles
}

// rank orders roles; -1 is that of no role.
func rank(role string) int { return slices.Index(conf.PageRoles[:], role) }

// Greater returns the greater of two roles, of which either may be empty.
func Greater(a, b string) string {
	if rank(a) > rank(b) {
		return a
	}
	return b
}

// ReadUsers reads a password file. The error says what is to be done about it.
func ReadUsers(path string) ([]User, error) {
	text, err := readFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s does not exist; mefctl page password NAME ROLE makes it", path)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%s cannot be read; run chown root:mef and chmod 640 on it", path)
	case err != nil:
		return nil, err
	}
	return ParseUsers(path, text)
}

// ErrNoUser is wrapped by the error for a password file without a user.
var ErrNoUser = errors.New("it has no user")

// ParseUsers reads the text of a password file: lines NAME:ROLE:HASH, empty ones, and comments.
func ParseUsers(path string, text []byte) (users []User, err error) {
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		f := strings.Split(line, ":")
		if len(f) != 3 || !ValidName(f[0]) || rank(f[1]) < 0 || !strings.HasPrefix(f[2], "$argon2id$") {
			return nil, fmt.Errorf("%s:%d: not NAME:ROLE:HASH; mefctl page password NAME ROLE writes such lines", path, n)
		}
		if slices.ContainsFunc(users, func(u User) bool { return u.Name == f[0] }) {
			return nil, fmt.Errorf("%s:%d: %q has a line already; remove one", path, n, f[0])
		}
		users = append(users, User{f[0], f[1], f[2]})
	}
	if len(users) == 0 {
		return nil, fmt.Errorf("%s: %w; mefctl page password NAME ROLE adds one", path, ErrNoUser)
	}
	return users, nil
}

// ValidName reports whether a user of the page may have the name.
func ValidName(name string) bool {
	return name != "" && len(name) <= 32 && !strings.ContainsFunc(name, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '.' || r == '_' || r == '-')
	})
}

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%s is no file of at most %d bytes", path, maxFile)
	}
	return os.ReadFile(path)
}

// digest identifies settings; two with the same are equal.
func (s *Settings) digest() string {
	text, err := json.Marshal(s)
	if err != nil {
		return err.Error()
	}
	sum := sha256.Sum256(text)
	return base64.StdEncoding.EncodeToString(sum[:])
}
