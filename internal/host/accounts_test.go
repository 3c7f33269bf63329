//go:build linux

package host

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestAccounts(t *testing.T) {
	dir := t.TempDir()
	one, two := filepath.Join(dir, "passwd"), filepath.Join(dir, "extra")
	text := "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/usr/sbin:/usr/sbin/nologin\nsync:x:4:65534::/bin:/bin/sync\n\n+::::::\n#old:x:9:9:::\nshort:x\nbob:x:1000:1000:Bob:/home/bob:\n"
	if err := os.WriteFile(one, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(two, []byte("alice:x:2000:2000::/home/alice:/bin/zsh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := "[{alice true} {bob true} {daemon false} {root true} {sync false}]"
	if got := fmt.Sprint(accounts([]string{one, two, filepath.Join(dir, "none")})); got != want {
		t.Errorf("accounts %s, want %s", got, want)
	}
}
