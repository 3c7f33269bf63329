package check

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"mef/internal/console"
	"mef/internal/filter"
	"mef/internal/host/docker"
	"mef/internal/mefctl/cli"
	"mef/internal/mefctl/learn"
	"mef/internal/offline"
	"mef/internal/run"
)

const (
	// maxSamples bounds the lines from which a rule is made.
	maxSamples = 1000
	// maxJournal bounds what is read of the journal, and maxLog of each log file, in bytes: the newest.
	maxJournal = 64 << 20
	maxLog     = 32 << 20
	// shownGroups is how many shapes rules suggest shows.
	shownGroups = 20
	// chunk is how much of a log is looked at at a time.
	chunk = 1 << 20
)

var ruleName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,30}$`)

// A proposal is what rules new and rules suggest print as JSON of a rule.
type proposal struct {
	Rule  string    `json:"rule"`           // the text of its file
	File  string    `json:"file,omitempty"` // where it was written
	Lines []matched `json:"lines"`          // the sample lines, as the rule reads them
}

// A source is what a rule reads besides the journal.
type source struct {
	files     []string
	container string // of Docker
}

// flags adds the flags that name it.
func (s *source) flags(flags *pflag.FlagSet) {
	flags.StringArrayVar(&s.files, "files", nil, "a log file that the service writes itself, or a `pattern` of several; may be repeated")
	flags.StringVar(&s.container, "container", "", "the service runs in this `container` of Docker")
}

// keys returns the lines of a rule file that name it.
func (s *source) keys() (keys []string) {
	for _, f := range s.files {
		keys = append(keys, "files="+f)
	}
	if s.container != "" {
		keys = append(keys, "containers="+s.container)
	}
	return keys
}

func newRulesNew(g *cli.Global) *cobra.Command {
	var file, ip string
	var from source
	var write bool
	cmd := &cobra.Command{
		Use:   "new NAME",
		Short: "Make a detection rule from sample lines, and test it on them",
		Long: "new reads log lines of refused and successful logins from --file or standard input. It finds the address and the user\n" +
			"name in them and makes patterns of the rest, anchored at both ends; in lines that are JSON objects it finds the paths of\n" +
			"the address and the user name and the value that reports a refused login. The rule must match every line; then it is\n" +
			"printed, or with --write written into the rules directory.",
		Example: "  grep 'login failed' /var/log/shop.log | mefctl rules new shop --files /var/log/shop.log",
		Args:    console.OneArg("a name for the rule, such as shop"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !ruleName.MatchString(args[0]) {
				return console.Usage("%q is not a name for a rule; use lower-case letters, digits and hyphens", args[0])
			}
			client, err := netip.ParseAddr(ip)
			if ip != "" && err != nil {
				return console.Usage("--ip %q is not an address", ip)
			}
			lines, err := sampleLines(cmd, file)
			if err != nil {
				return err
			}
			var groups learn.Groups
			for i, raw := range lines {
				line, ok := learn.Read(raw, client)
				switch {
				case !ok && ip != "":
					return fmt.Errorf("line %d does not contain %s: %s", i+1, ip, strconv.Quote(raw))
				case !ok:
					return fmt.Errorf("line %d contains no address: %s", i+1, strconv.Quote(raw))
				case line.Program == "" && len(from.keys()) == 0:
					return fmt.Errorf("line %d contains no program, so the rule has to read a file; name it with --files, or --container: %s", i+1, strconv.Quote(raw))
				case line.Several:
					return fmt.Errorf("line %d contains several addresses; name that of the client with --ip: %s", i+1, strconv.Quote(raw))
				}
				groups.Add(raw, line)
			}
			return propose(g, cmd, args[0], groups.Sorted(), from, write)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&file, "file", "", "read the sample lines from this `file`; without it, from standard input")
	flags.StringVar(&ip, "ip", "", "the client's `address`, if lines contain several")
	from.flags(flags)
	flags.BoolVar(&write, "write", false, "write the rule into the rules directory")
	return cmd
}

// sampleLines reads the lines of a file, or of standard input.
func sampleLines(cmd *cobra.Command, file string) ([]string, error) {
	var args []string
	if file != "" {
		args = []string{file}
	}
	in, err := cli.Input(cmd, args)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	text, err := io.ReadAll(io.LimitReader(in, chunk+1))
	if err != nil {
		return nil, err
	}
	lines := slices.DeleteFunc(strings.Split(string(text), "\n"), func(l string) bool { return strings.TrimSpace(l) == "" })
	switch {
	case len(text) > chunk, len(lines) > maxSamples:
		return nil, fmt.Errorf("more than %d lines; a few of each kind are enough", maxSamples)
	case len(lines) == 0:
		return nil, errors.New("no sample lines; give some with --file or on standard input")
	}
	return lines, nil
}

// propose makes a rule of groups, tries it on their lines, and prints or writes it.
func propose(g *cli.Global, cmd *cobra.Command, name string, groups []*learn.Group, from source, write bool) error {
	text, err := learn.Rule(name, groups, from.keys())
	if err != nil {
		return err
	}
	p := proposal{Rule: text, Lines: []matched{}}
	for _, group := range groups {
		lines, err := tried(name, text, group.Examples)
		if err != nil {
			return err
		}
		p.Lines = append(p.Lines, lines...)
	}
	if write {
		cfg, err := loaded(g)
		if err != nil {
			return err
		}
		p.File = filepath.Join(cfg.Paths.RulesDir, name+".conf")
		if _, err := os.Stat(p.File); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s exists; choose another name, or remove it first", p.File)
		}
		if err := writeRule(p.File, text); err != nil {
			return err
		}
		return reloaded(g, cmd, p, fmt.Sprintf("Wrote %s, which matches all %d sample lines.", p.File, len(p.Lines)))
	}
	return g.Print(cmd, p, func(w io.Writer) {
		fmt.Fprint(w, p.Rule)
		fmt.Fprintf(w, "\n# It matches all %d sample lines:\n", len(p.Lines))
		for _, m := range p.Lines[:min(len(p.Lines), 10)] {
			fmt.Fprintf(w, "#   %s from %s", m.Kind, m.Addr)
			if m.User != "" {
				fmt.Fprintf(w, " user %s", strconv.Quote(m.User))
			}
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "# Check that the address is the client's. --write writes the rule into the rules directory.\n")
	})
}

// tried runs lines through a rule, which must read every one of them.
func tried(name, text string, lines []string) (all []matched, err error) {
	dir, err := os.MkdirTemp("", "mefctl")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, name+".conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return nil, err
	}
	matcher, err := offline.ForRule(path)
	if err != nil {
		return nil, fmt.Errorf("the rule made from these lines is not safe:\n%w", err)
	}
	err = matcher.Run(strings.NewReader(strings.Join(lines, "\n")), func(n int, m *filter.Match) error {
		if m == nil {
			return fmt.Errorf("the rule made from these lines does not match %s; write it by hand, see docs/rules.md:\n%s", strconv.Quote(lines[n-1]), text)
		}
		all = append(all, answerFor(n, m))
		return nil
	})
	return all, err
}

func newRulesSuggest(g *cli.Global) *cobra.Command {
	var program, name string
	var from source
	var write bool
	cmd := &cobra.Command{
		Use:   "suggest [FILE]",
		Short: "Find refused logins in the logs that match no rule, and propose a rule",
		Long: "suggest searches the newest part of the journal, of the log files in /var/log and of the output of Docker's containers, or only\n" +
			"FILE or -. It shows lines that contain an address, look like refused logins and match no rule; similar lines together. With\n" +
			"--program it makes a rule from all lines of that program, with --container from all lines of that container, or with FILE and\n" +
			"--name from all lines of that file which name no program; it tests the rule, and prints it, or with --write writes it into the\n" +
			"rules directory.",
		Example: "  mefctl rules suggest\n  mefctl rules suggest --program shopd --write\n  mefctl rules suggest --container shop --write\n" +
			"  mefctl rules suggest /var/log/shop/access.log --name shop --write",
		Args: console.OneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			matcher, err := newMatcher(g, "", "")
			if err != nil {
				return err
			}
			var groups learn.Groups
			look := func(path string, r io.Reader) error {
				groups.File = path
				return unread(r, matcher, &groups)
			}
			switch {
			case len(args) == 1 && from.container != "":
				return console.Usage("name a file or --container, not both")
			case len(args) == 1:
				err = lookInto(cmd, args, look)
			case from.container != "":
				err = lookAtContainers(from.container, look)
			default:
				err = lookAround(cmd.Context(), look)
			}
			if err != nil {
				return err
			}
			all := groups.Sorted()
			if program == "" && name == "" && from.container == "" {
				return g.Print(cmd, all, func(w io.Writer) { showGroups(w, all) })
			}
			of := cmp.Or(program, from.container)
			if of == "" {
				if len(args) == 0 {
					return console.Usage("name the program with --program, or a log file whose lines name no program")
				}
				if of = args[0]; len(from.files) == 0 && filepath.IsAbs(of) {
					from.files = []string{of}
				}
			}
			all = slices.DeleteFunc(all, func(x *learn.Group) bool { return x.Program != program })
			if len(all) == 0 {
				return fmt.Errorf("no line of %s looks like a refused login that matches no rule", strconv.Quote(of))
			}
			if program == "" && len(from.keys()) == 0 {
				return console.Usage("name the log file of the rule with --files")
			}
			if name == "" {
				name = strings.ToLower(strings.NewReplacer("/", "-", "_", "-", ".", "-").Replace(of))
			}
			if !ruleName.MatchString(name) {
				return console.Usage("%q is not a name for a rule; choose one with --name", name)
			}
			return propose(g, cmd, name, all, from, write)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&program, "program", "", "make a rule for this program")
	flags.StringVar(&name, "name", "", "`name` of the rule; if missing, that of the program or container")
	from.flags(flags)
	flags.BoolVar(&write, "write", false, "write the rule into the rules directory")
	return cmd
}

// counted returns "1 line" or "2 lines".
func counted(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func showGroups(w io.Writer, all []*learn.Group) {
	if len(all) == 0 {
		fmt.Fprintln(w, "No line looks like a refused login that matches no rule.")
		return
	}
	for _, x := range all[:min(len(all), shownGroups)] {
		program := x.Program
		if program == "" {
			program = x.File
		}
		fmt.Fprintf(w, "%s: %s, %s\n  %s\n", program, counted(x.Count, "line", "lines"), counted(x.Sources, "address", "addresses"), strconv.Quote(x.Examples[0]))
	}
	if more := len(all) - shownGroups; more > 0 {
		fmt.Fprintf(w, "%d more kinds of lines; --json prints all.\n", more)
	}
	fmt.Fprintln(w, "\nmefctl rules suggest --program PROGRAM makes a rule from the lines of a program, --container NAME from those of a container;\n"+
		"mefctl rules suggest FILE --name NAME makes one from the lines of a file that name no program.")
}

// unread adds the lines of r that look like refused logins and that no rule reads.
func unread(r io.Reader, matcher *offline.Matcher, groups *learn.Groups) error {
	rest, buf := []byte(nil), make([]byte, chunk)
	for {
		n, err := r.Read(buf)
		text := append(rest, buf[:n]...)
		end := bytes.LastIndexByte(text, '\n') + 1
		if err != nil || len(text) > 2*chunk {
			end = len(text)
		}
		lines := bytes.Split(bytes.TrimSuffix(text[:end], []byte("\n")), []byte("\n"))
		if end > 0 {
			if err := matcher.Run(bytes.NewReader(text[:end]), func(n int, m *filter.Match) error {
				if m != nil || n > len(lines) || len(lines[n-1]) > 4096 {
					return nil
				}
				raw := string(lines[n-1])
				if line, ok := learn.Read(raw, netip.Addr{}); ok && line.Refused && !line.Addr.IsLoopback() {
					if strings.HasPrefix(groups.File, inContainer) {
						line.Program = "" // the container identifies the service
					}
					groups.Add(raw, line)
				}
				return nil
			}); err != nil {
				return err
			}
		}
		rest = slices.Clone(text[end:])
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// lookInto looks at a file, compressed or not, or at standard input.
func lookInto(cmd *cobra.Command, args []string, look func(path string, r io.Reader) error) error {
	file, err := cli.Input(cmd, args)
	if err != nil {
		return err
	}
	defer file.Close()
	in, err := offline.Decompress(file)
	if err != nil {
		return err
	}
	return look(args[0], in)
}

// inContainer begins the name under which the output of a container is shown.
const inContainer = "container "

// lookAtContainers looks at the newest part of the output of a container, or of all if name is empty. roots are as for docker.Containers.
func lookAtContainers(name string, look func(path string, r io.Reader) error, roots ...string) error {
	containers, err := docker.Containers(roots...)
	if name == "" {
		err = nil // those that cannot be read are left out
	}
	found := false
	for _, c := range containers {
		if c.Log == "" || name != "" && c.Name != name {
			continue
		}
		found = true
		err = errors.Join(err, lookAt(c.Log, func(_ string, r io.Reader) error { return look(inContainer+c.Name, r) }))
	}
	if name != "" && !found && err == nil {
		err = fmt.Errorf("no container %s whose output is in a file", strconv.Quote(name))
	}
	return err
}

// lookAround looks at the newest part of the journal, of each log file below /var/log, and of the output of containers. A file that cannot be
// read is left out.
func lookAround(ctx context.Context, look func(path string, r io.Reader) error) error {
	if run.Installed("journalctl") {
		out, err := run.Output(ctx, maxJournal, "journalctl", "--no-pager", "--quiet", "--output=short", "--lines=200000")
		if err == nil {
			if err := look("", bytes.NewReader(out)); err != nil {
				return err
			}
		}
	}
	for _, glob := range []string{"/var/log/*", "/var/log/*/*"} {
		paths, _ := filepath.Glob(glob)
		for _, path := range paths {
			if err := lookAt(path, look); err != nil && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%s: %w", path, err)
			}
		}
	}
	return lookAtContainers("", look)
}

// lookAt looks at the end of one log file. Archives and files that are no text are left out.
func lookAt(path string, look func(path string, r io.Reader) error) error {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || slices.Contains([]string{".gz", ".xz", ".zst", ".bz2", ".journal", ".db"}, filepath.Ext(path)) {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Seek(max(0, info.Size()-maxLog), io.SeekStart); err != nil {
		return err
	}
	return look(path, io.LimitReader(f, maxLog))
}
