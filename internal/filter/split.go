package filter

// Split returns the program that a line of a log file names, "" if it names none, and the message behind its header. Both point into the line.
func Split(line []byte) (program, message []byte) {
	h := parseHeader(line)
	return h.program, h.message
}
