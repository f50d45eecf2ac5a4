// The MCP inspector's command line, in both eras of the protocol.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { denial, keyOf, mcpURL, tools } from './demo.mjs';

const inspector = fileURLToPath(new URL('node_modules/.bin/mcp-inspector', import.meta.url));

// Its exit codes.
const ok = 0;
const authRequired = 3;
const toolError = 5;

async function inspect(key, ...args) {
	const header = key ? ['--header', `Authorization: Bearer ${key}`] : [];
	const child = spawn(
		process.execPath,
		[inspector, '--cli', '--server-url', mcpURL.href, '--transport', 'http', '--stored-auth-only', '--format', 'json', ...header, ...args],
		{ stdio: ['ignore', 'pipe', 'pipe'] },
	);
	const exited = new Promise((resolve, reject) => child.on('close', resolve).on('error', reject));
	const [code, stdout, stderr] = await Promise.all([exited, text(child.stdout), text(child.stderr)]);
	return { code, stdout, stderr };
}

function resultOf(run, code) {
	assert.equal(run.code, code, `exit ${run.code}: ${run.stderr}`);
	return JSON.parse(run.stdout).result;
}

for (const era of ['legacy', 'modern']) {
	const args = ['--protocol-era', era];

	test(`inspector ${era}: lists tools with portable schemas`, async () => {
		const run = await inspect(keyOf('starter'), ...args, '--method', 'tools/list', '--strict');
		assert.deepEqual(resultOf(run, ok).tools.map((t) => t.name).sort(), tools);
	});

	test(`inspector ${era}: calls search_products`, async () => {
		const run = await inspect(keyOf('starter'), ...args, '--method', 'tools/call', '--tool-name', 'search_products', '--tool-arg', 'query=e2e');
		const result = resultOf(run, ok);
		assert.ok(result.structuredContent.products.length > 0, run.stdout);
		for (const { name } of result.structuredContent.products) assert.match(name, /^e2e /);
	});

	test(`inspector ${era}: reads why the free tenant is denied`, async () => {
		const run = await inspect(keyOf('free'), ...args, '--method', 'tools/call', '--tool-name', 'search_products', '--tool-arg', 'query=e2e');
		const result = resultOf(run, toolError);
		assert.equal(result.isError, true);
		assert.match(result.content[0].text, denial);
	});

	test(`inspector ${era}: is refused without a key`, async () => {
		const run = await inspect('', ...args, '--method', 'tools/list');
		assert.equal(run.code, authRequired, run.stdout + run.stderr);
		assert.equal(run.stdout, '');
	});
}
