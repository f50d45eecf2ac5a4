// Package monitor has what watches a server from outside.
//
// A [Monitor] makes and removes the monitor of one tenant at an external
// service. [Noop] is for servers that are watched by other means, [Manual] for
// a service that has no interface for it: it says what a person has to enter.
//
// [Probe] is a monitor's view of the server, to be run from anywhere: it knocks
// without a credential, and must be refused in the way that lets a client find
// out how to get one; then it calls as a tenant would. It speaks both eras of
// the protocol: that of sessions, which begin with initialize, and that of
// revision 2026-07-28, which has none.
package monitor
