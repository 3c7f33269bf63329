//go:build integration

package nftset_test

import (
	"testing"

	"mef/internal/enforce"
	"mef/internal/enforce/enforcetest"
	"mef/internal/netnstest"
)

func TestKernelKeepsThePromises(t *testing.T) {
	enforcetest.Promises(t, func(t testing.TB) enforce.Backend { return open(t, netnstest.New(t)) })
}
