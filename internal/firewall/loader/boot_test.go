package loader

import "testing"

// TestRestarts reads lists of systemd's jobs.
func TestRestarts(t *testing.T) {
	for jobs, want := range map[string]bool{
		"": false,
		"  412 mef.service restart running\n  413 nginx.service start waiting\n": true,
		"412 mef.service stop running\n":                                         false,
		"412 mef.service try-restart running\n":                                  true,
		"412 mefdaemon.service restart running\n":                                false,
		"No jobs running.\n":                                                     false,
	} {
		if got := restarts(jobs, "mef.service"); got != want {
			t.Errorf("%q: %t, want %t", jobs, got, want)
		}
	}
}
