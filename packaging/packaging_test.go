// Package packaging_test installs into images: folders that stand for a system's root. What needs a running system is shown by
// packaging/accept.
package packaging_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mef/internal/conf"
	"mef/internal/conf/mefconf"
	"mef/internal/filter"
	"mef/internal/firewall/policy"
)

// program stands for mef, mefdaemon and mefctl: what the installer asks of them is the completions.
const program = "#!/bin/sh\necho \"$@\"\n"

// stage lays out an installer of programs with a text.
func stage(t *testing.T, program string) (dir string) {
	t.Helper()
	bin := t.TempDir()
	for _, name := range []string{"mef", "mefdaemon", "mefpage", "mefctl"} {
		write(t, filepath.Join(bin, name), program)
	}
	dir = filepath.Join(t.TempDir(), "mef")
	sh(t, "", "./stage", bin, bin, dir)
	return dir
}

// sh runs a script with DESTDIR set to image, and returns what it says.
func sh(t *testing.T, image, script string, args ...string) string {
	t.Helper()
	said, err := try(image, script, args...)
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", script, args, err, said)
	}
	return said
}

func try(image, script string, args ...string) (string, error) {
	cmd := exec.Command(script, args...)
	cmd.Env = append(os.Environ(), "DESTDIR="+image)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, elem ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// files returns every file below dir, and every folder that is empty.
func files(t *testing.T, dir string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name := strings.TrimPrefix(path, dir)
		if !d.IsDir() {
			paths = append(paths, name)
		} else if entries, _ := os.ReadDir(path); len(entries) == 0 {
			paths = append(paths, name+"/")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func TestInstallPutsEverythingInItsPlace(t *testing.T) {
	image := t.TempDir()
	sh(t, image, stage(t, program)+"/install")
	have := files(t, image)
	for _, want := range []string{
		"/usr/local/sbin/mef", "/usr/local/sbin/mefdaemon", "/usr/local/sbin/mefpage", "/usr/local/bin/mefctl",
		"/usr/local/lib/systemd/system/mef.service", "/usr/local/lib/systemd/system/mef-watch.service", "/usr/local/lib/systemd/system/mefdaemon.service",
		"/usr/local/lib/sysusers.d/mef.conf", "/usr/local/lib/tmpfiles.d/mef.conf", "/usr/local/share/man/man8/mefdaemon.8",
		"/usr/local/share/man/man5/mef.conf.5", "/usr/local/share/man/man5/mefdaemon.lists.5", "/usr/local/share/bash-completion/completions/mefctl",
		"/usr/local/share/zsh/site-functions/_mefctl", "/usr/local/share/fish/vendor_completions.d/mefctl.fish",
		"/usr/local/share/bash-completion/completions/mef", "/usr/local/share/zsh/site-functions/_mef",
		"/usr/local/share/fish/vendor_completions.d/mef.fish",
		"/usr/local/share/mef/uninstall", "/usr/local/share/doc/mef/read-logs.conf", "/usr/local/share/doc/mef/legacy-iptables.conf", "/usr/local/share/doc/mef/examples/mef.rules", "/etc/mef/mef.rules", "/etc/mef/mef.conf", "/etc/mef/rules.d/sshd.conf", "/etc/mef/whitelist/example.conf",
		"/etc/mef/blacklist/example.conf", "/etc/logrotate.d/mef",
	} {
		if !slices.Contains(have, want) {
			t.Errorf("there is no %s", want)
		}
	}
	for path, want := range map[string]fs.FileMode{
		"/usr/local/sbin/mefdaemon": 0o755, "/etc/mef": 0o755 | fs.ModeDir, "/etc/mef/mef.conf": 0o644,
		"/usr/local/share/mef/uninstall": 0o755,
	} {
		if info, err := os.Stat(image + path); err != nil || info.Mode() != want {
			t.Errorf("mode of %s: %v, %v; want %v", path, info.Mode(), err, want)
		}
	}
	if got := read(t, image, "usr/local/share/bash-completion/completions/mefctl"); got != "completion bash\n" {
		t.Errorf("bash completion is %q", got)
	}
}

func TestPrefix(t *testing.T) {
	image := t.TempDir()
	t.Setenv("PREFIX", "/opt/mef")
	sh(t, image, stage(t, program)+"/install")
	for name, want := range map[string]string{"mefdaemon": "\nExecStart=/opt/mef/sbin/mefdaemon\n", "mef": "\nExecStart=/opt/mef/sbin/mef load --boot\n"} {
		unit := read(t, image, "opt/mef/lib/systemd/system", name+".service")
		if !strings.Contains(unit, want) || strings.Contains(unit, "=/usr/local/") {
			t.Errorf("unit:\n%s", unit)
		}
	}
	t.Setenv("PREFIX", "/usr/local") // an installed uninstall knows better
	sh(t, image, image+"/opt/mef/share/mef/uninstall", "--purge")
	if left := files(t, image); !slices.Equal(left, []string{"/etc/"}) {
		t.Errorf("left: %q", left)
	}
}

func TestInstallRefuses(t *testing.T) {
	installer := stage(t, program) + "/install"
	for name, tt := range map[string]struct{ prefix, arg, want string }{
		"an argument":     {"/usr", "--force", `unexpected argument "--force"`},
		"relative prefix": {"usr", "", `PREFIX="usr" is no absolute path`},
		"slash at end":    {"/usr/", "", `PREFIX="/usr/" is no absolute path`},
		"odd character":   {"/opt/my mef", "", `PREFIX="/opt/my mef": use letters`},
	} {
		t.Run(name, func(t *testing.T) {
			image := t.TempDir()
			t.Setenv("PREFIX", tt.prefix)
			said, err := try(image, installer, strings.Fields(tt.arg)...)
			if err == nil || !strings.HasPrefix(said, "install: "+tt.want) {
				t.Errorf("%v, %q; want an error: %s", err, said, tt.want)
			}
			if made := files(t, image); made != nil {
				t.Errorf("made: %q", made)
			}
		})
	}
}

func TestUpgradeKeepsWhatIsTheOperators(t *testing.T) {
	image := t.TempDir()
	sh(t, image, stage(t, program)+"/install")
	write(t, image+"/etc/mef/mef.conf", "[global]\nmode=observe\n")
	if err := os.Remove(image + "/etc/mef/whitelist/example.conf"); err != nil {
		t.Fatal(err)
	}
	write(t, image+"/var/lib/mef/mef.db", "bans")
	// A version had a file that the next one has not.
	dropped := "/usr/local/share/doc/mef/dropped.md"
	write(t, image+dropped, "")
	write(t, image+"/usr/local/share/mef/manifest", read(t, image, "usr/local/share/mef/manifest")+dropped+"\n")

	next := stage(t, program+"# next version\n")
	said := sh(t, image, next+"/install")
	if !strings.Contains(said, "not changed") {
		t.Errorf("install says %q", said)
	}
	if got := read(t, image, "etc/mef/mef.conf"); got != "[global]\nmode=observe\n" {
		t.Errorf("mef.conf is %q", got)
	}
	if got := read(t, image, "usr/local/sbin/mefdaemon"); !strings.Contains(got, "next version") {
		t.Errorf("mefdaemon is %q", got)
	}
	have := files(t, image)
	for _, gone := range []string{"/etc/mef/whitelist/example.conf", dropped} {
		if slices.Contains(have, gone) {
			t.Errorf("there is %s", gone)
		}
	}
	if i := slices.IndexFunc(have, func(path string) bool { return strings.Contains(path, "mef-new") }); i >= 0 {
		t.Errorf("left over: %s", have[i])
	}

	sh(t, image, image+"/usr/local/share/mef/uninstall")
	want := []string{"/etc/mef/blacklist/example.conf", "/etc/mef/mef.conf", "/etc/mef/mef.rules", "/etc/mef/rules.d/sshd.conf", "/etc/mef/whitelist/", "/var/lib/mef/mef.db"}
	if left := files(t, image); !slices.Equal(left, want) {
		t.Errorf("uninstall left %q, want %q", left, want)
	}
}

func TestUninstallLeavesWhatIsOthers(t *testing.T) {
	for name, runs := range map[string][][]string{
		"at once":    {{"--purge"}},
		"one by one": {{}, {"--purge"}},
	} {
		t.Run(name, func(t *testing.T) {
			image := t.TempDir()
			others := []string{"/etc/hosts", "/usr/local/bin/", "/usr/local/lib/systemd/system/other.service", "/usr/local/share/man/", "/var/log/mef.logbook"}
			for _, path := range others {
				if strings.HasSuffix(path, "/") {
					write(t, image+path+"x", "")
					os.Remove(image + path + "x")
				} else {
					write(t, image+path, "")
				}
			}
			installer := stage(t, program)
			sh(t, image, installer+"/install")
			sh(t, image, installer+"/install") // the second time, the folders were there
			write(t, image+"/usr/local/share/zsh/site-functions/_other", "")
			for _, ours := range []string{"/var/log/mef.log", "/var/log/mef.log.1", "/var/log/mef.log.2.gz", "/var/lib/mef/mef.db",
				"/var/lib/mef-firewall/confirmed/policy.rules", "/etc/systemd/system/mef.service.d/override.conf"} {
				write(t, image+ours, "")
			}
			for _, args := range runs {
				sh(t, image, installer+"/uninstall", args...)
			}
			want := append(others, "/usr/local/share/zsh/site-functions/_other", "/var/lib/", "/etc/systemd/system/")
			slices.Sort(want)
			left := files(t, image)
			slices.Sort(left)
			if !slices.Equal(left, want) {
				t.Errorf("left %q, want %q", left, want)
			}
		})
	}
}

func TestUninstallOfNothing(t *testing.T) {
	said, err := try(t.TempDir(), "./uninstall")
	if err == nil || !strings.Contains(said, "mef is not installed") {
		t.Errorf("%v, %q", err, said)
	}
	said, err = try(t.TempDir(), "./uninstall", "--all")
	if err == nil || !strings.Contains(said, `unexpected argument "--all"`) {
		t.Errorf("%v, %q", err, said)
	}
}

// TestShippedConfiguration checks that /etc/mef as we install it is what an empty one is.
func TestShippedConfiguration(t *testing.T) {
	dir := stage(t, program) + "/etc"
	dirs := "[global]\nrules_dir=" + dir + "/rules.d\nwhitelist_dir=" + dir + "/whitelist\nblacklist_dir=" + dir + "/blacklist\n"
	write(t, dir+"/mef.conf", strings.Replace(read(t, dir, "mef.conf"), "[global]\n", dirs, 1))
	load := func(path string) *conf.Config {
		cfg, err := mefconf.Loader{Shipped: filter.Shipped(), Optional: true, Writable: func(string) bool { return true }}.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	got, want := load(dir+"/mef.conf"), load("/nonexistent/mef.conf")
	if len(got.Notices) > 0 || len(got.ListErrors) > 0 || len(got.Rules) != len(want.Rules) {
		t.Errorf("%d rules, want %d; notices %v, errors %v", len(got.Rules), len(want.Rules), got.Notices, got.ListErrors)
	}
}

// uncomment returns a file with what is commented out in it in use.
func uncomment(t *testing.T, file string) string {
	t.Helper()
	var lines []string
	for line := range strings.Lines(read(t, file)) {
		if rest, ok := strings.CutPrefix(line, "#"); ok && !strings.HasPrefix(rest, " ") {
			line = rest
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "")
}

// TestShippedPolicy checks that mef.rules, as it stands and with everything in it that is commented out, does what it promises,
// lacks nothing that a host needs, and is written as mef fmt writes.
func TestShippedPolicy(t *testing.T) {
	file := stage(t, program) + "/etc/mef.rules"
	for name, text := range map[string]string{"as it stands": read(t, file), "with everything": uncomment(t, file)} {
		src, err := policy.Parse(file, []byte(text))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		pol := src.Policy(policy.Facts{})
		m := policy.NewModel(pol)
		if len(pol.Rules) < 8 || len(pol.Expects) < 9 {
			t.Errorf("%s: %d rules, %d expectations", name, len(pol.Rules), len(pol.Expects))
		}
		for _, f := range m.Unmet(pol.Expects) {
			t.Errorf("%s: %s: %s", name, f.Expect.At, f)
		}
		for _, w := range m.Warnings(policy.Any, policy.DHCP()...) {
			t.Errorf("%s: warning: %s", name, w)
		}
		formatted, err := policy.Format(file, []byte(text))
		if err != nil || string(formatted) != text {
			t.Errorf("%s: mef fmt would write, %v\n%s", name, err, formatted)
		}
	}
}

// TestExamplesAreValid checks that what is commented out can be used as it stands.
func TestExamplesAreValid(t *testing.T) {
	for _, list := range []string{"etc/whitelist/example.conf", "etc/blacklist/example.conf"} {
		if entries, errs := conf.ParseList(list, []byte(uncomment(t, list))); len(entries) != 3 || len(errs) > 0 {
			t.Errorf("%s: %d entries, errors %v", list, len(entries), errs)
		}
	}
	dir := t.TempDir()
	write(t, dir+"/mef.conf", "[global]\nrules_dir="+dir+"/rules.d\n")
	write(t, dir+"/rules.d/sshd.conf", uncomment(t, "etc/rules.d/sshd.conf"))
	cfg, err := mefconf.Loader{Shipped: filter.Shipped(), Writable: func(string) bool { return true }}.Load(dir + "/mef.conf")
	if err != nil || len(cfg.Notices) > 0 {
		t.Errorf("error %v, notices %v", err, cfg.Notices)
	}
}

// TestManualPages checks that every program and every kind of file has a page, and that mandoc has nothing against any.
func TestManualPages(t *testing.T) {
	pages, err := filepath.Glob("../man/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"mef.8", "mefdaemon.8", "mefpage.8", "mefctl.8", "mef.rules.5", "mef.conf.5", "mefdaemon.rules.5", "mefdaemon.lists.5"} {
		if !slices.Contains(pages, filepath.Join("../man", want)) {
			t.Errorf("there is no %s", want)
		}
	}
	out, err := exec.Command("mandoc", append([]string{"-T", "lint", "-W", "warning"}, pages...)...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("needs mandoc")
	}
	for line := range strings.Lines(string(out)) {
		if !strings.Contains(line, "missing date") { // which would be another in every version
			t.Error(strings.TrimSpace(line))
		}
	}
}

// TestExposure checks that the sandboxes stay as tight as they are. systemd rates a service from 0 to 10.
func TestExposure(t *testing.T) {
	for unit, limit := range map[string]string{"mefdaemon": "23", "mef": "23"} { // in tenths
		out, err := analyze(t, "security", "--no-pager", "--offline=true", "--threshold="+limit, "systemd/"+unit+".service")
		if err != nil {
			t.Errorf("%s is exposed more than it was: %v\n%s", unit, err, out)
		}
	}
}

// analyze runs systemd-analyze, where there is one that knows how.
func analyze(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := exec.Command("systemd-analyze", args...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) || strings.Contains(string(out), "unrecognized option") {
		t.Skip("needs systemd-analyze of systemd 250 or later")
	}
	return string(out), err
}

// TestUnits has systemd read the services as they are installed, and find nothing that it would ignore.
func TestUnits(t *testing.T) {
	dir := t.TempDir()
	for _, program := range []string{"sbin/mef", "sbin/mefdaemon", "bin/mefctl"} {
		write(t, filepath.Join(dir, program), program)
	}
	dropIn := filepath.Join(dir, "mefdaemon.service.d", "read-logs.conf")
	write(t, dropIn, read(t, "systemd", "read-logs.conf"))
	if err := os.Chmod(dropIn, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"mef.service", "mef-watch.service", "mefdaemon.service"} {
		unit := filepath.Join(dir, name)
		write(t, unit, strings.ReplaceAll(read(t, "systemd", name), "/usr/local/", dir+"/"))
		if err := os.Chmod(unit, 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := analyze(t, "verify", "--man=no", unit)
		if err != nil || strings.Contains(out, name) { // it may have something to say of units that this machine has
			t.Errorf("systemd-analyze verify %s: %v\n%s", name, err, out)
		}
	}
}

// Static programs contain the code of others, whose licences want their text beside it.
func TestLicencesOfAllModules(t *testing.T) {
	out := t.TempDir()
	sh(t, "", "./licences", out)
	list := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}}{{end}}{{end}}", "mef/cmd/mef", "mef/cmd/mefdaemon", "mef/cmd/mefctl", "mef/cmd/mefpage")
	modules, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	names := append(strings.Fields(string(modules)), "go")
	if len(names) < 5 {
		t.Fatalf("modules are %q", names)
	}
	for _, name := range names {
		if len(files(t, filepath.Join(out, name))) == 0 {
			t.Errorf("no licence text of %s", name)
		}
	}
	if script := read(t, "dist"); !strings.Contains(script, `packaging/licences "$tmp/$name/licenses"`) {
		t.Error("packaging/dist does not put the texts into the tarball")
	}
}
