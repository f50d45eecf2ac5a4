// The second generation of the TypeScript SDK, in both eras of the protocol.
import { Client, SdkHttpError, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';

import { contract } from './contract.mjs';
import { mcpURL } from './demo.mjs';

for (const [protocol, options] of [
	['2025-11-25', {}],
	['2026-07-28', { versionNegotiation: { mode: 'auto' } }],
]) {
	contract(`client ${protocol}`, {
		async connect(key) {
			const client = new Client({ name: 'e2e-client', version: '1.0.0' }, options);
			await client.connect(new StreamableHTTPClientTransport(mcpURL, { requestInit: { headers: { Authorization: `Bearer ${key}` } } }));
			return client;
		},
		protocol,
		version: (client) => client.getNegotiatedProtocolVersion(),
		withOptions: (options) => [options],
		statusOf: (err) => (err instanceof SdkHttpError ? err.status : undefined),
		freeUnits: 0, // sdk.mjs has used them up
	});
}
