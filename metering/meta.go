package metering

import (
	"errors"
	"maps"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// MetaQuota is the name in a result's _meta under which the Middleware tells a
// caller where it stands, an object. Of a call that ran:
//
//	{"plan": "free", "units": 20, "limit": "hour", "allowed": 100, "remaining": 60}
//
// where units is what the call was charged, and the limit is the hard one of a
// window or period with the smallest share left (absent for a plan without one);
// "replay" is true if an earlier call with the same idempotency key was charged
// instead. Of a call that was refused:
//
//	{"code": "quota_exceeded", "plan": "free", "limit": "hour", "allowed": 100,
//	 "remaining": 0, "retryAfterMs": 1234, "resetAt": "2026-11-22T20:15:00Z"}
//
// retryAfterMs and resetAt are absent if the call can never be admitted. Where no
// limit refused, because the plan does not have the tool for instance, there is
// the code, the plan and perhaps retryAfterMs.
const MetaQuota = "io.github.mcpsaas/quota"

// withMeta returns a copy of res that says where the caller stands. Results and
// their _meta may be shared by handlers, so they are not written to.
func withMeta(res *mcp.CallToolResult, c *call) *mcp.CallToolResult {
	var quota map[string]any
	if e, ok := errors.AsType[*QuotaError](res.GetError()); ok {
		quota = refusalMeta(e)
	} else if res.InputRequests == nil && c.decision.Allowed {
		quota = stateMeta(c)
	}
	if quota == nil {
		return res
	}
	clone := *res
	clone.Meta = maps.Clone(res.Meta)
	if clone.Meta == nil {
		clone.Meta = mcp.Meta{}
	}
	clone.Meta[MetaQuota] = quota
	return &clone
}

func refusalMeta(e *QuotaError) map[string]any {
	quota := map[string]any{"code": e.Code, "plan": string(e.Plan)}
	if e.Limit != "" {
		quota["limit"], quota["allowed"], quota["remaining"] = e.Limit, e.Allowed, e.Remaining
	}
	if e.RetryAfter >= 0 {
		quota["retryAfterMs"] = ceilMillis(e.RetryAfter)
	}
	if !e.ResetAt.IsZero() {
		quota["resetAt"] = e.ResetAt.UTC().Format(time.RFC3339Nano)
	}
	return quota
}

func stateMeta(c *call) map[string]any {
	quota := map[string]any{"plan": string(c.tenant.Plan), "units": c.decision.Units}
	if c.decision.Replay {
		quota["replay"] = true
	}
	if c.scope == nil || len(c.decision.Limits) == 0 {
		return quota
	}
	tightest, least := -1, 2.0
	for i, l := range c.scope.limits {
		if l.Hold > 0 {
			continue // what it says of is the call's own slot, which is free again
		}
		if share := 1 - float64(l.used(c.decision))/float64(l.Units); l.hard() && share < least {
			tightest, least = i, share
		}
	}
	if tightest >= 0 {
		l := c.scope.limits[tightest]
		quota["limit"], quota["allowed"], quota["remaining"] = l.Name, l.Units, max(0, l.Units-l.used(c.decision))
	}
	return quota
}

func ceilMillis(d time.Duration) int64 {
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}
