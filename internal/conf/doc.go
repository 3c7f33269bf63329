// Package conf reads mef.conf, detection rules and address lists: the operator's files under /etc/mef.
//
// The format is text with [section] headers and key=value lines, described in docs/. Reading is strict: an unknown key, a
// value out of range or a duplicate name is an Error with its place, and all of them are reported at once. What is read is
// checked here, so that no stage checks again.
package conf
