// Package cloud_test runs a community server and hosts that share their bans through it, each in a network namespace of its own.
package cloud_test
