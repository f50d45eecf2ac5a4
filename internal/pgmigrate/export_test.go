package pgmigrate

// Split is split, for tests.
var Split = split
