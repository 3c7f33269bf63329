package check

import (
	"io"
	"strings"
	"testing"

	"mef/internal/host/docker/dockertest"
)

// The output of containers is looked at by name, or of all of them.
func TestLookAtContainers(t *testing.T) {
	d := dockertest.New(t)
	d.Run("shop", "x/shop", 0, "json-file").Print("stdout", "login failed for bob from 192.0.2.7\n")
	d.Run("db", "x/db", 0, "json-file").Print("stdout", "hello\n")
	d.Run("other", "x/other", 0, "journald")
	for name, want := range map[string]string{"": "container db: hello container shop: login", "shop": "container shop: login", "other": "no container \"other\"", "x": "no container \"x\""} {
		var seen []string
		err := lookAtContainers(name, func(path string, r io.Reader) error {
			text, err := io.ReadAll(r)
			seen = append(seen, path+": "+strings.FieldsFunc(string(text), func(c rune) bool { return strings.ContainsRune("\" \\", c) })[3])
			return err
		}, d.Root)
		got := strings.Join(seen, " ")
		if err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, want) {
			t.Errorf("%q: %s, want %s", name, got, want)
		}
	}
}
