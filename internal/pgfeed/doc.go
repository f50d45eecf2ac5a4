// Package pgfeed keeps a small table in memory, at most a second out of date.
//
// The table has a column "changed xid8 not null default pg_current_xact_id()"
// that every update sets again, an index on it, and no deletes (a row that is
// no longer wanted is marked). A [Feed] loads the table once and then follows:
//
//   - Every 500 ms it asks for the rows with changed >= the oldest transaction
//     that was still running at the time of the poll before. A transaction
//     that commits late is therefore never missed, however many newer ones
//     were seen before it; a row may come twice, which does no harm.
//   - LISTEN on a channel makes it ask at once. That is for latency alone:
//     where notifications don't arrive (a transaction pooler, a lost
//     connection) the poll is what keeps the second.
//
// The sources of the rule are the PostgreSQL manual's sections on
// pg_current_snapshot and on transaction ids: ids are given in the order in
// which transactions first write, not in the order in which they commit.
package pgfeed
