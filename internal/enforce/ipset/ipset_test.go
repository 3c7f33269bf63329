//go:build integration

package ipset_test

import (
	"log/slog"
	"testing"

	"mef/internal/conf"
	"mef/internal/enforce"
	"mef/internal/enforce/enforcetest"
	"mef/internal/enforce/ipset"
	"mef/internal/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// drops are the settings for logging of the default configuration.
var drops = conf.DropLog{Enabled: true, Prefix: "MEF_", Level: "warn", Rate: 1, Burst: 5}

func open(t testing.TB, ns *netnstest.NS, form string) *ipset.Backend {
	t.Helper()
	b, err := ipset.Form(form, ns.Fd(), slog.New(slog.NewTextHandler(t.Output(), nil)), enforce.Settings{Log: drops})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func TestKernelKeepsThePromises(t *testing.T) {
	for _, form := range []string{"iptables-legacy", "iptables-nft"} {
		t.Run(form, func(t *testing.T) {
			enforcetest.Promises(t, func(t testing.TB) enforce.Backend { return open(t, netnstest.New(t), form) })
		})
	}
}
