// Command mefctl is the operator's tool for mefdaemon; package mefctl has its commands.
package main

import (
	"os"

	"mef/internal/mefctl"
)

// version is set by the linker.
var version = "unknown"

func main() { os.Exit(mefctl.Main(version)) }
