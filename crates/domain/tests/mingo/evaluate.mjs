// Answers, for each line {"filter":…,"document":…} on stdin, `true`, `false` or {"error":…} on stdout:
// whether mingo finds that the document matches. The one argument is the directory whose node_modules hold it.
//
// mingo has MongoDB's language, so a filter of ours is written in that first; see README.md for what is left.

import { createRequire } from "node:module";
import { resolve } from "node:path";
import { createInterface } from "node:readline";

const require = createRequire(resolve(process.argv[2], "index.js"));
const { Query } = require("mingo");

const COMBINATORS = new Set(["$and", "$or", "$nor"]);

const translateFilter = (filter) =>
  Object.fromEntries(
    Object.entries(filter).map(([key, value]) =>
      COMBINATORS.has(key) ? [key, value.map(translateFilter)] : [key, translateCondition(value)],
    ),
  );

const translateCondition = (condition) => {
  if (Array.isArray(condition)) return { $in: condition };
  if (condition === null || typeof condition !== "object") return { $eq: condition };
  return translateOperators(condition);
};

// Two of our operators may both become `$regex`, and an object has one of a name: hence the list for `$and`
// inside out, `$not` of `$not`, which means the same.
const translateOperators = (operators) => {
  const translated = {};
  let nested = translated;
  for (const [name, operand] of Object.entries(operators).map(translateOperator)) {
    if (name in nested) {
      nested.$not = { $not: {} };
      nested = nested.$not.$not;
    }
    nested[name] = operand;
  }
  return translated;
};

const escape = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

const translateOperator = ([name, operand]) => {
  switch (name) {
    case "$prefix":
      return ["$regex", `^${escape(operand)}`];
    case "$suffix":
      return ["$regex", `${escape(operand)}$`];
    case "$not":
      return [name, translateCondition(operand)];
    case "$elemMatch": {
      const first = Object.keys(operand)[0];
      const isOperators = first.startsWith("$") && !COMBINATORS.has(first);
      return [name, isOperators ? translateOperators(operand) : translateFilter(operand)];
    }
    default:
      return [name, operand];
  }
};

for await (const line of createInterface({ input: process.stdin })) {
  const { filter, document } = JSON.parse(line);
  try {
    console.log(JSON.stringify(new Query(translateFilter(filter)).test(document)));
  } catch (error) {
    console.log(JSON.stringify({ error: String(error) }));
  }
}
