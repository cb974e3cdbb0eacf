// Questions to the service. Whatever goes wrong is a Fault that says what, in words.

const BASE = new URL("v1/", document.baseURI);
const STORED = "segue.key";
const PATIENCE_MS = 20_000;

export const wants = new EventTarget(); // "key": a key is asked for; "offline" and "online": whether the service is reached

/** What went wrong. `kind`: the service's word, or `offline`, `slow`, `strange`. */
export class Fault extends Error {
  constructor(kind, message, { status = 0, fields = {}, requestId = "", wait = null } = {}) {
    super(message);
    Object.assign(this, { kind, status, fields, requestId, wait });
  }
}

export const key = {
  get: () => storage()?.getItem(STORED) ?? null,
  set: (value) => storage()?.setItem(STORED, value),
  forget: () => storage()?.removeItem(STORED),
};

/** The JSON that comes back; null for an empty answer. Raises Fault, or an AbortError when `signal` says so. */
export async function call(method, path, { body, query, signal } = {}) {
  const url = new URL(path, BASE);
  for (const [name, value] of Object.entries(query ?? {})) url.searchParams.set(name, value);
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  const late = AbortSignal.timeout(PATIENCE_MS);
  let response, text;
  try {
    const signals = signal ? AbortSignal.any([signal, late]) : late;
    response = await fetch(url, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), signal: signals, cache: "no-store", credentials: "omit", redirect: "error" });
    text = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    if (late.aborted) throw new Fault("slow", `No answer within ${PATIENCE_MS / 1000} seconds.`);
    wants.dispatchEvent(new Event("offline"));
    throw new Fault("offline", navigator.onLine ? "The service cannot be reached." : "This device is offline.");
  }
  wants.dispatchEvent(new Event("online"));
  const told = parsed(text);
  if (response.ok && told !== undefined) return told;
  const fault = read(response, told);
  if (response.status === 401) wants.dispatchEvent(new Event("key"));
  throw fault;
}

/** A path of parts that may hold anything, such as `items/a%2Fb/similar`. */
export const path = (...parts) => parts.map(encodeURIComponent).join("/");

/** A token that no other event has. `crypto.randomUUID` is missing on pages that came over plain HTTP. */
export function token() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function read(response, told) {
  const wait = Number(response.headers.get("Retry-After")) || null;
  const requestId = told?.request_id || response.headers.get("X-Request-ID") || "";
  const whole = { status: response.status, fields: told?.fields ?? {}, requestId, wait };
  if (typeof told?.error !== "string") return new Fault("strange", `The service answered with status ${response.status} and nothing that this page understands.`, whole);
  return new Fault(told.error, told.message ?? "", whole);
}

function parsed(text) {
  if (text === "") return null;
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function storage() {
  try {
    return window.sessionStorage;
  } catch {
    return null; // forbidden by the browser: the key is asked for again
  }
}
