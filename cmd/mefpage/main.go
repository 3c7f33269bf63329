// Command mefpage serves the operator's page and metrics of mefdaemon, which starts it; it is not to be started by hand. It has no rights
// of its own.
package main

import (
	"fmt"
	"os"
	"runtime/debug"

	"mef/internal/page"
	"mef/internal/page/sandbox"
	"mef/internal/printable"
)

// version is set by the linker.
var version = "unknown"

func main() {
	debug.SetMemoryLimit(48 << 20)
	stdout, stderr := printable.Text(os.Stdout), printable.Text(os.Stderr)
	if err := sandbox.Renounce(); err != nil {
		fmt.Fprintf(stderr, "mefpage: %v\n", err)
		os.Exit(1)
	}
	if len(os.Args) == 4 && os.Args[1] == "--make-certificate" { // for mefdaemon
		if err := page.MakeCertificate(os.Args[2], os.Args[3], stdout); err != nil {
			fmt.Fprintf(stderr, "mefpage: %v\n", err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) > 1 {
		if os.Args[1] == "--version" {
			fmt.Fprintln(stdout, "mefpage", version)
			return
		}
		fmt.Fprintln(stderr, "mefpage: mefdaemon starts this program if page or metrics is set in mef.conf; it takes no argument but --version")
		os.Exit(2)
	}
	if err := page.Run(os.Stdin, stdout); err != nil {
		fmt.Fprintf(stderr, "mefpage: %v\n", err)
		os.Exit(1)
	}
}
