package tenancy

// What later doors are made of, for the tests of what it is made of itself.
var (
	CreateSchema  = createSchema
	ProtectSchema = protectSchema
	DropSchema    = dropSchema
)
