// What any client of the shop must find, whoever made it.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { test } from 'node:test';

import { denial, keyOf, quotaMeta, tools } from './demo.mjs';

// contract tests the client that connect(key) connects. protocol is the
// revision that it must agree on; version(client) says which one it did.
// withOptions(options) is what callTool takes after its first argument.
// statusOf(err) is the HTTP status that an error of the client stands for.
// freeUnits is what must be left of the free tenant's 100 units an hour.
export function contract(name, { connect, protocol, version, withOptions, statusOf, freeUnits }) {
	const session = async (key, use) => {
		const client = await connect(key);
		try {
			return await use(client);
		} finally {
			await client.close();
		}
	};
	const call = (client, tool, args = {}) => client.callTool({ name: tool, arguments: args });

	test(`${name}: agrees on ${protocol} and lists the tools`, () =>
		session(keyOf('starter'), async (client) => {
			assert.equal(version(client), protocol);
			const listed = await client.listTools();
			assert.deepEqual(listed.tools.map((t) => t.name).sort(), tools);
			for (const tool of listed.tools) assert.equal(tool.inputSchema.type, 'object', tool.name);
		}));

	test(`${name}: finds its own product, and no other tenant does`, async () => {
		const product = `e2e ${randomUUID()}`;
		const search = (client) => call(client, 'search_products', { query: product });
		await session(keyOf('starter'), async (client) => {
			const added = await call(client, 'add_product', { name: product, price_cents: 1250 });
			assert.ok(!added.isError, JSON.stringify(added));
			const found = await search(client);
			assert.ok(!found.isError, JSON.stringify(found));
			assert.equal(found.structuredContent.products.length, 1);
			const [{ name, price_cents }] = found.structuredContent.products;
			assert.deepEqual({ name, price_cents }, { name: product, price_cents: 1250 });
			assert.deepEqual(JSON.parse(found.content[0].text), found.structuredContent);
			const { plan, units, remaining } = found._meta[quotaMeta];
			assert.deepEqual({ plan, units }, { plan: 'starter', units: 1 });
			assert.ok(remaining < 1000, `remaining ${remaining} after two calls`);
		});
		await session(keyOf('pro'), async (client) => {
			const found = await search(client);
			assert.ok(!found.isError, JSON.stringify(found));
			assert.deepEqual(found.structuredContent.products, []);
		});
	});

	test(`${name}: is told of progress`, () =>
		session(keyOf('pro'), async (client) => {
			const seen = [];
			const report = await client.callTool({ name: 'generate_report', arguments: {} }, ...withOptions({ onprogress: (p) => seen.push(p.progress) }));
			assert.ok(!report.isError, JSON.stringify(report));
			assert.equal(report._meta[quotaMeta].units, 20);
			assert.ok(seen.length > 0, 'no progress');
			assert.deepEqual(seen, seen.toSorted((a, b) => a - b));
		}));

	test(`${name}: is told which argument is wrong`, () =>
		session(keyOf('starter'), async (client) => {
			let message;
			try {
				const result = await call(client, 'add_product', { name: 'e2e', price_cents: 'dear' });
				assert.equal(result.isError, true, JSON.stringify(result));
				message = result.content[0].text;
			} catch (err) {
				if (err instanceof assert.AssertionError) throw err;
				message = err.message;
			}
			assert.match(message, /price_cents/);
		}));

	// Once each: who presents wrong keys too often isn't judged any more.
	test(`${name}: is refused with a wrong key`, async () => {
		const key = keyOf('starter');
		const wrong = key.slice(0, -1) + (key.at(-1) === 'a' ? 'b' : 'a');
		await assert.rejects(
			session(wrong, (client) => client.listTools()),
			(err) => statusOf(err) === 401 || assert.fail(`status ${statusOf(err)}: ${err}`),
		);
	});

	test(`${name}: reads why the free tenant is denied`, async () => {
		await session(keyOf('free'), async (client) => {
			let admitted = 0;
			let result;
			for (const [tool, units] of [['generate_report', 20], ['search_products', 1]]) {
				for (let calls = 0; calls <= 100; calls++) {
					result = await call(client, tool);
					if (result.isError) break;
					assert.equal(result._meta[quotaMeta].units, units);
					admitted += units;
					// Leaves something for the cheap tool.
					if (tool === 'generate_report' && admitted === 80) break;
				}
			}
			assert.equal(admitted, freeUnits, `units admitted before ${JSON.stringify(result)}`);
			assert.equal(result.isError, true);
			assert.match(result.content[0].text, denial);
			assert.equal(result.structuredContent, undefined);
			const { code, plan, remaining, retryAfterMs } = result._meta[quotaMeta];
			assert.deepEqual({ code, plan, remaining }, { code: 'quota_exceeded', plan: 'free', remaining: 0 });
			assert.ok(retryAfterMs > 0 && retryAfterMs <= 3_600_000, `retryAfterMs ${retryAfterMs}`);
			// What costs nothing goes on.
			const usage = await call(client, 'usage');
			assert.ok(!usage.isError, JSON.stringify(usage));
		});
		await session(keyOf('starter'), async (client) => {
			const result = await call(client, 'search_products', { query: '' });
			assert.ok(!result.isError, `another tenant is denied too: ${JSON.stringify(result)}`);
		});
	});
}
