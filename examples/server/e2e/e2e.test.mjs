// In this order: the first client finds the free tenant's units untouched, and
// the others find them used up.
import './http.mjs';
import './sdk.mjs';
import './client.mjs';
import './inspector.mjs';
