"""Verifies the deliveries on standard input with PyPI's standardwebhooks."""

import json
import sys

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

deliveries = json.load(sys.stdin)
for delivery in deliveries:
    for secret in delivery["signing_secrets"]:
        webhook = Webhook(secret)
        webhook.verify(delivery["body"], delivery["headers"])
        try:
            webhook.verify(delivery["body"] + " ", delivery["headers"])
        except WebhookVerificationError:
            continue
        raise SystemExit("standardwebhooks took a forged body")
print(f"verified {len(deliveries)} deliveries")
