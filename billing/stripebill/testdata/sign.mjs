// Signs and verifies webhooks with Stripe's library for Node.js, which is found
// from the directory STRIPE_NODE. The payload comes on standard input.
//
//   node sign.mjs sign SECRET UNIX_TIME     prints the header
//   node sign.mjs verify SECRET HEADER      prints the event's id, or fails
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const library = createRequire(process.env.STRIPE_NODE + "/")("stripe");
const { webhooks } = new (library.default ?? library)("sk_test_unused");
const [action, secret, rest] = process.argv.slice(2);
const payload = readFileSync(0, "utf8");
if (action === "sign") {
	process.stdout.write(webhooks.generateTestHeaderString({ payload, secret, timestamp: Number(rest) }));
} else {
	process.stdout.write(webhooks.constructEvent(payload, rest, secret).id);
}
