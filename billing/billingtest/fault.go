package billingtest

// Fault is what happens to one report on its way.
type Fault string

// The faults. Of those that lose the answer, Before means that the report was
// not applied, After that it was.
const (
	NoFault    Fault = "none"
	DropBefore Fault = "drop before" // the request is lost
	DropAfter  Fault = "drop after"  // the answer is lost
	FailBefore Fault = "500 before"  // a failure, saved under the idempotency key
	FailAfter  Fault = "500 after"   // the same, though the report was applied
	Truncated  Fault = "truncated"   // success, in an answer that can't be read
	Limited    Fault = "429"         // not applied: too many requests
	Conflict   Fault = "409"         // not applied: an attempt under the same key is said to be under way
	Denied     Fault = "401"         // not applied: the credential is refused
	Refused    Fault = "400"         // not applied, and never will be
)

// Faults returns the faults after which a report must in the end be billed
// exactly once: all but Refused.
func Faults() []Fault {
	return []Fault{NoFault, DropBefore, DropAfter, FailBefore, FailAfter, Truncated, Limited, Conflict, Denied}
}
