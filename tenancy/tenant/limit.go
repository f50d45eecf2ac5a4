package tenant

// Unlimited is the [Limit.Units] of a tenant for whom a limit of its plan does
// not hold.
const Unlimited = -1

// Limit is a limit that one tenant has of its own: another number for a limit of
// its plan, or a limit beside those, such as a cap on what it spends. What the
// fields mean, and what may be in them, is up to package metering.
type Limit struct {
	// Name is that of the plan's limit that this one replaces, as the tenant is
	// told it ("hour", "generate_report hour"), or a new one.
	Name string `json:"name"`

	// Units is how many units it allows; Unlimited means that the plan's limit
	// of this name does not hold.
	Units int64 `json:"units"`

	// Per is what the units are counted over: a period ("day", "month",
	// "billing") or the length of a sliding window ("15m", "24h"). Empty for a
	// limit that only changes the number of its plan's: it has no effect under a
	// plan that has none of this name.
	Per string `json:"per,omitempty"`

	// Tool restricts a limit that has Per to one tool.
	Tool string `json:"tool,omitempty"`

	// Mode is "soft" or "shadow" for a limit that refuses nothing.
	Mode string `json:"mode,omitempty"`
}
