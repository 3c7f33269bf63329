package run_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"mef/internal/run"
)

// insideArg makes TestInside report where it is.
const insideArg = "inside"

func TestInside(t *testing.T) {
	if os.Args[len(os.Args)-1] != insideArg {
		t.Skip("only as a child of TestIsolated")
	}
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		fmt.Printf("interface %s up=%v\n", l.Name, l.Flags&net.FlagUp != 0)
	}
	fmt.Printf("user %d\n", os.Geteuid())
}

func TestIsolated(t *testing.T) {
	out, err := run.Isolated(t.Context(), 1000, "-test.run=^TestInside$", insideArg)
	if errors.Is(err, run.ErrNoNamespace) {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(out), "interface lo up=false\nuser 0\n"; !strings.HasPrefix(got, want) {
		t.Errorf("inside:\n%s\nwant\n%s", got, want)
	}
}
