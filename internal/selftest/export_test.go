package selftest

// Test is Run with what wrap makes of the backend: for tests that break it.
var Test = test
