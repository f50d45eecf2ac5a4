// Package tenancy runs each statement as one tenant, and lets PostgreSQL's row
// level security see to it that no other tenant's rows are in reach.
package tenancy
