// Package e2e_test runs mefdaemon and mefctl as they are installed, against real daemons, a real journal and a real kernel, and
// attacks them with real clients (package lab). What is asserted is what an operator or an attacker can see.
//
// There is one world, in which the tests run one after the other. Each starts its own mefdaemon without saved state, and uses
// addresses of its own.
package e2e_test
