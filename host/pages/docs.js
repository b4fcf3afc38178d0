"use strict";
(() => {
  const METHODS = ["get", "post", "put", "patch", "delete"];
  const JSON_TYPE = "application/json";
  const SCHEMA_PREFIX = "#/components/schemas/";
  const HIGHLIGHT_LENGTH_MAX = 200_000;
  const state = { document: null, token: "", etags: new Map(), operations: [] };
  const byId = (id) => document.getElementById(id);

  /** Make an element. `on*` properties are listeners, `data` is its dataset, false and null are left out. */
  function h(tag, properties, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties ?? {})) {
      if (value === false || value === null || value === undefined) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (name === "data") Object.assign(element.dataset, value);
      else if (name in element && typeof value !== "string") element[name] = value;
      else element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
    return element;
  }

  function icon(label, path) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    for (const [name, value] of Object.entries({ viewBox: "0 0 20 20", width: 15, height: 15, role: "img", "aria-label": label })) {
      svg.setAttribute(name, value);
    }
    const title = document.createElementNS(svg.namespaceURI, "title");
    title.textContent = label;
    const line = document.createElementNS(svg.namespaceURI, "path");
    line.setAttribute("d", path);
    svg.append(title, line);
    return svg;
  }

  /** Text with `code` and **strong** words, in paragraphs. Never HTML. */
  function prose(text) {
    return (text ?? "").split(/\n\s*\n/).filter((part) => part.trim()).map((part) => h("p", null, words(part)));
  }

  function words(text) {
    return text.split(/(`[^`]+`|\*\*[^*]+\*\*)/).map((piece) => {
      if (piece.startsWith("`") && piece.length > 2) return h("code", null, piece.slice(1, -1));
      if (piece.startsWith("**") && piece.length > 4) return h("strong", null, piece.slice(2, -2));
      return piece.replace(/\s*\n\s*/g, " ");
    });
  }

  function resolve(node) {
    const seen = new Set();
    let found = node ?? {};
    while (found.$ref && !seen.has(found.$ref)) {
      seen.add(found.$ref);
      const { $ref, ...beside } = found;
      const target = $ref.slice(2).split("/").reduce((at, key) => at?.[key.replaceAll("~1", "/").replaceAll("~0", "~")], state.document);
      found = { ...(target ?? {}), ...beside };
    }
    return found;
  }

  const refName = (schema) => (schema?.$ref?.startsWith(SCHEMA_PREFIX) ? schema.$ref.slice(SCHEMA_PREFIX.length) : "");

  // ------------------------------------------------------------------------------------------ schemas

  function typeName(schema) {
    if (schema === true || schema === undefined) return "anything";
    if (schema === false) return "nothing";
    const name = refName(schema);
    if (name) return name;
    if (schema.anyOf) return [...new Set(schema.anyOf.map(typeName))].join(" | ");
    if ("const" in schema) return JSON.stringify(schema.const);
    if (schema.type === "array") {
      if (schema.prefixItems) return `[${schema.prefixItems.map(typeName).join(", ")}]`;
      const inner = typeName(schema.items);
      return inner.includes(" ") ? `(${inner})[]` : `${inner}[]`;
    }
    if (schema.type === "object" && !schema.properties && schema.additionalProperties) return `{ [name]: ${typeName(schema.additionalProperties)} }`;
    const detail = schema.format ?? schema.contentEncoding;
    return [schema.type ?? "anything", detail].filter(Boolean).join(" · ");
  }

  function range(least, most, unit) {
    if (least !== undefined && most !== undefined) return least === most ? `exactly ${least}${unit}` : `${least} to ${most}${unit}`;
    if (most !== undefined) return `at most ${most}${unit}`;
    return least !== undefined ? `at least ${least}${unit}` : "";
  }

  /** A schema with what its only alternative besides null says. */
  function merged(schema) {
    const alternatives = (schema.anyOf ?? []).map(resolve).filter((node) => node.type !== "null");
    return { ...(alternatives.length === 1 ? alternatives[0] : {}), ...schema };
  }

  const shown = (value) => (typeof value === "string" && value !== "" ? value : JSON.stringify(value));

  function rules(schema, prefix = "") {
    const node = merged(schema);
    const exact = Number.MAX_SAFE_INTEGER;
    const least = node.minimum === -exact ? undefined : node.minimum;
    const most = node.maximum === exact ? undefined : node.maximum;
    const said = [
      range(least, most, ""),
      node.exclusiveMinimum !== undefined ? `above ${node.exclusiveMinimum}` : "",
      node.exclusiveMaximum !== undefined ? `below ${node.exclusiveMaximum}` : "",
      node.multipleOf !== undefined ? `a multiple of ${node.multipleOf}` : "",
      range(node.minLength, node.maxLength, " characters"),
      range(node.minItems, node.maxItems, " entries"),
      range(node.minProperties, node.maxProperties, " members"),
      node.uniqueItems ? "no entry twice" : "",
      node.writeOnly ? "never shown again" : "",
    ].filter(Boolean).map((text) => h("span", null, text));
    if (node.enum) said.push(h("span", null, "one of ", node.enum.flatMap((value, at) => [at ? " " : "", h("code", null, shown(value))])));
    if (node.pattern && !node.contentEncoding) said.push(h("span", null, "matches ", h("code", null, node.pattern)));
    if (node.default !== undefined) said.push(h("span", null, "default ", h("code", null, shown(node.default))));
    if (node.examples?.length) said.push(h("span", null, "such as ", h("code", null, shown(node.examples[0]))));
    return said.length ? h("p", { class: "rules" }, prefix, said.flatMap((part, at) => (at ? ["·", part] : [part]))) : null;
  }

  /** What can be opened inside a schema: objects and alternatives, behind arrays and references. */
  function inner(schema) {
    if (!schema || typeof schema !== "object") return [];
    const node = resolve(schema);
    if (node.anyOf) return node.anyOf.flatMap(inner);
    if (node.type === "array") return [...(node.prefixItems ?? []), node.items].flatMap(inner);
    if (node.properties) return [{ name: refName(schema), node }];
    if (node.enum && refName(schema)) return [{ name: refName(schema), node }];
    return node.additionalProperties ? inner(node.additionalProperties) : [];
  }

  /** `forRequest`: what must be sent is marked; in answers, what may be missing is. */
  function schemaTree(schema, { open = false, forRequest = false } = {}) {
    const found = inner(schema);
    if (found.length === 1 && open) return fieldList(found[0].node, forRequest);
    return found.map(({ name, node }) => fold(name ? `Show ${name}` : "Show fields", () => fieldList(node, forRequest), "variant"));
  }

  function fieldList(node, forRequest) {
    if (node.enum) return h("div", null, rules(node));
    const required = new Set(node.required ?? []);
    const items = Object.entries(node.properties ?? {}).map(([name, schema]) => fieldItem(name, schema, { required: required.has(name), forRequest }));
    return items.length ? h("ul", { class: "fields" }, items) : h("p", { class: "quiet" }, "An empty object.");
  }

  function fieldItem(name, schema, { required = false, forRequest = false, place = "" } = {}) {
    const node = merged(resolve(schema));
    const entry = node.type === "array" && node.items ? merged(resolve(node.items)) : null;
    const about = [node.description, inner(node.items).length ? "" : entry?.description].filter(Boolean);
    return h("li", null,
      h("div", { class: "field" },
        h("span", { class: "name" }, name),
        h("span", { class: "type" }, typeName(schema)),
        place ? h("span", { class: "place" }, place) : null,
        forRequest && required ? h("span", { class: "need" }, "required") : null,
        !forRequest && !required && !place ? h("span", { class: "place" }, "may be missing") : null),
      about.map((text) => h("div", { class: "about" }, prose(text))),
      rules(node),
      entry && !inner(node.items).length ? rules(entry, "each: ") : null,
      schemaTree(schema, { forRequest }));
  }

  /** Details whose content is made when they are first opened, so that types may contain themselves. */
  function fold(label, make, extra = "") {
    const element = h("details", { class: `fold ${extra}` }, h("summary", null, label));
    element.addEventListener("toggle", () => element.open && element.children.length === 1 && element.append(make()), { once: true });
    return element;
  }

  // ----------------------------------------------------------------------------------------- examples

  const SAMPLES = {
    uuid: "0190f3c2-7b1e-7cc0-9a55-2f6b3a1d4e5f",
    "date-time": "2026-01-31T09:30:00Z",
    "date-time-local": "2026-01-31T09:30:00",
    date: "2026-01-31",
    time: "09:30:00Z",
    "time-local": "09:30:00",
    duration: "PT90S",
    decimal: "12.50",
    password: "correct horse battery staple",
  };

  function example(schema, depth = 0) {
    const node = resolve(schema);
    if (node.examples?.length) return node.examples[0];
    if (node.default !== undefined && node.default !== null) return node.default;
    if ("const" in node) return node.const;
    if (node.enum) return node.enum[0];
    if (node.anyOf) return example(node.anyOf.find((branch) => resolve(branch).type !== "null") ?? {}, depth);
    if (depth > 6) return null;
    switch (node.type) {
      case "object":
        return Object.fromEntries(Object.entries(node.properties ?? {}).map(([name, inside]) => [name, example(inside, depth + 1)]));
      case "array":
        return node.prefixItems ? node.prefixItems.map((entry) => example(entry, depth + 1)) : [example(node.items ?? {}, depth + 1)];
      case "integer":
      case "number":
        return Math.max(node.minimum ?? -Infinity, 1) <= (node.maximum ?? Infinity) ? Math.max(node.minimum ?? 1, 1) : node.maximum;
      case "boolean":
        return true;
      case "null":
        return null;
      default:
        return SAMPLES[node.format] ?? "text".padEnd(node.minLength ?? 0, "…");
    }
  }

  /** An example to send: what is required, or one field where nothing is. */
  function requestExample(schema) {
    const node = resolve(schema);
    if (!node.properties) return example(schema);
    const required = new Set(node.required ?? []);
    const names = Object.keys(node.properties);
    const wanted = required.size ? names.filter((name) => required.has(name)) : names.slice(0, 1);
    return Object.fromEntries(wanted.map((name) => [name, example(node.properties[name])]));
  }

  const pretty = (value) => JSON.stringify(value, null, 2);

  function codeBlock(text, label, isJson = true) {
    const pre = h("pre", { tabindex: "0", "aria-label": label }, isJson && text.length <= HIGHLIGHT_LENGTH_MAX ? highlighted(text) : text);
    const copy = h("button", { type: "button", class: "small", onclick: async () => {
      await navigator.clipboard?.writeText(text);
      copy.textContent = "Copied";
      setTimeout(() => { copy.textContent = "Copy"; }, 1500);
    } }, "Copy");
    return h("div", { class: "code" }, pre, copy);
  }

  function highlighted(text) {
    const pieces = [];
    let end = 0;
    for (const match of text.matchAll(/("(?:[^"\\]|\\.)*")(\s*:)?|-?\b\d+(?:\.\d+)?(?:[eE][+-]?\d+)?\b|\b(?:true|false|null)\b/g)) {
      pieces.push(text.slice(end, match.index));
      const kind = match[2] ? "k" : match[1] ? "s" : /^[tfn]/.test(match[0]) ? "w" : "n";
      const token = match[1] ?? match[0];
      pieces.push(h("span", { class: kind }, token), match[2] ?? "");
      end = match.index + match[0].length;
    }
    return [...pieces, text.slice(end)];
  }

  // ---------------------------------------------------------------------------------------- operations

  function collect(source) {
    const found = [];
    for (const [path, item] of Object.entries(source.paths ?? {})) {
      for (const method of METHODS.filter((name) => item[name])) {
        const operation = item[method];
        const parameters = [...(item.parameters ?? []), ...(operation.parameters ?? [])].map(resolve);
        const text = [method, path, operation.operationId, operation.summary, operation["x-permission"]].join(" ").toLowerCase();
        found.push({ path, method, operation, parameters, text, tag: operation.tags?.[0] ?? "other", id: operation.operationId ?? `${method} ${path}` });
      }
    }
    return found;
  }

  function card(entry) {
    const { method, path, operation } = entry;
    const isPublic = Array.isArray(operation.security) && operation.security.length === 0;
    const lock = isPublic ? null : icon("Needs credentials", "M6 9V6a4 4 0 0 1 8 0v3M4.5 9h11v8h-11z");
    const element = h("details", { class: "card", id: entry.id, data: operation.deprecated ? { deprecated: "" } : {} },
      h("summary", null,
        h("span", { class: "method", data: { method } }, method.toUpperCase()),
        h("span", { class: "path" }, pathWords(path)),
        h("span", { class: "brief" }, operation.deprecated ? "Deprecated. " : "", words(operation.summary ?? "")),
        h("span", { class: "marks" }, lock)));
    element.addEventListener("toggle", () => {
      if (element.open && element.children.length === 1) element.append(inside(entry));
    });
    return element;
  }

  const pathWords = (path) => path.split(/(\{[^}]+\})/).map((piece) => (piece.startsWith("{") ? h("b", null, piece) : piece));

  function inside(entry) {
    const { operation, parameters } = entry;
    const body = operation.requestBody ? resolve(operation.requestBody) : null;
    return h("div", { class: "inside" },
      h("div", { class: "prose" }, operation.summary ? h("p", null, h("strong", null, words(operation.summary), ".")) : null, prose(operation.description)),
      parameters.length ? part("Parameters", h("ul", { class: "fields" }, parameters.map((p) => fieldItem(p.name, { ...p.schema, ...(p.description ? { description: p.description } : {}) }, { required: p.required, forRequest: true, place: p.in })))) : null,
      body ? bodyPart(body) : null,
      part("Answers", answers(operation)),
      tryPart(entry, body));
  }

  function part(title, ...content) {
    return h("section", { class: "part" }, h("h4", null, title), content);
  }

  function bodyPart(body) {
    const [kinds, media] = [Object.keys(body.content), Object.values(body.content)[0]];
    const title = h("header", null, h("h4", null, "Body"), h("span", { class: "place" }, kinds.join(" or "), body.required ? "" : ", may be left out"));
    return h("section", { class: "part" }, title, schemaTree(media.schema, { open: true, forRequest: true }),
      fold("Show an example", () => codeBlock(pretty(example(media.schema)), "Example of the body")));
  }

  function answers(operation) {
    const all = Object.entries(operation.responses ?? {});
    const isProblem = ([, response]) => "application/problem+json" in (resolve(response).content ?? {});
    const problems = all.filter(isProblem);
    return h("div", { class: "answers" },
      all.filter((one) => !isProblem(one)).map(([status, response]) => answer(status, resolve(response), true)),
      problems.length ? fold(`Show ${problems.length} kinds of problems`, () => h("div", { class: "answers variant" }, problems.map(([status, response]) => answer(status, resolve(response), false)))) : null);
  }

  function answer(status, response, open) {
    const media = Object.entries(response.content ?? {});
    const element = h("details", { class: "answer", open: open && media.length > 0 },
      h("summary", null,
        h("span", { class: "status", data: { kind: status[0] } }, status === "default" ? "other" : status),
        h("span", null, words(response.description ?? ""))),
      h("div", null,
        headerList(response.headers),
        media.map(([kind, { schema, example: given }]) => [
          h("p", { class: "place" }, kind, inner(schema ?? {}).length ? "" : ` · ${typeName(schema)}`),
          schemaTree(schema ?? {}, { open }),
          inner(schema ?? {}).length ? fold("Show an example", () => codeBlock(pretty(given ?? example(schema)), `Example of answer ${status}`)) : null,
        ])));
    return element;
  }

  function headerList(headers) {
    const told = Object.entries(headers ?? {}).filter(([name]) => name !== "X-Request-Id");
    if (!told.length) return null;
    return h("ul", { class: "fields" }, told.map(([name, header]) => {
      const { schema, description } = resolve(header);
      return fieldItem(name, { ...schema, description }, { place: "header" });
    }));
  }

  // ------------------------------------------------------------------------------------------- trying

  function tryPart(entry, body) {
    const holder = h("section", { class: "part" });
    const open = h("button", { type: "button", class: "plain", onclick: () => {
      holder.replaceChildren(h("h4", null, "Try it"), form(entry, body));
      holder.querySelector("input, textarea, button")?.focus();
    } }, "Try it");
    holder.append(h("div", { class: "actions" }, open));
    return holder;
  }

  function control(parameter, prefix) {
    const schema = parameter.schema ?? {};
    const id = `${prefix}:${parameter.in}:${parameter.name}`;
    const choices = schema.enum ?? (schema.type === "boolean" ? [true, false] : null);
    const input = choices
      ? h("select", { id }, parameter.required ? null : h("option", { value: "" }, "—"), choices.map((value) => h("option", { value: String(value) }, String(value))))
      : h("input", { id, type: "text", autocomplete: "off", spellcheck: "false", placeholder: placeholder(schema) });
    if (parameter.required && !choices && schema.examples) input.value = schema.examples[0];
    const label = h("label", { for: id }, h("span", { class: "label" }, parameter.name, parameter.required ? " *" : ""), input);
    return { parameter, input, label };
  }

  function placeholder(schema) {
    if (schema.default !== undefined) return String(schema.default);
    return schema.type === "array" ? "one, two" : String(SAMPLES[schema.format] ?? schema.type ?? "");
  }

  function form(entry, body) {
    const controls = entry.parameters.filter((p) => p.in !== "cookie").map((p) => control(p, entry.id));
    const schema = body ? Object.values(body.content)[0].schema : null;
    const area = body ? h("textarea", { id: `${entry.id}:body`, spellcheck: "false" }, pretty(requestExample(schema))) : null;
    const outcome = h("div", { class: "outcome", role: "status" });
    const send = h("button", { type: "submit", class: "primary" }, "Send");
    const curl = h("button", { type: "button", class: "plain", onclick: () => outcome.replaceChildren(codeBlock(asCurl(request(entry, controls, area, body)), "curl command", false)) }, "Show as curl");
    const whole = h("form", { class: "try" },
      controls.length ? h("div", { class: "inputs" }, controls.map((one) => one.label)) : null,
      area ? h("label", { class: "wide", for: area.id }, h("span", { class: "label" }, "Body"), area) : null,
      h("div", { class: "actions" }, send, curl),
      outcome);
    whole.addEventListener("submit", async (event) => {
      event.preventDefault();
      send.disabled = true;
      await run(request(entry, controls, area, body), outcome, controls);
      send.disabled = false;
    });
    return whole;
  }

  function request(entry, controls, area, body) {
    let path = entry.path;
    const query = [];
    const headers = { Accept: JSON_TYPE };
    for (const { parameter, input } of controls) {
      const value = input.value;
      if (parameter.in === "path") path = path.replace(`{${parameter.name}}`, encodeURIComponent(value));
      else if (value !== "" && parameter.in === "header") headers[parameter.name] = value;
      else if (value !== "") for (const one of many(parameter, value)) query.push(`${encodeURIComponent(parameter.name)}=${encodeURIComponent(one)}`);
    }
    if (state.token) headers.Authorization = `Bearer ${state.token}`;
    else if (entry.method !== "get") Object.assign(headers, csrfHeader());
    if (area && area.value.trim()) headers["Content-Type"] = Object.keys(body.content)[0];
    const text = area && area.value.trim() ? area.value : undefined;
    return { method: entry.method.toUpperCase(), url: query.length ? `${path}?${query.join("&")}` : path, path, headers, body: text };
  }

  const many = (parameter, value) => (parameter.schema?.type === "array" ? value.split(",").map((one) => one.trim()).filter(Boolean) : [value]);

  function csrfHeader() {
    const found = document.cookie.split("; ").find((one) => one.startsWith("pk_csrf="));
    return found ? { "X-CSRF-Token": decodeURIComponent(found.slice("pk_csrf=".length)) } : {};
  }

  function asCurl({ method, url, headers, body }) {
    const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;
    const lines = [`curl -X ${method} ${quote(new URL(url, location.href).href)}`];
    for (const [name, value] of Object.entries(headers)) {
      lines.push(`-H ${name === "Authorization" ? `"Authorization: Bearer $TOKEN"` : quote(`${name}: ${value}`)}`);
    }
    if (body !== undefined) lines.push(`--data ${quote(body)}`);
    return lines.join(" \\\n  ");
  }

  async function run(wanted, outcome, controls) {
    const begin = performance.now();
    try {
      const response = await fetch(wanted.url, { method: wanted.method, headers: wanted.headers, body: wanted.body, credentials: "same-origin", cache: "no-store" });
      const text = await response.text();
      remember(wanted.path, response, controls);
      outcome.replaceChildren(...result(response, text, performance.now() - begin));
    } catch (error) {
      outcome.replaceChildren(h("p", { class: "error" }, `No answer: ${error.message}`));
    }
  }

  /** Keep the version that was read, and offer it where a change needs it. */
  function remember(path, response, controls) {
    const etag = response.headers.get("ETag");
    if (etag) state.etags.set(response.headers.get("Location") ?? path, etag);
    const field = controls.find(({ parameter }) => parameter.name === "If-Match");
    if (field && state.etags.has(path) && (response.ok || !field.input.value)) field.input.value = state.etags.get(path);
  }

  function result(response, text, took) {
    const value = parsed(text);
    const told = ["ETag", "Location", "Retry-After", "X-Request-Id"].filter((name) => response.headers.get(name));
    return [
      h("div", { class: "line" },
        h("span", { class: "status", data: { kind: String(response.status)[0] } }, `${response.status} ${response.statusText}`),
        h("span", { class: "place" }, `${Math.round(took)} ms`),
        told.map((name) => h("span", { class: "place" }, `${name}: `, h("code", null, response.headers.get(name))))),
      text ? codeBlock(value === undefined ? text : pretty(value), "Body of the answer", value !== undefined) : h("p", { class: "quiet" }, "No content."),
      typeof value?.access_token === "string" ? h("div", { class: "actions" }, h("button", { type: "button", class: "plain", onclick: (event) => {
        setToken(value.access_token);
        event.target.replaceWith(h("span", { class: "quiet" }, "Requests carry this token now."));
      } }, "Use this access token")) : null,
    ].filter(Boolean);
  }

  function parsed(text) {
    try { return JSON.parse(text); } catch { return undefined; }
  }

  // ---------------------------------------------------------------------------------------- the page

  function setToken(token) {
    state.token = token.trim();
    byId("access-label").textContent = state.token ? "Authorized" : "Authorize";
    if (state.token) byId("access").dataset.on = "";
    else delete byId("access").dataset.on;
  }

  function tags() {
    const known = (state.document.tags ?? []).map((tag) => tag.name);
    const used = [...new Set(state.operations.map((entry) => entry.tag))];
    return [...known.filter((name) => used.includes(name)), ...used.filter((name) => !known.includes(name))];
  }

  function showIntro() {
    const { info, components } = state.document;
    document.title = `${info.title} · API reference`;
    byId("brand").textContent = info.title;
    byId("version").textContent = info.version;
    const count = Object.keys(components?.schemas ?? {}).length;
    byId("intro").replaceChildren(
      h("h1", null, info.title),
      h("div", { class: "prose" }, prose(info.description)),
      h("p", { class: "quiet" }, `${state.operations.length} operations, ${count} schemas. The document: `, h("a", { href: document.body.dataset.document }, "openapi.json"), "."));
  }

  function showGroups() {
    const about = Object.fromEntries((state.document.tags ?? []).map((tag) => [tag.name, tag.description]));
    const groups = tags().map((tag) => h("section", { class: "group", "aria-label": tag },
      h("header", null, h("h2", null, tag), about[tag] ? h("p", null, words(about[tag])) : null),
      state.operations.filter((entry) => entry.tag === tag).map((entry) => (entry.card = card(entry)))));
    byId("groups").replaceChildren(...groups, schemasGroup());
  }

  function schemasGroup() {
    const cards = Object.entries(state.document.components?.schemas ?? {}).map(([name, schema]) => {
      const element = h("details", { class: "card", id: `schema:${name}` },
        h("summary", null, h("span", { class: "path" }, name), h("span", { class: "brief" }, words((schema.description ?? "").split("\n")[0])), h("span")));
      element.addEventListener("toggle", () => {
        if (element.open && element.children.length === 1) {
          element.append(h("div", { class: "inside" }, h("div", { class: "prose" }, prose(schema.description)), fieldList(schema, schema.additionalProperties === false), codeBlock(pretty(schema), `JSON Schema of ${name}`)));
        }
      });
      return element;
    });
    return h("section", { class: "group", "aria-label": "Schemas" }, h("header", null, h("h2", null, "Schemas")), cards);
  }

  /** `iam.create_user` is "Create user" in the index, where a whole summary would not fit. */
  function shortName(entry) {
    const name = entry.id.split(".").at(-1).replaceAll("_", " ");
    return name.charAt(0).toUpperCase() + name.slice(1);
  }

  function showIndex() {
    const groups = tags().map((tag) => {
      const links = state.operations.filter((entry) => entry.tag === tag).map((entry) => {
        entry.link = h("a", { href: `#${encodeURIComponent(entry.id)}`, title: entry.operation.summary },
          h("span", { class: "method", data: { method: entry.method } }, entry.method === "delete" ? "DEL" : entry.method.toUpperCase()),
          h("span", null, shortName(entry)));
        return (entry.row = h("li", null, entry.link));
      });
      return h("details", { class: "index-group", open: true }, h("summary", null, tag, h("span", { class: "tally" }, String(links.length))), h("ul", null, links));
    });
    byId("index").replaceChildren(...groups);
  }

  function filter() {
    const wanted = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const entry of state.operations) {
      const fits = wanted.every((word) => entry.text.includes(word));
      entry.row.hidden = entry.card.hidden = !fits;
      count += fits ? 1 : 0;
    }
    for (const group of document.querySelectorAll(".index-group, .group")) {
      group.hidden = wanted.length > 0 && !group.querySelector("li:not([hidden]) > a[href], .card:not([hidden])");
    }
    document.querySelector('.group[aria-label="Schemas"]').hidden = wanted.length > 0;
    byId("count").textContent = wanted.length ? `${count} of ${state.operations.length} operations` : "";
  }

  function goTo(hash) {
    const id = decodeURIComponent(hash.slice(1));
    const target = id && byId(id);
    if (!(target instanceof HTMLDetailsElement)) return;
    closeMenu();
    target.open = true;
    target.scrollIntoView({ block: "start" });
    target.querySelector("summary").focus({ preventScroll: true });
    for (const entry of state.operations) {
      if (entry.id === id) entry.link.setAttribute("aria-current", "true");
      else entry.link.removeAttribute("aria-current");
    }
  }

  function closeMenu() {
    delete byId("sidebar").dataset.open;
    document.querySelector(".menu").setAttribute("aria-expanded", "false");
  }

  function wire() {
    const menu = document.querySelector(".menu");
    menu.addEventListener("click", () => {
      const open = !("open" in byId("sidebar").dataset);
      if (open) byId("sidebar").dataset.open = "";
      else closeMenu();
      menu.setAttribute("aria-expanded", String(open));
    });
    byId("search").addEventListener("input", filter);
    document.addEventListener("keydown", (event) => {
      const typing = event.target.closest("input, textarea, select, dialog");
      if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
        event.preventDefault();
        byId("search").focus();
      } else if (event.key === "Escape" && event.target === byId("search")) {
        byId("search").value = "";
        filter();
      } else if (event.key === "Escape" && !typing) closeMenu();
    });
    addEventListener("hashchange", () => goTo(location.hash));
    wireCredentials();
  }

  function wireCredentials() {
    const dialog = byId("credentials");
    const field = byId("token");
    byId("access").addEventListener("click", () => {
      field.value = state.token;
      dialog.showModal();
      field.focus();
    });
    byId("reveal").addEventListener("click", ({ currentTarget }) => {
      const isPlain = field.type === "text";
      field.type = isPlain ? "password" : "text";
      currentTarget.textContent = isPlain ? "Show" : "Hide";
      currentTarget.setAttribute("aria-pressed", String(!isPlain));
    });
    dialog.querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      setToken(event.submitter?.value === "forget" ? "" : field.value);
      dialog.close();
    });
    field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      setToken(field.value);
      dialog.close();
    });
  }

  async function start() {
    wire();
    const place = document.body.dataset.document;
    try {
      const response = await fetch(place, { credentials: "same-origin", headers: { Accept: JSON_TYPE } });
      if (!response.ok) throw new Error(`${place} answered ${response.status}`);
      state.document = await response.json();
    } catch (error) {
      byId("intro").replaceChildren(h("h1", null, "API reference"), h("p", { class: "notice", role: "alert" }, `The document could not be read: ${error.message}. Reload the page to try again.`));
      return;
    }
    state.operations = collect(state.document);
    showIntro();
    showGroups();
    showIndex();
    goTo(location.hash);
  }

  start();
})();
