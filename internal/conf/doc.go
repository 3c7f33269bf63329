// Package conf has what the operator configures in the files under /etc/mef: the settings of mef.conf, detection rules, and entries of
// address lists. Every stage may import it.
//
// Packages below conf read the files: diag has mistakes and their places, ini the format, rulefile the rules with the linter of their
// patterns, and mefconf mef.conf with all that it names. Lists have a format of their own, which is read here.
package conf
