// Applies the stored color scheme before the first paint; a module script would run too late.
try {
  document.documentElement.dataset.theme = localStorage.getItem("segue.theme") ?? "";
} catch {
  // storage is blocked: use the system's color scheme
}
