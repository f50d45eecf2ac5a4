// What needs no MCP client to be seen.
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { healthURL, mcpURL } from './demo.mjs';

test('http: is healthy, and says no more than that', async () => {
	for (const path of ['/livez', '/readyz', '/startupz', healthURL.pathname]) {
		const response = await fetch(new URL(path, healthURL));
		const body = await response.json();
		assert.equal(response.status, 200, `${path}: ${JSON.stringify(body)}`);
		assert.equal(body.status, 'ok', path);
		assert.deepEqual(Object.keys(body).sort(), ['status', 'ts'], path);
	}
});

test('http: tells who has no key where to get one', async () => {
	const response = await fetch(mcpURL, {
		method: 'POST',
		headers: { 'Content-Type': 'application/json', Accept: 'application/json, text/event-stream' },
		body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/list' }),
	});
	assert.equal(response.status, 401);
	const [, metadata] = response.headers.get('WWW-Authenticate').match(/^Bearer .*\bresource_metadata="([^"]+)"/);
	const resource = await (await fetch(metadata)).json();
	assert.equal(resource.resource, mcpURL.href);
});
