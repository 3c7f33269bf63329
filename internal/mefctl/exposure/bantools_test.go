package exposure

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestBanTools(t *testing.T) {
	proc := t.TempDir()
	for pid, comm := range map[string]string{"1": "systemd", "20": "fail2ban-server", "21": "fail2ban-server", "300": "lfd - sleeping",
		"4": "crowdsec-firewa", "self": "sshguard"} {
		os.Mkdir(filepath.Join(proc, pid), 0o755)
		os.WriteFile(filepath.Join(proc, pid, "comm"), []byte(comm+"\n"), 0o644)
	}
	want := []string{"crowdsec-firewall-bouncer", "fail2ban", "lfd (CSF)"}
	if got := banToolsIn(proc); !slices.Equal(got, want) {
		t.Errorf("banTools = %v, want %v", got, want)
	}
}
