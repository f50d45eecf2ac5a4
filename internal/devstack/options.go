package devstack

import "log/slog"

// OwnerRole owns the database: not a superuser, but allowed to create roles and
// databases, as the owner of a hosted database is.
const OwnerRole = "mcpsaas_owner"

// AppRole is the role of [Stack.AppDatabaseURL]. Migrations create it.
const AppRole = "app_user"

const databaseName = "mcpsaas"

// Options says what [Start] starts.
type Options struct {
	// Dir keeps the data of the servers, so that a later Start finds them
	// again. It is made if it is missing, and one Stack at a time can have it.
	// Defaults to a temporary directory that Close removes.
	Dir string

	// Postgres starts PostgreSQL.
	Postgres bool

	// Redis starts Redis, or its in-process stand-in.
	Redis bool

	// Fast trades the safety of the data for speed: nothing is synced to disk,
	// and a temporary directory is in memory where there is room. For tests.
	Fast bool

	// Logger hears of each server that was started.
	// Defaults to none.
	Logger *slog.Logger
}

// Stack is what was started. Fields of services that weren't asked for are
// empty.
type Stack struct {
	// Dir is the directory of the servers, in which the caller may keep files of
	// its own: they go when it goes.
	Dir string

	// DatabaseURL logs in as the owner of the database, [OwnerRole].
	DatabaseURL string

	// AppDatabaseURL logs in as [AppRole], once a migration has created it.
	AppDatabaseURL string

	// SuperuserURL logs in as the cluster's superuser.
	SuperuserURL string

	// RedisURL is the URL of Redis or its stand-in.
	RedisURL string

	// Banner has a line for each thing that the user should know, such as that
	// a stand-in is used. The caller prints it.
	Banner []string

	services
}
