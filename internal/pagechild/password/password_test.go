package password_test

import (
	"strings"
	"testing"

	"mef/internal/pagechild/password"
)

func TestHash(t *testing.T) {
	hash, err := password.Hash("correct horse")
	if err != nil {
		t.Fatal(err)
	}
	again, _ := password.Hash("correct horse")
	if hash == again {
		t.Error("two hashes have the same salt")
	}
	for pass, want := range map[string]bool{"correct horse": true, "correct horsf": false, "": false, strings.Repeat("x", 1<<20): false} {
		if got, err := password.Check(hash, pass); got != want || err != nil {
			t.Errorf("Check(%.20q) = %v, %v", pass, got, err)
		}
	}
	if ok, err := password.Check(password.Dummy, ""); ok || err != nil {
		t.Errorf("Check(Dummy) = %v, %v", ok, err)
	}
	for _, bad := range []string{"", "x", "$argon2id$v=19$m=99999999,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
		"$argon2id$v=19$m=8,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$", "$2y$10$abc", "$argon2id$v=19$m=8,t=1,p=1$!$!"} {
		if ok, err := password.Check(bad, "correct horse"); ok || err == nil {
			t.Errorf("Check with hash %q = %v, %v", bad, ok, err)
		}
	}
	for _, pass := range []string{"short", strings.Repeat("x", 257)} {
		if _, err := password.Hash(pass); err == nil {
			t.Errorf("a password of %d characters is taken", len(pass))
		}
	}
}
