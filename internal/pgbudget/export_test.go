package pgbudget

// Sweep does now what happens every now and then.
func (b *Budget) Sweep() { b.sweep() }
