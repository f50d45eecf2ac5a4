// Package archtest holds the rules of the house as a test: who may import
// whom, what may stand in an exported API, that everything exported is
// documented, that every package has an example, and a few habits that reviews forget.
//
// [Check] reads the source with go/parser. It takes no build system into
// account, so that a file for another operating system is checked as well, and
// because a test that opens files is run again when one of them changes, its
// result never comes stale from the test cache (a test that asks "go list"
// does).
//
// The rules themselves are tables in rules.go: a new package or a new import of
// a third-party module has to be entered there, which is where the reviewer
// sees it.
package archtest
