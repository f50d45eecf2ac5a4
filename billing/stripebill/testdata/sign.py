# Signs and verifies webhooks with Stripe's library for Python. The payload
# comes on standard input.
#
#   python3 sign.py sign SECRET UNIX_TIME     prints the header
#   python3 sign.py verify SECRET HEADER      prints the event's id, or fails
import sys

import stripe

action, secret, rest = sys.argv[1:]
payload = sys.stdin.buffer.read().decode("utf-8")
if action == "sign":
    signature = stripe.WebhookSignature._compute_signature(rest + "." + payload, secret)
    print("t=%s,v1=%s" % (rest, signature), end="")
else:
    print(stripe.Webhook.construct_event(payload, rest, secret)["id"], end="")
