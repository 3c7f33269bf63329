package command

import (
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"mef/internal/console"
	"mef/internal/firewall/importer"
	"mef/internal/firewall/importer/iptsave"
	"mef/internal/firewall/policy"
)

func (o *Options) imports() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import nft|iptables|FILE...",
		Short: "Translate the rules of nftables or iptables into a policy",
		Long: "import prints a policy with the same verdicts as the rules of another program, and on standard error a list of the lines that could\n" +
			"not be imported, which are also comments at their places. Except for that list, the verdict is the same for every packet.\n" +
			"Exit status 1 if there is such a line: look at its place before you load the policy.\n" +
			"Rules that programs such as Docker and fail2ban maintain are not imported and stay in force. Rules of NAT become nat statements\n" +
			"where there is one for them; --nat FILE saves all of them as they are, for nft or iptables-restore.\n" +
			"A FILE alone shows itself what it is; ufw has its administrator's rules in two, which become as many lines.",
		Example: "  mef import /etc/ufw/user.rules /etc/ufw/user6.rules > mef.rules\n  mef import nft > mef.rules\n  mef check mef.rules\n  mef apply mef.rules",
		Args:    atMostTwo,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			if hint := programs[args[0]]; hint != "" {
				return console.Usage("%s takes nft, iptables or a file, not the name of another program; write %s", cmd.CommandPath(), fmt.Sprintf(hint, o.name()))
			}
			return o.importFiles(cmd, args)
		},
	}
	cmd.AddCommand(o.importNFT(), o.importIPTables(), o.listFile())
	return cmd
}

// programs are those whose names are tried in place of files, with the command to write.
var programs = map[string]string{
	"ufw": "%s import /etc/ufw/user.rules /etc/ufw/user6.rules", "firewalld": "%s import nft", "nftables": "%s import nft", "ip6tables": "%s import iptables",
}

// atMostTwo refuses more than two files.
func atMostTwo(cmd *cobra.Command, args []string) error {
	if len(args) > 2 {
		return console.Usage("%s takes two files at most, one for each family; %q is one too many", cmd.CommandPath(), args[2])
	}
	return nil
}

// importFiles imports files of iptables-save, or one for nft, whichever they are.
func (o *Options) importFiles(cmd *cobra.Command, args []string) error {
	files, err := inputs(cmd, args)
	if err != nil {
		return err
	}
	if !iptsave.Is(files[0].Text) {
		if len(files) > 1 {
			return console.Usage("%s: nft takes one file", cmd.CommandPath())
		}
		result, err := ImportNFT(cmd.Context(), &files[0], o.self("import", listFileName), o.name()+" import")
		if err != nil {
			return err
		}
		return o.imported(cmd, result, "")
	}
	result, err := ImportIPTables(cmd.Context(), files, 0, o.name()+" import")
	if err != nil {
		return err
	}
	return o.imported(cmd, result, "")
}

func (o *Options) importNFT() *cobra.Command {
	var nat string
	cmd := &cobra.Command{
		Use:   "nft [FILE]",
		Short: "The rules of nftables",
		Long: "nft reads the rules in force, or those of FILE: a script for nft, which is loaded into a temporary network namespace, or the output of\n" +
			"nft -j list ruleset. Several tables at a hook become one policy, because a packet has to pass all of them.",
		Args: console.OneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			files, err := inputs(cmd, args)
			if err != nil {
				return err
			}
			var file *Input
			if len(files) > 0 {
				file = &files[0]
			}
			result, err := ImportNFT(cmd.Context(), file, o.self("import", listFileName), o.name()+" import nft")
			if err != nil {
				return err
			}
			return o.imported(cmd, result, nat)
		},
	}
	natFlag(cmd, &nat, "the NAT chains, as a script for nft")
	return cmd
}

// natFlag adds the option that names a file for NAT.
func natFlag(cmd *cobra.Command, file *string, what string) {
	cmd.Flags().StringVar(file, "nat", "", "write to `FILE` "+what)
}

func (o *Options) importIPTables() *cobra.Command {
	var family, nat string
	cmd := &cobra.Command{
		Use:   "iptables [FILE [FILE]]",
		Short: "The rules of iptables and ip6tables",
		Long: "iptables reads the rules in force, or those of files that iptables-save and ip6tables-save have written, one for each family.\n" +
			"An address family without a file is not filtered: the policy accepts it.",
		Args: atMostTwo,
		RunE: func(cmd *cobra.Command, args []string) error {
			f, known := map[string]policy.Family{"": 0, "ip": policy.V4, "ip6": policy.V6}[family]
			if !known || f != 0 && len(args) != 1 {
				return console.Usage("--family %q: write ip or ip6, with one file", family)
			}
			files, err := inputs(cmd, args)
			if err != nil {
				return err
			}
			result, err := ImportIPTables(cmd.Context(), files, f, o.name()+" import iptables")
			if err != nil {
				return err
			}
			return o.imported(cmd, result, nat)
		},
	}
	natFlag(cmd, &nat, "with .v4 and .v6 appended, the table nat for iptables-restore and ip6tables-restore")
	cmd.Flags().StringVar(&family, "family", "", "ip or ip6, if the file does not show it")
	return cmd
}

func inputs(cmd *cobra.Command, names []string) (files []Input, err error) {
	for _, name := range names {
		f, err := ReadInput(name, cmd.InOrStdin())
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// importJSON is what became of rules, for programs.
type importJSON struct {
	Text   string          `json:"text"`
	Rules  int             `json:"rules"`
	Left   []importer.Left `json:"not_carried_over"`
	Notes  []string        `json:"notes"`
	Advice []string        `json:"advice"`
}

// imported prints what became of rules. That a line was left out which makes a difference is exit status 1.
func (o *Options) imported(cmd *cobra.Command, r *Import, nat string) error {
	if nat != "" {
		for ending, text := range r.NAT {
			if err := os.WriteFile(nat+ending, []byte(text), 0o644); err != nil {
				return err
			}
		}
	}
	out := importJSON{r.Text, r.Rules, r.Left, r.Notes, r.Advice}
	err := console.Print(cmd, o.JSON, out, func(w io.Writer) { io.WriteString(w, r.Text) })
	if err != nil {
		return err
	}
	if !o.JSON {
		complain(cmd.ErrOrStderr(), r)
	}
	if slices.ContainsFunc(r.Left, importer.Left.Matters) {
		return &console.Exit{Code: 1}
	}
	return nil
}

// complain reports what the policy does not have, and what else there is to know.
func complain(w io.Writer, r *Import) {
	for _, l := range r.Left {
		fmt.Fprintf(w, "not imported: %s\n", l)
	}
	for _, n := range slices.Concat(r.Notes, r.Advice) {
		fmt.Fprintf(w, "note: %s\n", n)
	}
	fmt.Fprintf(w, "%s in the policy, %s not imported\n", count(r.Rules, "rule"), count(len(r.Left), "line"))
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// listFileName is the command that import nft starts in a namespace of its own.
const listFileName = "list-file"

func (o *Options) listFile() *cobra.Command {
	return &cobra.Command{
		Use:    listFileName + " FILE [INTERFACE...]",
		Short:  "Load a script for nft into this namespace, and list what the kernel holds",
		Hidden: true, // started by import nft
		Args:   cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return ListFile(cmd.Context(), cmd.OutOrStdout(), args[0], args[1:])
		},
	}
}
