package policy_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"mef/internal/conf"
	"mef/internal/firewall/policy"
)

// TestLongLines has what no file of the cases has: lines of a megabyte.
func TestLongLines(t *testing.T) {
	const header = "policy dir=in action=drop\n"
	long := strings.Repeat("192.0.2.1,", 1<<20/10)
	for name, tt := range map[string]struct{ text, want string }{
		"a list":    {header + "set name=x elements=" + long + "192.0.2.2\n", "mef.rules:2:1: the line is longer than 65536 bytes; keep long lists in a file: set name=NAME file=PATH"},
		"a comment": {header + "# " + long + "\n", "mef.rules:2:1: the line is longer than 65536 bytes; keep long lists in a file: set name=NAME file=PATH"},
		"one word":  {header + strings.Repeat("x", 1<<20), "mef.rules:2:1: the line is longer than 65536 bytes; keep long lists in a file: set name=NAME file=PATH"},
		"zeros":     {header + strings.Repeat("\x00", 60000) + "\n", "mef.rules:2:1: byte 0x0 is not text; save the file as UTF-8"},
		"a word that is as long as can be": {header + "rule dir=in action=accept proto=tcp src=" + strings.Repeat("9", 60000) + "\n",
			`mef.rules:2:41: "` + strings.Repeat("9", 80) + `…" is not an entry; write any, or addresses, prefixes such as 192.0.2.0/24, ranges a-b, sets such as @office and @country:DE, or all except those such as !@office`},
	} {
		if _, err := policy.Parse("mef.rules", []byte(tt.text)); err == nil || err.Error() != tt.want {
			t.Errorf("%s: error %.300v, want %s", name, err, tt.want)
		}
	}
}

// TestMistakesAreBounded has as many mistakes as one can make in files that are no policies.
func TestMistakesAreBounded(t *testing.T) {
	for name, line := range map[string]string{
		"of form":       "one two\n",
		"of statements": "nonsense\n",
		"of values":     "rule dir=x action=y proto=z family=a ct=b log=c ratelimit=d iif=/ src=e dport=f\n",
		"in sets":       "set name=x elements=@y\n",
	} {
		_, err := policy.Parse("mef.rules", []byte("policy dir=in action=drop\n"+strings.Repeat(line, 50_000)))
		var errs conf.Errors
		if !errors.As(err, &errs) || len(errs) < 2 || len(errs) > 120 {
			t.Errorf("%s: %d mistakes, want about a hundred", name, len(errs))
			continue
		}
		if last := errs[len(errs)-1]; !strings.Contains(last.Msg, "too many mistakes") {
			t.Errorf("%s: the last one is %v", name, last)
		}
	}
}

// TestManySets names sets that cannot be, of which each is a mistake of its own at the end.
func TestManySets(t *testing.T) {
	var b strings.Builder
	b.WriteString("policy dir=in action=drop\n")
	for i := range 5000 {
		fmt.Fprintf(&b, "set name=s%d elements=@s%d\n", i, (i+1)%5000)
	}
	_, err := policy.Parse("mef.rules", []byte(b.String()))
	if err == nil || !strings.Contains(err.Error(), "the set contains itself") || len(err.Error()) > 10_000 {
		t.Errorf("error of %d bytes: %.200v", len(fmt.Sprint(err)), err)
	}
}

// TestUnreadable reads what is no text at all.
func TestUnreadable(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "large.rules")
	if err := os.WriteFile(large, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(large, 17<<20); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ path, want string }{
		"absent":   {filepath.Join(dir, "absent"), "no such file"},
		"a folder": {dir, "not a regular file"},
		"large":    {large, "larger than 16 MiB"},
		"endless":  {"/dev/zero", "not a regular file"},
	} {
		if _, err := policy.Read(tt.path); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), tt.path) {
			t.Errorf("%s: error %v, want %q and the path", name, err, tt.want)
		}
	}
	zeros, err := os.Open("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	defer zeros.Close()
	if _, err := policy.ReadAll("stdin", zeros); err == nil || !strings.Contains(err.Error(), "stdin has more than 16 MB") {
		t.Errorf("endless input: %v", err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		"set name=zero file=/dev/zero": "2:20: /dev/zero: not a regular file",
		"set name=zero file=pipe":      "2:20: " + dir + "/pipe: not a regular file",
		"include=pipe":                 "2:9: " + dir + "/pipe: not a regular file",
		"include=/dev/tty":             "2:9: /dev/tty: not a regular file",
	} {
		_, err = policy.Parse(filepath.Join(dir, "mef.rules"), []byte("policy dir=in action=drop\n"+line+"\n"))
		if err == nil || !strings.Contains(err.Error(), "mef.rules:"+want) {
			t.Errorf("%s: error %v, want %s", line, err, want)
		}
	}
}

// TestNamesOfFilesAreQuoted has a file whose name would break a message over two lines and turn a terminal red.
func TestNamesOfFilesAreQuoted(t *testing.T) {
	const name, quoted = "a\nb\x1b[31m.rules", `"a\nb\x1b[31m.rules":`
	src, err := policy.Parse(name, []byte("policy dir=in action=drop\nrule dir=in action=accept proto=tcp dport=22\n"))
	if err != nil {
		t.Fatal(err)
	}
	pol := src.Policy(policy.Facts{})
	lines := []string{pol.Decide(policy.Packet{Dir: policy.In, State: policy.New, Syn: true, Proto: policy.TCP, Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr("192.0.2.2"), Dport: 22}).String()}
	for _, w := range policy.NewModel(pol).Warnings(policy.Any) {
		lines = append(lines, w.String())
	}
	_, err = policy.Parse(name, []byte("nonsense\n"))
	for _, line := range append(lines, fmt.Sprint(err)) {
		if !strings.Contains(line, quoted) || strings.ContainsAny(line, "\n\x1b") {
			t.Errorf("message %q, want %s in it", line, quoted)
		}
	}
}

// TestDigestNamesTheText changes with each file that was read.
func TestDigestNamesTheText(t *testing.T) {
	dir := t.TempDir()
	seen := map[string]string{}
	read := func(what string, files map[string]string) {
		t.Helper()
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		src, err := policy.Read(filepath.Join(dir, "mef.rules"))
		if err != nil {
			t.Fatal(err)
		}
		if before, ok := seen[src.Digest]; ok {
			t.Errorf("%s has the digest of %s", what, before)
		}
		seen[src.Digest] = what
		again, err := policy.Read(filepath.Join(dir, "mef.rules"))
		if err != nil || again.Digest != src.Digest {
			t.Errorf("%s, read again: digest %s, %v; want %s", what, again.Digest, err, src.Digest)
		}
	}
	read("the first", map[string]string{
		"mef.rules":  "policy dir=in action=drop\ninclude=more.rules\nset name=x file=x.list\n",
		"more.rules": "rule dir=in action=accept proto=tcp src=@x\n",
		"x.list":     "192.0.2.1\n",
	})
	read("another list", map[string]string{"x.list": "192.0.2.2\n"})
	read("another include", map[string]string{"more.rules": "rule dir=in action=accept proto=udp src=@x\n"})
	read("a comment", map[string]string{"mef.rules": "policy dir=in action=drop\ninclude=more.rules\nset name=x file=x.list\n# more\n"})
}

// inside fails if a mistake does not stand inside the text, or repeats raw bytes of it.
func inside(t *testing.T, file string, text []byte, err error) {
	t.Helper()
	var errs conf.Errors
	if !errors.As(err, &errs) {
		t.Fatalf("error %v is no list of mistakes", err)
	}
	lines := bytes.Split(bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")), []byte("\n"))
	for _, e := range errs {
		if e.File != file || e.Line < 0 || e.Line > len(lines) || e.Line > 0 && (e.Col < 1 || e.Col > len(lines[e.Line-1])+1) {
			t.Fatalf("%v is not in the text", e)
		}
		if strings.ContainsAny(e.Error(), "\x00\x1b\n\r") {
			t.Fatalf("raw bytes in %q", e.Error())
		}
	}
}

// FuzzParse reads anything. What is a policy stays the same when it is formatted, and when it is frozen.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/cases/*/*.rules")
	if err != nil || len(files) == 0 {
		f.Fatalf("no cases: %v", err)
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	for _, text := range []string{"=", "include", "rule=x", "\xef\xbb\xbf\xef\xbb\xbf", "policy dir=in action=\"drop\"\r\n", "policy dir=in action=drop\nset name=x elements=@x"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if bytes.Contains(text, []byte("include")) || bytes.Contains(text, []byte("file")) {
			t.Skip("reads other files")
		}
		out, formatErr := policy.Format("fuzz.rules", text)
		if formatErr != nil {
			inside(t, "fuzz.rules", text, formatErr)
		}
		src, err := policy.Parse("fuzz.rules", text)
		if err != nil {
			inside(t, "fuzz.rules", text, err)
			return
		}
		if formatErr != nil {
			t.Fatalf("what parses does not format: %v", formatErr)
		}
		want := src.Policy(facts)
		if diff := difference(want, policyOf(t, out)); diff != "" {
			t.Fatalf("formatted it becomes\n%s\n%s", out, diff)
		}
		if again := formatted(t, string(out)); again != string(out) {
			t.Fatalf("formatted it becomes\n%s\nand then\n%s", out, again)
		}
		before, after := frozen(t, src)
		before.Expects = nil
		if diff := difference(before, after); diff != "" {
			t.Fatalf("frozen it becomes\n%s\n%s", src.Freeze(facts), diff)
		}
	})
}

// policyOf returns the policy that a text is.
func policyOf(t *testing.T, text []byte) *policy.Policy {
	t.Helper()
	src, err := policy.Parse("fuzz.rules", text)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return src.Policy(facts)
}

// TestDigestNamesNoPlace is the same for one policy, wherever it is and however it is called: what was refused in one place is not
// loaded from another.
func TestDigestNamesNoPlace(t *testing.T) {
	at := func(path string) string {
		t.Helper()
		src, err := policy.Read(path)
		if err != nil {
			t.Fatal(err)
		}
		return src.Digest
	}
	texts := map[string]string{
		"mef.rules":       "policy dir=in action=drop\ninclude=rules.d\nset name=x file=x.list\n",
		"rules.d/a.rules": "rule dir=in action=accept proto=tcp src=@x\n",
		"x.list":          "192.0.2.1\n",
	}
	dirs := []string{t.TempDir(), t.TempDir()}
	for _, dir := range dirs {
		if err := os.Mkdir(filepath.Join(dir, "rules.d"), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range texts {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := at(filepath.Join(dirs[0], "mef.rules"))
	t.Chdir(dirs[1])
	for _, path := range []string{"mef.rules", "./rules.d/../mef.rules", filepath.Join(dirs[1], "mef.rules")} {
		if got := at(path); got != want {
			t.Errorf("%s: digest %s, elsewhere %s", path, got, want)
		}
	}
}

// TestIncludesAreBounded has files that include each other ten times, to a depth at which nobody would see the end.
func TestIncludesAreBounded(t *testing.T) {
	dir := t.TempDir()
	for i := range 12 {
		text := strings.Repeat(fmt.Sprintf("include=%d.rules\n", i+1), 10)
		if i == 11 {
			text = "# nothing\n"
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.rules", i)), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	_, err := policy.Parse(filepath.Join(dir, "mef.rules"), []byte("policy dir=in action=drop\ninclude=0.rules\n"))
	if err == nil || !strings.Contains(err.Error(), "more than 1000 files; combine them") {
		t.Errorf("error %v", err)
	}
	if n := strings.Count(fmt.Sprint(err), "more than"); n > 1 {
		t.Errorf("that is said %d times", n)
	}
}

// TestWordsOfOtherFirewalls: a line that an administrator writes out of habit is reported with what to write instead.
func TestWordsOfOtherFirewalls(t *testing.T) {
	for line, want := range map[string]string{
		"allow 22/tcp":                                             `1:1: unknown statement "allow"; write rule dir=in action=accept proto=tcp dport=22`,
		"allow in on eth0 to any port 22":                          `1:1: unknown statement "allow"`,
		"deny from 192.0.2.7":                                      `1:1: unknown statement "deny"; write rule dir=in action=drop `,
		"limit ssh":                                                `limit=6/m`,
		"default deny incoming":                                    `write policy dir=in action=drop`,
		"-A INPUT -p tcp --dport 22 -j ACCEPT":                     `mef import iptables FILE`,
		"table inet filter {":                                      `mef import nft FILE`,
		"policy dir=input action=drop":                             `1:12: wrong value "input"; write in`,
		"policy dir=in action=DROP":                                `1:22: wrong value "DROP"; write drop`,
		"policy dir=forward action=deny":                           `write fwd`,
		"rule dir=in action=allow proto=tcp":                       `write accept`,
		"rule dir=in action=limit proto=tcp":                       `write action=accept limit=6/m`,
		"rule dir=fwd action=masquerade proto=all":                 `write nat dir=out oif=INTERFACE action=masquerade`,
		"rule dir=in action=accept family=ipv4 proto=tcp":          `write ip`,
		"rule dir=in action=accept proto=tcp dport=22/tcp":         `write proto=tcp beside the port 22`,
		"rule dir=in action=accept proto=tcp dport=6000:6010":      `write 6000-6010`,
		"rule dir=in action=accept proto=tcp dport=sshd":           `did you mean "ssh"?`,
		"rule dir=in action=accept proto=tcp from=192.0.2.7":       `write src=`,
		"rule dir=in action=accept proto=TCP dport=22":             `did you mean "tcp"?`,
		"rule dir=in action=accept proto=ping":                     `write proto=icmp icmp-type=echo-request`,
		"rule dir=in action=accept proto=icmp icmp-type=ping":      `write echo-request`,
		"rule dir=in action=accept proto=tcp ct=NEW":               `write new`,
		"include /etc/mef/rules.d/web.rules":                       `write include=/etc/mef/rules.d/web.rules`,
		"rule dir=in action=accept proto=tcp dport = 22":           `write fields as key=value`,
		"rule dir=in action=accept proto=tcp zone=public dport=22": `write iif= or oif= with the interfaces of the zone`,
	} {
		_, err := policy.Parse("x.rules", []byte(line+"\n"))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "x.rules:1:") {
			t.Errorf("%s\n%v\nwant %s", line, err, want)
		}
	}
}
