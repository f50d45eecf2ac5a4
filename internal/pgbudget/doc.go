// Package pgbudget lends connections to many databases under one budget: what
// a server bears is connections, not pools, and a thousand tenants' databases
// must not take more of them because they are a thousand.
//
// A pool is one database, named by a key, with its configuration and its
// connections. [Budget.Acquire] takes an idle connection of that pool; below the
// budget it opens one; with the budget spent it closes the connection that has
// been idle for the longest in any other pool, and opens one in its place; and
// if all are at work it waits.
//
// # Who is served first
//
// Within a pool, callers are served in the order in which they came. Pools
// that need one more connection than they have stand in a queue of their own,
// each once: a connection that is given back goes to the pool at its head, and a
// pool that still needs another one goes to its end. So the caller of a quiet
// database doesn't wait behind a thousand of a busy one's. A connection stays
// with its pool for a quantum of 50 ms after it was opened, if callers wait there:
// a change of database costs as much as dozens of statements. Nobody starves.
//
// # What is down
//
// Connections are opened by goroutines of the budget's own, so that a call
// that is cancelled wastes none. A database that nobody has reached yet, or no
// longer, is tried by one of them at a time, whose error is that of all who wait;
// so is a server that can't be reached, whichever of its databases is asked for.
// What they wait for occupies one connection of the budget, and others' calls go on.
//
// # Why not a pgxpool for each database
//
// A pgxpool bounds its own connections. Many of them under one bound need a
// count over all of them, a list of idle connections over all of them to choose
// the victim from, and a queue over all of them. The first could be held by its
// hooks; but its idle list and its queue are inside: a pool can't be told to give
// up its least recently used connection, nor that one which is given back
// belongs to somebody else's caller. Each would also keep two goroutines.
package pgbudget
