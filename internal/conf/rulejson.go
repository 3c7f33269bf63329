package conf

import (
	"strings"
)

// A Path leads to a value of a JSON object: request.remote_ip is the member remote_ip of the member request. A number selects an
// element of an array.
type Path []string

// String returns the path as it is written in a rule.
func (p Path) String() string { return strings.Join(p, ".") }

// A JSON reports how a rule reads lines that are JSON objects.
type JSON struct {
	Addr    Path // the address, with or without a port
	User    Path
	Message Path // the text that the rule's patterns are matched against

	// A line for which all terms of one condition hold is an event of that kind.
	Fail, Probe, OK []Condition
}

// A Condition is terms that must all hold.
type Condition []Term

// A Term compares one value of a line. Numbers, true, false and null are compared as they are written, strings by their content.
type Term struct {
	Path  Path
	Test  Test
	Value string
}

// A Test is what a term demands of its value.
type Test uint8

// The tests. A value that is not there equals nothing, and is not present.
const (
	Equal    Test = iota // ==
	NotEqual             // !=: the value is there, and another
	Begins               // ^=
	Present              // the path alone: there, and neither null, false nor empty
	Absent               // !path
)
