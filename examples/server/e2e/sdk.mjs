// The first generation of the TypeScript SDK, which most clients still use.
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport, StreamableHTTPError } from '@modelcontextprotocol/sdk/client/streamableHttp.js';

import { contract } from './contract.mjs';
import { mcpURL } from './demo.mjs';

let transport;

contract('sdk', {
	async connect(key) {
		const client = new Client({ name: 'e2e-sdk', version: '1.0.0' });
		transport = new StreamableHTTPClientTransport(mcpURL, { requestInit: { headers: { Authorization: `Bearer ${key}` } } });
		await client.connect(transport);
		return client;
	},
	protocol: '2025-11-25',
	version: () => transport.protocolVersion,
	withOptions: (options) => [undefined, options], // a schema of the result comes first
	statusOf: (err) => (err instanceof StreamableHTTPError ? err.code : undefined),
	freeUnits: 100, // the first to use the free tenant
});
