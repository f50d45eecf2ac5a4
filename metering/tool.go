package metering

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mcpsaas/mcpsaas/metering/usage"
)

// ChargePolicy says which outcomes of a call are charged.
type ChargePolicy int

const (
	// ChargeOnSuccess charges calls that did their work: no error, no IsError,
	// no request for more input. The units of all others are given back. It is
	// the zero value.
	ChargeOnSuccess ChargePolicy = iota

	// ChargeOnStart charges a call once it runs, whether it succeeds, fails,
	// panics or is cancelled. The interim rounds of a call that asks for input
	// are still one call, charged when it ends.
	ChargeOnStart

	// ChargeAlways charges every run of the handler, interim rounds too.
	ChargeAlways
)

// Tool is what a call of one tool costs.
type Tool struct {
	// Units is the price of a call, 1 to MaxUnits.
	Units int64

	// UnitsFunc, if set, is asked instead of Units. It sees the raw arguments
	// (see [UnitsOf] for typed ones), and through the Middleware alone also
	// invalid ones. Zero units are a free call, unless its handler says what it
	// costs. An error refuses the call with that error before the tool runs. So
	// does a price that is not within 0 and MaxUnits, but its caller is told no more
	// than that the call has no price; the log has the rest. It is called once per
	// run of the tool and must be fast and safe for concurrent use.
	UnitsFunc func(*mcp.CallToolRequest) (int64, error)

	// Charge says which outcomes cost. Defaults to ChargeOnSuccess.
	Charge ChargePolicy

	// Free makes the tool cost nothing and never touch the limiter, whatever its
	// handler says by Charge; its calls are recorded with 0 units.
	Free bool
}

// errPrice is a price that can't be: a mistake in the server, or in arguments that
// nobody has checked.
var errPrice = errors.New("metering: price call")

// UnitsOf prices a call by its typed arguments, for [Tool.UnitsFunc].
func UnitsOf[In any](price func(In) int64) func(*mcp.CallToolRequest) (int64, error) {
	return func(req *mcp.CallToolRequest) (int64, error) {
		var in In
		if len(req.Params.Arguments) > 0 {
			if err := json.Unmarshal(req.Params.Arguments, &in); err != nil {
				return 0, fmt.Errorf("%w: %w", errPrice, err)
			}
		}
		return price(in), nil
	}
}

func (t Tool) validate(field string) error {
	switch {
	case t.Free && (t.Units != 0 || t.UnitsFunc != nil):
		return fmt.Errorf("%s.Free: the tool has a price as well", field)
	case !t.Free && t.UnitsFunc == nil && (t.Units < 1 || t.Units > MaxUnits):
		return fmt.Errorf("%s.Units: %d is not within 1 and %d; a tool that costs nothing says Free", field, t.Units, int64(MaxUnits))
	case t.UnitsFunc != nil && t.Units != 0:
		return fmt.Errorf("%s: Units and UnitsFunc are both set", field)
	case t.Charge < ChargeOnSuccess || t.Charge > ChargeAlways:
		return fmt.Errorf("%s.Charge: unknown policy %d", field, t.Charge)
	}
	return nil
}

func (t Tool) price(req *mcp.CallToolRequest) (int64, error) {
	if t.UnitsFunc == nil {
		return t.Units, nil
	}
	units, err := t.UnitsFunc(req)
	if err == nil && (units < 0 || units > MaxUnits) {
		err = fmt.Errorf("%w: %d units are not within 0 and %d", errPrice, units, int64(MaxUnits))
	}
	return units, err
}

// charges reports whether a call that ended so is charged.
func (p ChargePolicy) charges(o usage.Outcome) bool {
	switch o {
	case usage.OK:
		return true
	case usage.Input:
		return p == ChargeAlways
	default:
		return p != ChargeOnSuccess
	}
}
