// What the server wrote with -demo-json: where it is, and a tenant per plan.
import { readFileSync } from 'node:fs';

const demo = JSON.parse(readFileSync(process.env.DEMO_JSON, 'utf8'));

export const mcpURL = new URL(demo.mcp_url);
export const healthURL = new URL(demo.health_url);

export function keyOf(plan) {
	const tenant = demo.tenants.find((t) => t.plan === plan);
	if (!tenant?.api_key) throw new Error(`no demo tenant with a key on plan ${plan}`);
	return tenant.api_key;
}

// Every tool of the shop, sorted.
export const tools = ['add_product', 'generate_report', 'health_check', 'search_products', 'usage'];

export const quotaMeta = 'io.github.mcpsaas/quota';

// The denial of search_products on plan free, as its agent must find it.
export const denial = /^quota_exceeded: search_products limit reached for plan free\b.*\bretry in \d+s$/;
