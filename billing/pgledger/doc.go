// Package pgledger keeps usage events and the state of billing in PostgreSQL.
package pgledger
