//go:build integration

package policy_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mef/internal/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// TestKernelTakesCases loads what the cases want. A file "ipset" has what "ipset restore" has to make first, for sets of others.
func TestKernelTakesCases(t *testing.T) {
	netnstest.Need(t)
	for _, dir := range cases(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			if script := text(t, dir, "want.nft"); script != "" {
				netnstest.New(t).Run(t, script, "nft", "-f", "-")
			}
			steps := text(t, dir, "want.iptables")
			if steps == "" {
				return
			}
			for _, variant := range []string{"nft", "legacy"} {
				ns := netnstest.New(t)
				if foreign := text(t, dir, "ipset"); foreign != "" {
					ns.Run(t, foreign, "ipset", "restore")
				}
				for step := range strings.SplitSeq(strings.TrimPrefix(steps, "# "), "\n# ") {
					command, input, _ := strings.Cut(step, "\n")
					words := strings.Fields(strings.Replace(command, "tables-", "tables-"+variant+"-", 1))
					ns.Run(t, input+"\n", words[0], words[1:]...)
				}
			}
		})
	}
}

// text returns the text of a file of a case, "" if there is none.
func text(t *testing.T, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return string(text)
}
