package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"mef/internal/conf"
	"mef/internal/console"
	"mef/internal/firewall/importer"
	"mef/internal/firewall/importer/iptsave"
	"mef/internal/firewall/importer/nftlist"
	"mef/internal/firewall/policy"
	"mef/internal/host"
	"mef/internal/run"
)

// maxOutput bounds what programs may print: a listing of sets with a million elements.
const maxOutput = 256 << 20

// An Input is a file with somebody else's rules, or what came on standard input.
type Input struct {
	Name string // for people
	Path string // empty for standard input
	Text []byte
}

// ReadInput reads a file, or for "-" standard input: as much as a program may say at most.
func ReadInput(name string, stdin io.Reader) (Input, error) {
	in := Input{Name: "stdin"}
	if name != "-" {
		text, err := conf.ReadFile(name, maxOutput)
		if err != nil {
			return in, conf.FileError(name, err)
		}
		return Input{Name: conf.Name(name), Path: name, Text: text}, nil
	}
	var err error
	in.Text, err = io.ReadAll(io.LimitReader(stdin, maxOutput+1))
	if err == nil && len(in.Text) > maxOutput {
		err = fmt.Errorf("%s has more than %d MB: it does not contain rules", in.Name, maxOutput>>20)
	}
	return in, err
}

// An Import is what somebody else's rules became.
type Import struct {
	importer.Result
	Advice []string          // what to do on a host where another program makes rules
	NAT    map[string]string // what translates addresses, as its own program takes it, by the ending of a file's name
}

// ImportNFT says in mef.rules what nftables does: now, or once a file is loaded. A script is loaded and listed in a network namespace
// of its own, by this program once more: child is the command line, without the name, that leads it to ListFile. What nft has
// listed as JSON is read as it is. command is who asks.
func ImportNFT(ctx context.Context, file *Input, child []string, command string) (*Import, error) {
	source := "The rules of nftables on this host"
	var l nftlist.Listing
	var err error
	if file == nil {
		l, err = listNFT(ctx)
	} else {
		source = "The rules of " + file.Name
		l, err = listInput(ctx, file, child)
	}
	if err != nil {
		return nil, err
	}
	rs, err := nftlist.Parse(l, source)
	if err != nil {
		return nil, err
	}
	m := managers{firewalldHere: slices.ContainsFunc(rs.Bases, func(c *importer.Chain) bool { return strings.HasPrefix(c.Place, "table inet firewalld,") })}
	if file == nil {
		m.ask(ctx)
	}
	return translated(rs, command, m.adviceNFT())
}

// translated makes a policy of a ruleset, and sees that it is one.
func translated(rs *importer.Ruleset, command string, advice []string) (*Import, error) {
	rs.Own = ownAddresses()
	res := importer.Translate(rs, command)
	if _, err := policy.Parse("policy", []byte(res.Text)); err != nil {
		return nil, fmt.Errorf("the resulting policy has a mistake, which is a fault of mef: %w", err)
	}
	return &Import{res, advice, rs.NATText}, nil
}

// ownAddresses returns the addresses of this host, none if they cannot be read.
func ownAddresses() (own []netip.Prefix) {
	links, _ := host.Links()
	for _, l := range links {
		for _, n := range l.Nets {
			own = append(own, netip.PrefixFrom(n.Addr(), n.Addr().BitLen()))
		}
	}
	return own
}

// listNFT returns what nft lists.
func listNFT(ctx context.Context) (l nftlist.Listing, err error) {
	if l.JSON, err = run.Output(ctx, maxOutput, "nft", "-j", "list", "ruleset"); err == nil {
		l.Text, err = run.Output(ctx, maxOutput, "nft", "-s", "-a", "list", "ruleset")
	}
	switch {
	case errors.Is(err, run.ErrNotFound):
		return l, fmt.Errorf("%w: install the package nftables", err)
	case err != nil:
		return l, fmt.Errorf("the rules of nftables cannot be read: %w", err)
	}
	return l, nil
}

// listInput returns what nft lists once it has loaded a file.
func listInput(ctx context.Context, file *Input, child []string) (l nftlist.Listing, err error) {
	if bytes.HasPrefix(bytes.TrimSpace(file.Text), []byte("{")) {
		return nftlist.Listing{JSON: file.Text}, nil
	}
	path, done, err := file.onDisk()
	if err != nil {
		return l, err
	}
	defer done()
	args := append(slices.Clone(child), "--", path)
	if links, err := host.Links(); err == nil {
		for _, link := range links {
			args = append(args, link.Name)
		}
	}
	out, err := run.Isolated(ctx, maxOutput, args...)
	if errors.Is(err, run.ErrNoNamespace) {
		return l, fmt.Errorf("a script for nft is read by loading it into a network namespace: %w; use the output of nft -j list ruleset instead", err)
	}
	if err != nil {
		return l, err
	}
	var answer listed
	if err := json.Unmarshal(out, &answer); err != nil {
		return l, fmt.Errorf("list the rules that nft has loaded: %w", err)
	}
	if answer.Err != "" {
		return l, fmt.Errorf("nft refused %s: %s", file.Name, strings.ReplaceAll(answer.Err, path, file.Name))
	}
	return nftlist.Listing{JSON: []byte(answer.JSON), Text: []byte(answer.Text)}, nil
}

// onDisk returns an absolute path under which the text is found until it is done with.
func (in *Input) onDisk() (path string, done func(), err error) {
	if in.Path != "" {
		path, err = filepath.Abs(in.Path)
		return path, func() {}, err
	}
	f, err := os.CreateTemp("", "mef-import-")
	if err != nil {
		return "", nil, err
	}
	_, err = f.Write(in.Text)
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(f.Name())
		return "", nil, err
	}
	return f.Name(), func() { os.Remove(f.Name()) }, nil
}

// listed is what the child says.
type listed struct {
	JSON, Text string
	Err        string // of nft
}

// ListFile loads a script into the packet filter of the namespace that it runs in, which is to be an empty one, and writes what nft
// lists then. Interfaces are made first, since nft refuses rules about the index of one that is not there.
func ListFile(ctx context.Context, w io.Writer, path string, links []string) error {
	for _, name := range links {
		_, _ = run.Output(ctx, maxOutput, "ip", "link", "add", "name", name, "type", "dummy") // nft reports what is missing
	}
	var answer listed
	_, err := run.Output(ctx, maxOutput, "nft", "-I", filepath.Dir(path), "-f", path)
	if err == nil {
		var l nftlist.Listing
		l, err = listNFT(ctx)
		answer.JSON, answer.Text = string(l.JSON), string(l.Text)
	}
	if err != nil {
		answer.Err = err.Error()
	}
	return console.Encoder(w).Encode(answer)
}

// ImportIPTables says in mef.rules what iptables and ip6tables do: now, or by files that iptables-save and ip6tables-save wrote. The
// family is that of the files, 0 if they report it themselves. command is who asks.
func ImportIPTables(ctx context.Context, files []Input, family policy.Family, command string) (*Import, error) {
	source := "The rules of iptables and ip6tables on this host"
	var saved []iptsave.File
	var names, notes []string
	for _, f := range files {
		names = append(names, f.Name)
		saved = append(saved, iptsave.File{Name: f.Name, Family: family, Text: f.Text})
	}
	if len(files) > 0 {
		source = "The rules of " + strings.Join(names, " and ")
	} else {
		var err error
		if saved, notes, err = saveIPTables(ctx); err != nil {
			return nil, err
		}
	}
	rs, err := iptsave.Parse(source, saved...)
	if err != nil {
		return nil, err
	}
	rs.Notes = append(rs.Notes, notes...)
	if len(files) == 0 && run.Installed("nft") {
		if l, err := listNFT(ctx); err == nil {
			if beside, err := nftlist.Parse(l, source); err == nil {
				rs.NAT = append(rs.NAT, slices.DeleteFunc(beside.NAT, func(c *importer.Chain) bool { return slices.ContainsFunc(rs.NAT, sameTable(c)) })...)
			}
		}
	}
	m := managers{ufwHere: rs.LeadsTo("ufw"), firewalldHere: rs.LeadsTo("INPUT_ZONES")}
	if len(files) == 0 {
		m.ask(ctx)
	}
	return translated(rs, command, m.adviceIPTables())
}

// sameTable returns a function that reports whether a chain that iptables saves is the one that nft lists.
func sameTable(listed *importer.Chain) func(*importer.Chain) bool {
	family := map[policy.Family]string{policy.V4: "ip", policy.V6: "ip6"}
	return func(saved *importer.Chain) bool {
		return listed.Place == fmt.Sprintf("table %s nat, chain %s", family[saved.Family], saved.Name)
	}
}

// saveIPTables returns the rules in force, and what else there is to know of them.
func saveIPTables(ctx context.Context) (files []iptsave.File, notes []string, err error) {
	files = []iptsave.File{{Name: "iptables-save", Family: policy.V4}, {Name: "ip6tables-save", Family: policy.V6}}
	for i := range files {
		files[i].Text, err = run.Output(ctx, maxOutput, files[i].Name)
		switch {
		case errors.Is(err, run.ErrNotFound):
			return nil, nil, fmt.Errorf("%w: install the package iptables", err)
		case err != nil:
			return nil, nil, fmt.Errorf("the rules of iptables cannot be read: %w", err)
		}
	}
	if legacy, err := os.ReadFile("/proc/net/ip_tables_names"); err == nil && len(legacy) > 0 && bytes.Contains(files[0].Text, []byte("(nf_tables)")) {
		notes = append(notes, "iptables-legacy has more rules: iptables-legacy-save writes them into a file for mef import iptables")
	}
	if tables := otherTables(ctx); len(tables) > 0 {
		notes = append(notes, "nftables has more rules, in "+strings.Join(tables, ", ")+": mef import nft reads them")
	}
	return files, notes, nil
}

// otherTables returns the tables of nftables that belong neither to iptables nor to us, nil if they cannot be read.
func otherTables(ctx context.Context) (tables []string) {
	out, err := run.Output(ctx, maxOutput, "nft", "list", "tables")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		if len(words) != 3 {
			continue
		}
		ofIPTables := (words[1] == "ip" || words[1] == "ip6") && slices.Contains([]string{"filter", "nat", "mangle", "raw", "security"}, words[2])
		if !ofIPTables && importer.KeeperOfTable(words[2]) == "" {
			tables = append(tables, strings.Join(words, " "))
		}
	}
	return tables
}

// managers are programs that make rules from settings of their own.
type managers struct {
	ufw, firewalld         bool // installed; firewalld: running
	ufwOn                  bool // ufw is enabled
	ufwHere, firewalldHere bool // their rules are among those that were read
}

// ask looks for the programs on this host.
func (m *managers) ask(ctx context.Context) {
	m.ufw = run.Installed("ufw")
	conf, _ := os.ReadFile("/etc/ufw/ufw.conf")
	m.ufwOn = strings.Contains("\n"+string(conf), "\nENABLED=yes")
	if run.Installed("firewall-cmd") {
		_, err := run.Output(ctx, maxOutput, "firewall-cmd", "--state")
		m.firewalld = err == nil
	}
}

// adviceNFT reports how to feed mef import nft.
func (m *managers) adviceNFT() (advice []string) {
	if m.ufw && m.ufwOn {
		advice = append(advice, "ufw keeps its rules in chains of iptables: while it is active, mef import iptables reads them")
	}
	if m.firewalldHere {
		advice = append(advice, "firewalld loads the rules of table inet firewalld: after mef apply is confirmed, run systemctl disable --now firewalld, otherwise both are in force; this also ends its NAT")
	} else if m.firewalld {
		advice = append(advice, "firewalld runs and has no table in nftables: with FirewallBackend=iptables, mef import iptables reads its rules")
	}
	return advice
}

// adviceIPTables reports how to feed mef import iptables.
func (m *managers) adviceIPTables() (advice []string) {
	switch {
	case m.ufwHere:
		advice = append(advice, "ufw loads the rules of the chains ufw-*: after mef apply is confirmed, run ufw disable, otherwise both are in force; this also ends NAT in its before.rules")
	case m.ufw:
		advice = append(advice, "ufw is installed, but none of its rules are in force: to import them with mef import iptables, run ufw enable first")
	}
	switch {
	case m.firewalldHere:
		advice = append(advice, "firewalld loads these rules: after mef apply is confirmed, run systemctl disable --now firewalld, otherwise both are in force; this also ends its NAT")
	case m.firewalld:
		advice = append(advice, "firewalld keeps its rules in nftables: while it runs, mef import nft reads them")
	}
	return advice
}
