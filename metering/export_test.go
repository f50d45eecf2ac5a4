package metering

// Runs reports whether Run has begun.
func (l *Leased) Runs() bool { return l.runs() }
