// Package redisquota is the metering.Limiter on Redis: exact sliding windows
// and period counters, for any number of processes that share a Redis.
//
//	client, err := redisquota.NewClient("redis://localhost:6379/0")
//	limiter, err := redisquota.New(client, nil)
//	meter, err := metering.New(limiter, sink, nil)
//
// A call is decided by one script call, whatever the number of limits and
// units: all limits are checked, then all are taken or none, by the clock of
// Redis. It works with Redis 6.2 and later, Valkey, and Redis Cluster.
//
// A sliding window is one string at any limit, mostly of 700 bytes and never of more than
// 1,400. It remembers
// runs of calls as one entry that counts until its last call is a window old: no
// window ever holds more units than the limit, and a unit is released late by
// at most metering.Limit.Resolution. Periods are plain counters with the start
// of the period in their key.
//
// A request with a Receipt leaves in Redis, for a day, that it was carried out. If its
// answer is lost, the error has a method Receipt() string, by which Withdraw and
// SettleLate give the question one outcome.
//
// The data is a cache of the recent past: when Redis loses it, windows start
// anew. Keys are "prefix:{tenant}:kind:..." and expire by themselves.
//
// A [Stream] keeps usage events in Redis where no disk survives the process, and
// only in a Redis that keeps its data.
package redisquota
