package mefconf

import (
	"testing"

	"mef/internal/conf"
	"mef/internal/conf/conftest"
	"mef/internal/conf/ini"
)

func FuzzConfig(f *testing.F) {
	conftest.Seed(f, "testdata/*/mef.conf")
	f.Fuzz(func(t *testing.T, text []byte) {
		cfg := new(conf.Config)
		r := reader{Loader: loader, cfg: cfg}
		r.global(ini.Scan("mef.conf", text, "global"))
		conftest.Inside(t, "mef.conf", text, r.errs)
		if len(cfg.Origins) < len(keys)/2 {
			t.Errorf("%d origins", len(cfg.Origins))
		}
	})
}
