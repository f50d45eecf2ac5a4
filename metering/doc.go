// Package metering counts what the tenants of an MCP server use, refuses what
// their plans do not allow, and records what they are billed for.
//
//	meter, err := metering.New(limiter, sink, &metering.Options{
//		Tools: map[string]metering.Tool{"search": {Units: 1}, "report": {Units: 20}},
//	})
//	server.AddReceivingMiddleware(mcptenant.Middleware(nil), meter.Middleware())
//	mcp.AddTool(server, &mcp.Tool{Name: "search"}, metering.WithMetering(meter, "search", search))
//	group.Go(func() error { return meter.Run(ctx) }) // an errgroup that ends with the server
//
// A call goes through three steps. Reserve: the price of the tool is taken from
// every limit of the tenant's plan at once, by one question to the [Limiter], or
// the call is refused by a [*QuotaError]. Run. Settle: a call that did not do its
// work (an error, a panic, an interim round that asks for input) gives its units
// back, unless the tool's [ChargePolicy] says otherwise; one that did is charged
// what was reserved, or what its handler said by [Charge] and [AddUnits]. Then its event
// is recorded in the [usage.Sink], and only then is the call answered.
//
// The tenant and its plan come from the context, by package tenant, and are
// never looked up. [Meter.Run], beside the server, is for what goes on beside the
// calls; while it runs, large limits are served from blocks of units that the
// limiter lends ([Leased]). The limiter has 25 ms to answer. After five failures in a row
// it is asked once a second until it answers again, and meanwhile a plan gets
// what its OnOutage says.
//
// # When the limiter is away
//
// Calls that are let through meanwhile say so in their events. With
// [Options.Journal] they are noted, and so are units that could not be given back;
// Run tells the limiter of them when it is there again, and limits and events agree.
// With [Options.Ledger] the counter of a period that the limiter has lost is filled
// again. Its windows begin anew: see the design for why.
//
// # When the sink fails
//
// A call that is to be charged does not run while the sink says that it takes no
// events ([usage.Sink] tells how): its caller gets [ErrNotRecorded]. If only its own
// event can't be recorded, tried twice, it is not answered: its caller gets the same,
// and its units back. The tool has run, and a caller that tries again makes it run
// again. Better that than an answer that nobody can be billed for, or a bill for an
// answer that nobody got. The event of what isn't charged is tried once, and the
// answer given all the same.
//
// # Calls that are sent again
//
// A caller that lost an answer may send the call again with the idempotency key
// of the first time in its _meta, and is charged once; see [MetaIdempotencyKey].
//
// # What a tenant sees
//
// [Meter.AddUsage] adds a tool and a resource by which an agent sees where its
// tenant stands, [MetaQuota] tells it with every result, and [AlertOptions] have the
// tenant told when it has used a part of a limit. Limits may be soft or on trial, see
// [Mode]; a tenant may have some of its own, see [Plan.With].
//
// # Two wrappers
//
// [WithMetering] prices a call when its arguments have passed the schema;
// [Meter.Middleware] meters what was not wrapped and adds [MetaQuota] to results.
// Use both: a call is charged once, and [Meter.Coverage] names the tools that
// have no price. Denials work without the middleware too, as text.
package metering
