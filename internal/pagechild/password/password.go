// Package password hashes the passwords of the operator's page with Argon2id (RFC 9106), and checks them.
//
// A hash is text in the usual form, $argon2id$v=19$m=MEMORY,t=TIME,p=THREADS$SALT$KEY, with memory in KiB, and salt and key in base64.
package password

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
)

// What a hash costs: the second choice of OWASP's list. mefpage makes one at a time.
const (
	memory  = 19 << 10 // KiB
	passes  = 2
	threads = 1
	keyLen  = 32
	saltLen = 16
)

// The lengths that a password may have, in bytes.
const (
	Min = 10
	Max = 256
)

// Hash returns the hash of a password, with a new salt.
func Hash(password string) (string, error) {
	switch n := len(password); {
	case n < Min:
		return "", fmt.Errorf("the password has %d characters, which is too short: at least %d", n, Min)
	case n > Max:
		return "", fmt.Errorf("the password is longer than %d characters", Max)
	}
	salt := make([]byte, saltLen)
	rand.Read(salt) // never fails
	key := argon2.IDKey([]byte(password), salt, passes, memory, threads, keyLen)
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, memory, passes, threads,
		base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(key)), nil
}

// errForm is the error for a text that is no hash, or one that would cost much more than ours.
var errForm = errors.New("not a hash of mefctl page password")

// Check reports whether a password has the hash.
func Check(hash, password string) (bool, error) {
	f := strings.Split(hash, "$")
	if len(f) != 6 || f[0] != "" || f[1] != "argon2id" || f[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return false, errForm
	}
	var m, t uint32
	var p uint8
	if _, err := fmt.Sscanf(f[3], "m=%d,t=%d,p=%d", &m, &t, &p); err != nil || m == 0 || m > 4*memory || t == 0 || t > 4*passes || p == 0 || p > 4 {
		return false, errForm
	}
	salt, err := base64.RawStdEncoding.DecodeString(f[4])
	if err != nil {
		return false, errForm
	}
	key, err := base64.RawStdEncoding.DecodeString(f[5])
	if err != nil || len(key) != keyLen || len(salt) < 8 {
		return false, errForm
	}
	if len(password) > Max {
		return false, nil
	}
	return subtle.ConstantTimeCompare(argon2.IDKey([]byte(password), salt, t, m, p, keyLen), key) == 1, nil
}

// Dummy is the hash that a password is checked against if its user does not exist: the answer takes as long then.
const Dummy = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
