// Package logtime reads the time stamps of log lines.
package logtime

import "time"

// Parse returns the time that a line begins with, as seen at now, in loc where the line names no zone.
func Parse(line []byte, now time.Time, loc *time.Location) (time.Time, bool) {
	return now, false
}
