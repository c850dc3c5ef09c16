// Verifies the deliveries on standard input with npm's standardwebhooks and @octokit/webhooks-methods.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";

const require = createRequire(resolve(process.argv[2], "package.json"));
const { Webhook } = require("standardwebhooks");
const octokit = resolve(process.argv[2], "node_modules/@octokit/webhooks-methods/dist-node/index.js");
const { verify } = await import(pathToFileURL(octokit));

function refuses(webhook, body, headers) {
  try {
    webhook.verify(body, headers);
    return false;
  } catch {
    return true;
  }
}

const deliveries = JSON.parse(readFileSync(0, "utf8"));
for (const { headers, body, signing_secrets, tokens } of deliveries) {
  for (const secret of signing_secrets) {
    const webhook = new Webhook(secret);
    webhook.verify(body, headers);
    if (!refuses(webhook, body + " ", headers)) throw new Error("standardwebhooks took a forged body");
  }
  const signatures = [headers["x-neo-signature"], headers["x-neo-signature-previous"]];
  for (const [index, token] of tokens.entries()) {
    if (!(await verify(token, body, signatures[index]))) throw new Error(`@octokit refused signature ${index}`);
    if (await verify(token, body + " ", signatures[index])) throw new Error("@octokit took a forged body");
  }
}
console.log(`verified ${deliveries.length} deliveries`);
