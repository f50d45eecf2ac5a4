// Package pgmove carries the rows of one tenant from one place to another
// while the tenant goes on writing: into a schema of its own and back, within
// a database or from one to another.
//
// # How
//
// Capture: triggers on the source's tables log the keys of the rows that are
// written. Creating a trigger waits for every transaction that has written to
// the table, so that what isn't logged is visible to a later snapshot.
//
// Copy: all tables in one snapshot, those that are referred to first.
//
// Catch up: the log is read, and deleted, in one snapshot, together with the
// present state of the rows that it names; at the target those that are gone
// are deleted and the others written. The log says only which rows to look at:
// its order doesn't matter, nor that a sequence has gaps, and to do it again
// after a crash does no harm.
//
// Verify: with a snapshot that the target has caught up with, the number of
// rows and the sum of their hashes are compared for each table. Each delta after
// that compares the rows that it has touched; sums add up.
//
// Switch: under the tenant's exclusive lock the last delta is carried over, and
// then the placement is changed. Within a database all of it is one transaction.
// Between two, the fence of the source is closed first and that of the target
// opened last: a crash in between leaves the tenant unavailable, and never with
// two homes, until the move is resumed.
//
// # Who else is there
//
// Every transaction is short but for the copy's, names what it needs with
// "set local", and so works through a transaction pooler. Each one locks the
// row of mcpsaas.move_ends that says who is moving the tenant.
//
// The caller owns the table of moves and says what a state means; the steps
// here may be run again at any time.
package pgmove
