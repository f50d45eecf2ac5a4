package metering

// Runs reports whether Run has begun.
func (l *Leased) Runs() bool { return l.runs() }

// Lends reports whether Run has begun, and units may be lent.
func (m *Meter) Lends() bool { return m.guard.leased.runs() }
