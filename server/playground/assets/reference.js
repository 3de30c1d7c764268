// The API reference: `/openapi.json` as a page, without anything from elsewhere.

import * as api from "./api.js";
import { $, make } from "./dom.js";

const anchor = (text) => text.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "");
const nameOf = (ref) => ref.split("/").pop();
const link = (name) => make("a", { href: `#${anchor(name)}` }, name);

/** Descriptions mark code with one or two backquotes. */
function prose(text) {
  return text.split(/`+/).map((part, at) => (at % 2 ? make("code", {}, part) : part));
}

function bounds(schema) {
  const sane = (bound) => (Math.abs(bound) > Number.MAX_SAFE_INTEGER ? undefined : bound);
  const low = sane(schema.minimum ?? schema.minLength ?? schema.minItems);
  const high = sane(schema.maximum ?? schema.maxLength ?? schema.maxItems);
  if (low === undefined && high === undefined) return "";
  const words = { string: " characters", array: " of them" }[schema.type] ?? "";
  if (high === undefined) return ` (${low} or more${words})`;
  return low === undefined ? ` (up to ${high}${words})` : ` (${low} to ${high}${words})`;
}

/** What is not required may be null all the same; only for the others it is worth a word. */
function orNull(field) {
  return field.anyOf?.some((kind) => kind.type === "null") ? " or null" : "";
}

/** The type in words: strings and links. */
function typeOf(schema) {
  if (schema === true || !Object.keys(schema).length) return ["anything"];
  if (schema.$ref) return [link(nameOf(schema.$ref))];
  if ("const" in schema) return [make("code", {}, JSON.stringify(schema.const))];
  const either = schema.enum?.map((value) => ({ const: value })) ?? schema.anyOf ?? schema.oneOf;
  if (either) {
    const kinds = either.filter((kind) => kind.type !== "null").map(typeOf);
    return kinds.flatMap((kind, at) => (at ? [" or ", ...kind] : kind));
  }
  if (schema.allOf) return schema.allOf.flatMap(typeOf);
  if (schema.type === "array") return ["list of ", ...typeOf(schema.items ?? {}), bounds(schema)];
  const values = schema.additionalProperties;
  if (schema.type === "object" && values) return ["object of ", ...typeOf(values)];
  return [`${schema.type ?? "anything"}${bounds(schema)}`];
}

function fields(schema) {
  const required = new Set(schema.required ?? []);
  return make("dl", {}, ...Object.entries(schema.properties ?? {}).flatMap(([name, field]) => [
    make("dt", {}, make("code", {}, name), required.has(name) ? make("small", {}, "required") : null),
    make("dd", {}, ...typeOf(field), required.has(name) ? orNull(field) : ""),
  ]));
}

function object(name, schema) {
  return make("section.object", { id: anchor(name) },
    make("h3", {}, name),
    schema.description ? make("p", {}, ...prose(schema.description)) : null,
    schema.properties ? fields(schema) : make("p", {}, ...typeOf(schema)));
}

function answers(responses) {
  return make("dl", {}, ...Object.entries(responses).flatMap(([status, { description, content }]) => {
    const schema = content?.["application/json"]?.schema;
    const said = schema && Object.keys(schema).length ? [" ", ...typeOf(schema)] : [];
    return [make("dt", {}, make("code", {}, status)), make("dd", {}, ...prose(description), ...said)];
  }));
}

function route(method, path, operation) {
  const body = operation.requestBody?.content?.["application/json"]?.schema;
  return make("section.route", { id: anchor(`${method} ${path}`) },
    make("h3", {}, make("span", {}, method.toUpperCase()), path),
    make("p", {}, ...prose(operation.description ?? operation.summary ?? "")),
    body ? make("p", {}, "Takes ", ...typeOf(body), ".") : null,
    answers(operation.responses));
}

function contents(groups) {
  return groups.flatMap(([title, entries]) => [
    make("h2", {}, title),
    make("ul", {}, ...entries.map(([to, text]) => make("li", {}, make("a", { href: `#${to}` }, text)))),
  ]);
}

function draw({ info, paths, components }) {
  const operations = Object.entries(paths).flatMap(([path, methods]) => (
    Object.entries(methods).map(([method, operation]) => [method, path, operation])));
  const objects = Object.entries(components.schemas).sort(([one], [other]) => one.localeCompare(other));
  $("version").textContent = `API reference · ${info.version}`;
  $("contents").replaceChildren(...contents([
    ["Routes", operations.map(([method, path]) => [anchor(`${method} ${path}`), path])],
    ["Objects", objects.map(([name]) => [anchor(name), name])],
  ]));
  $("routes").replaceChildren(
    make("h2", {}, "Routes"), ...operations.map((operation) => route(...operation)),
    make("h2", {}, "Objects"), ...objects.map((entry) => object(...entry)));
  if (location.hash) $(location.hash.slice(1))?.scrollIntoView();
}

async function read() {
  try {
    draw(await api.schema());
  } catch (error) {
    $("routes").replaceChildren(make("p.error", { role: "alert" }, error.message));
    $("contents").replaceChildren();
  }
}

read();
