// Client of the HTTP API. All failures are thrown as ApiError with a readable message.

const BASE = new URL("v1/", document.baseURI);
const STORAGE_KEY = "segue.key";
const TIMEOUT_MS = 20_000;

export const connection = new EventTarget(); // "key": an API key is required; "offline" and "online": reachability changed

/** Failed request. `kind`: error code of the service, or `offline`, `timeout`, `unexpected`. */
export class ApiError extends Error {
  constructor(kind, message, { status = 0, fields = {}, requestId = "", retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { kind, status, fields, requestId, retryAfter });
  }
}

export const key = {
  get: () => storage()?.getItem(STORAGE_KEY) ?? null,
  set: (value) => storage()?.setItem(STORAGE_KEY, value),
  remove: () => storage()?.removeItem(STORAGE_KEY),
};

/** Send a request and return the JSON of the response, null if empty. Throws ApiError, or AbortError after `signal`. */
export async function call(method, path, { body, query, signal } = {}) {
  const url = new URL(path, BASE);
  for (const [name, value] of Object.entries(query ?? {})) url.searchParams.set(name, value);
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  const timeout = AbortSignal.timeout(TIMEOUT_MS);
  let response, text;
  try {
    const signals = signal ? AbortSignal.any([signal, timeout]) : timeout;
    response = await fetch(url, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), signal: signals, cache: "no-store", credentials: "omit", redirect: "error" });
    text = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    if (timeout.aborted) throw new ApiError("timeout", `No response within ${TIMEOUT_MS / 1000} seconds.`);
    connection.dispatchEvent(new Event("offline"));
    throw new ApiError("offline", navigator.onLine ? "The service cannot be reached." : "This device is offline.");
  }
  connection.dispatchEvent(new Event("online"));
  const data = parseJson(text);
  if (response.ok && data !== undefined) return data;
  if (response.status === 401) connection.dispatchEvent(new Event("key"));
  throw toApiError(response, data);
}

/** Join path segments that may contain any character, such as `items/a%2Fb/similar`. */
export const path = (...parts) => parts.map(encodeURIComponent).join("/");

/** Create a unique idempotency key. `crypto.randomUUID` is missing on pages served over plain HTTP. */
export function createKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function toApiError(response, data) {
  const retryAfter = Number(response.headers.get("Retry-After")) || null;
  const requestId = data?.request_id || response.headers.get("X-Request-ID") || "";
  const details = { status: response.status, fields: data?.fields ?? {}, requestId, retryAfter };
  if (typeof data?.error !== "string") return new ApiError("unexpected", `The service responded with status ${response.status} and an unexpected body.`, details);
  return new ApiError(data.error, data.message ?? "", details);
}

function parseJson(text) {
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
    return null; // blocked by the browser: the key must be entered again after a reload
  }
}
