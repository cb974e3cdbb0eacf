// Colours as chosen, before anything is drawn. A classic script: a module would come after the first paint.
try {
  document.documentElement.dataset.theme = localStorage.getItem("segue.theme") ?? "";
} catch {
  // Storage is forbidden: the system's colours.
}
