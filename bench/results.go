package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

// results are the tables of a run: a section for each scenario, a row for each measurement, a column for each product.
type results struct {
	begun    time.Time
	machine  string
	products []*product
	sections []*section
}

type section struct {
	title, text string
	rows        []*row
}

type row struct {
	what, budget string
	cells        map[*product]string
}

// section appends a section.
func (r *results) section(title, text string) *section {
	s := &section{title: title, text: text}
	r.sections = append(r.sections, s)
	return s
}

// set fills one cell. The row is created when it is first named.
func (s *section) set(p *product, what, budget, format string, args ...any) {
	i := slices.IndexFunc(s.rows, func(r *row) bool { return r.what == what })
	if i < 0 {
		i = len(s.rows)
		s.rows = append(s.rows, &row{what: what, budget: budget, cells: map[*product]string{}})
	}
	s.rows[i].cells[p] = fmt.Sprintf(format, args...)
	fmt.Fprintf(os.Stderr, "%s  %s: %s: %s: %s\n", time.Now().Format(time.TimeOnly), s.title, p.name, what, s.rows[i].cells[p])
}

// markdown returns the tables as RESULTS.md has them.
func (r *results) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Run of %s, %s after it began; %s.\n\n", r.begun.Format("2006-01-02 15:04 MST"), time.Since(r.begun).Round(time.Second), r.machine)
	for _, p := range r.products {
		fmt.Fprintf(&b, "- %s: %s\n", p.name, p.version)
	}
	for _, s := range r.sections {
		fmt.Fprintf(&b, "\n### %s\n\n%s\n\n", s.title, s.text)
		b.WriteString("| what | budget |")
		for _, p := range r.products {
			b.WriteString(" " + p.name + " |")
		}
		b.WriteString("\n| --- | --- |" + strings.Repeat(" --- |", len(r.products)) + "\n")
		for _, row := range s.rows {
			fmt.Fprintf(&b, "| %s | %s |", row.what, orDash(row.budget))
			for _, p := range r.products {
				b.WriteString(" " + orDash(row.cells[p]) + " |")
			}
			b.WriteByte('\n')
		}
	}
	return b.String()
}

func orDash(text string) string {
	if text == "" {
		return "–"
	}
	return text
}

// marker ends the part of RESULTS.md that is written by hand.
const marker = "<!-- What follows is written by `make bench`. -->\n"

// replaceIn replaces what follows the marker in the file at path, or appends both.
func (r *results) replaceIn(path string) error {
	old, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	head, _, found := bytes.Cut(old, []byte(marker))
	if !found && len(head) > 0 {
		head = append(head, '\n')
	}
	return os.WriteFile(path, fmt.Appendf(head, "%s\n%s", marker, r.markdown()), 0o644)
}

// describeMachine describes the machine and software on which the figures depend.
func describeMachine() string {
	cpu := "unknown CPU"
	info, _ := os.ReadFile("/proc/cpuinfo")
	if _, rest, ok := strings.Cut(string(info), "model name\t: "); ok {
		cpu, _, _ = strings.Cut(rest, "\n")
	}
	load, _ := os.ReadFile("/proc/loadavg")
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	nft, _ := exec.Command("nft", "--version").Output()
	return fmt.Sprintf("%d × %s, Linux %s, %s, %s, load at the start %s", runtime.NumCPU(), cpu, strings.TrimSpace(string(kernel)),
		runtime.Version(), strings.TrimSpace(string(nft)), strings.Join(strings.Fields(string(load))[:3], " "))
}

// spread shows the values of several runs: the median, the least and the greatest.
func spread(values []float64, format func(float64) string) string {
	slices.Sort(values)
	if len(values) == 1 {
		return format(values[0])
	}
	return fmt.Sprintf("%s (%s to %s)", format(quantile(values, 0.5)), format(values[0]), format(values[len(values)-1]))
}

// quantile returns the value that a share q of the sorted values does not exceed.
func quantile(sorted []float64, q float64) float64 {
	i := int(q*float64(len(sorted)) + 0.999999)
	return sorted[min(max(i, 1), len(sorted))-1]
}

// count writes 1234567 as 1,234,567.
func count(x float64) string {
	digits := fmt.Sprintf("%.0f", x)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// megabytes writes bytes as megabytes of 2^20.
func megabytes(bytes int64) string { return fmt.Sprintf("%.1f MB", float64(bytes)/(1<<20)) }

// milliseconds writes a number of milliseconds, with more digits the smaller it is.
func milliseconds(ms float64) string {
	if ms < 10 {
		return fmt.Sprintf("%.2f ms", ms)
	}
	return fmt.Sprintf("%.0f ms", ms)
}
