package offline_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mef/internal/offline"
)

// Whoever names root as a canary would be banned with the first typing error.
func TestCanaryThatExists(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mef.conf")
	if err := os.WriteFile(path, []byte("[global]\ncanaries=nobody-has-this-name, Root\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, mistakes, err := offline.Check(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(mistakes) != 1 || !strings.Contains(mistakes[0].Error(), `mef.conf:2`) || !strings.Contains(mistakes[0].Error(), `canary "Root" is an account of this host`) {
		t.Errorf("mistakes %v", mistakes)
	}
}
