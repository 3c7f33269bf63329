package nftlist

import (
	"slices"
	"strings"
)

// A block is a chain, a set or a map as nft lists it for people.
type block struct {
	table string // "inet filter"
	name  string
	nat   bool // a base chain that translates addresses
	lines []string
}

// blocks cuts a listing.
func blocks(text string) (all []block) {
	table := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		line, _, _ = strings.Cut(line, " # handle ")
		words := strings.Fields(line)
		switch {
		case len(words) == 4 && words[0] == "table":
			table = words[1] + " " + words[2]
		case len(words) == 3 && words[2] == "{" && strings.HasPrefix(line, "\t") && !strings.HasPrefix(line, "\t\t"):
			all = append(all, block{table: table, name: words[1], lines: []string{line}})
		case len(all) > 0 && strings.HasPrefix(line, "\t"):
			b := &all[len(all)-1]
			b.lines = append(b.lines, line)
			b.nat = b.nat || len(words) > 1 && words[0] == "type" && words[1] == "nat"
		}
	}
	return all
}

// natText returns a script for nft with the chains that translate addresses, and what they name, in tables of their own: of some
// tables, each as "inet filter".
func natText(text string, tables []string) string {
	all := blocks(text)
	var out strings.Builder
	for _, table := range tables {
		var needed []string
		for _, b := range all {
			if b.table == table && b.nat {
				needed = append(needed, b.name)
			}
		}
		for i := 0; i < len(needed); i++ {
			needed = append(needed, named(all, table, needed[i], needed)...)
		}
		if len(needed) == 0 {
			continue
		}
		out.WriteString("table " + table + "-nat {\n")
		for _, b := range all {
			if b.table == table && slices.Contains(needed, b.name) {
				out.WriteString(strings.Join(b.lines, "\n") + "\n")
			}
		}
		out.WriteString("}\n")
	}
	return out.String()
}

// named returns the blocks of a table that one of them names, without those that are known.
func named(all []block, table, name string, known []string) (names []string) {
	for _, b := range all {
		if b.table != table || b.name != name {
			continue
		}
		for _, line := range b.lines {
			words := strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(" \t,{}", r) })
			for i, w := range words {
				if set, ok := strings.CutPrefix(w, "@"); ok {
					w = set
				} else if i == 0 || words[i-1] != "jump" && words[i-1] != "goto" {
					continue
				}
				if !slices.Contains(known, w) && !slices.Contains(names, w) {
					names = append(names, w)
				}
			}
		}
	}
	return names
}
